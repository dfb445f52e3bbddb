//! A user at a terminal.

use std::fs;

use anyhow::{Result, ensure};
use system_tests::{Stage, Terminal};

pub fn programs_own_the_terminal(stage: &Stage) -> Result<()> {
    let terminal = Terminal::open(stage.folder(), 100, 30)?;
    let shell = stage.run_in(&stage.project(), ["env", "PS1=guest:", "bash", "--norc", "--noprofile"]);
    terminal.start(&shell, "; echo outer=$?; stty -a | grep -o ' icanon'")?;
    terminal.wait_for("\nguest:")?; // at the start of a line: the typed command holds it too
    terminal.type_line("echo $((6*7))rows; stty size; tty >/dev/null && echo is-a-terminal")?;
    terminal.wait_for("30 100")?;
    terminal.wait_for("is-a-terminal")?;

    terminal.resize(111, 41)?;
    terminal.type_line("sleep 1; stty size")?;
    terminal.wait_for("41 111")?;

    // One line for both: an editor swallows what is typed while it ends.
    terminal.type_line("vim note.txt; echo back=$?")?;
    terminal.wait_for("~")?;
    terminal.type_text("ihello from vim")?;
    terminal.wait_for("hello from vim")?;
    terminal.press("Escape")?;
    terminal.type_line(":wq")?;
    terminal.wait_for("back=0")?;
    ensure!(fs::read(stage.project().join("note.txt"))? == b"hello from vim\n");

    // The sum tells the program's words from the shell's echo: it has the terminal when they appear.
    terminal.type_line("sh -c 'echo $((40+2))asleep; exec sleep 1000'")?;
    terminal.wait_for("42asleep")?;
    terminal.press("C-c")?;
    terminal.type_line("echo interrupted=$?")?;
    terminal.wait_for("interrupted=130")?;

    terminal.type_line("sh -c 'echo $((50+2))asleep; exec sleep 1000'")?;
    terminal.wait_for("52asleep")?;
    terminal.press("C-z")?;
    terminal.wait_for("Stopped")?;
    terminal.type_line("kill %1; wait; echo jobs=$(jobs -r | wc -l)")?;
    terminal.wait_for("jobs=0")?;

    terminal.type_line("exit 7")?;
    terminal.wait_for("outer=7")?;
    terminal.wait_for(" icanon")
}
