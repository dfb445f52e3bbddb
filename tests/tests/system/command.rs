//! Commands: files, statuses, streams, signals.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::{Signal, getuid};
use system_tests::{Engine, Stage, until};

/// A megabyte as pipes are measured.
const MB: usize = 1_000_000;

pub fn result_file_is_on_the_host_and_git_works(stage: &Stage) -> Result<()> {
    let project = stage.project();
    stage.make_repository(&project)?;
    let status = stage
        .run("git status --short --branch && echo hi > new && mkdir -p deep/er && mv new deep/er/new")
        .finish()?
        .succeeded()?;
    ensure!(status.starts_with("## "), "git status said {status:?}");
    let file = project.join("deep/er/new");
    ensure!(fs::read(&file)? == b"hi\n");
    for path in [file, project.join("deep")] {
        ensure!(path.metadata()?.uid() == getuid().as_raw(), "{} belongs to another user", path.display());
    }
    Ok(())
}

pub fn exit_statuses_are_the_commands_own(stage: &Stage) -> Result<()> {
    let project = stage.project();
    fs::write(project.join("not-executable"), "text")?;
    let not_executable = "./not-executable";
    for (command, status) in [
        (vec!["true"], 0),
        (vec!["sh", "-c", "exit 7"], 7),
        (vec!["sh", "-c", "kill -TERM $$"], 128 + 15),
        (vec!["sh", "-c", "kill -KILL $$"], 128 + 9),
        (vec![not_executable], 126),
        (vec!["no-such-command"], 127),
    ] {
        stage.run_in(&project, command).finish()?.ended_with(status)?;
    }
    Ok(())
}

pub fn streams_stay_apart_and_stdin_ends(stage: &Stage) -> Result<()> {
    let script = "tr a-z A-Z; echo trouble >&2; test -t 0 || echo no terminal; echo \"$GREETING\"";
    let mut run = stage.run(script);
    let finished = run.args(["--quiet", "--env", "GREETING=two words"]).stdin("some text\n").finish()?;
    finished.ended_with(0)?;
    ensure!(finished.text() == "SOME TEXT\nno terminal\ntwo words", "{finished}");
    ensure!(finished.stderr == "trouble\n", "{finished}");
    Ok(())
}

pub fn two_hundred_megabytes_cross_both_ways(stage: &Stage) -> Result<()> {
    let bytes = noise(200 * MB);
    let mut run = stage.run("tee copy | sha256sum >sum; head -c 200000000 copy");
    let finished = run.stdin(bytes.clone()).patience(Duration::from_secs(1000)).finish()?;
    ensure!(finished.status == 0, "it ended with {}: {}", finished.status, finished.stderr);
    ensure!(finished.stdout == bytes, "{} bytes came back, and not the same", finished.stdout.len());
    let sum = |folder: &std::path::Path| -> Result<String> {
        let output = std::process::Command::new("sha256sum").stdin(fs::File::open(folder.join("copy"))?).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let of_guest = fs::read_to_string(stage.project().join("sum"))?;
    ensure!(of_guest == sum(&stage.project())?, "the guest read something else: {of_guest}");
    ensure!(fs::read(stage.project().join("copy"))? == bytes, "the copy in the project differs");
    Ok(())
}

pub fn signal_to_vmm_reaches_the_command(stage: &Stage) -> Result<()> {
    let started =
        stage.run("trap 'echo asked to end; exit 3' TERM; echo >ready; while :; do sleep 0.1; done").start()?;
    let ready = stage.project().join("ready");
    until("the command", Duration::from_secs(120), || Ok(ready.exists().then_some(())))?;
    started.signal(Signal::TERM)?;
    let finished = started.finish()?;
    finished.ended_with(3)?;
    ensure!(finished.text() == "asked to end", "{finished}");
    Ok(())
}

pub fn programs_lie_at_random_addresses_but_in_an_emulated_guest(stage: &Stage) -> Result<()> {
    let script = "for start in 1 2 3; do grep -m 1 -F libc.so /proc/self/maps | cut -d - -f 1; done | sort -u | wc -l";
    let count = |before: &str| -> Result<String> { stage.run(&format!("{before}{script}")).finish()?.succeeded() };
    let is_emulated = stage.engine() == Engine::Qemu;
    ensure!((count("")? == "1") == is_emulated, "libc lies at other places than the README says");
    // And whoever wants it, may have it.
    ensure!(count("sysctl -qw kernel.randomize_va_space=2; ")? != "1");
    Ok(())
}

pub fn the_image_holds_what_it_promises(stage: &Stage) -> Result<()> {
    let tools = "claude curl cc c++ make gh git jq less node npm python3 rg ssh sudo ps ip ping vim mkfs.ext4 unzip xz";
    let script = format!(
        "for tool in {tools}; do command -v $tool >/dev/null || echo missing $tool; done
         claude --version; python3 -c 'import ssl, venv'; git -C / config safe.directory
         id -u; echo $HOME; locale charmap; df --output=size -B1G / | tail -1
         for path in /etc/machine-id /etc/ssh/ssh_host_rsa_key; do test ! -e $path || echo $path; done
         apt-get --version >/dev/null && echo x >/usr/local/writable && cat /usr/local/writable"
    );
    let text = stage.run(&script).finish()?.succeeded()?;
    let mut lines = text.lines();
    ensure!(lines.next().is_some_and(|line| line.ends_with("(Claude Code)")), "{text}");
    ensure!(lines.next() == Some("*") && lines.next() == Some("0") && lines.next() == Some("/root"), "{text}");
    ensure!(lines.next() == Some("UTF-8"), "{text}");
    let size: u64 = lines.next().unwrap_or_default().trim().parse()?;
    ensure!((18..=20).contains(&size), "the writable disk has {size} GiB");
    ensure!(lines.next() == Some("x") && lines.next().is_none(), "{text}");
    Ok(())
}

/// Bytes without a pattern that a lost or doubled block could hide in.
fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}
