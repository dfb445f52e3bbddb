//! Sudden ends: of vmm, of the guest's kernel, of its agent, and of the user's patience.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use system_tests::{Stage, Started, until};

/// How long a guest may take to start a command.
const START: Duration = Duration::from_secs(120);
/// How soon vmm must be gone after Ctrl-C.
const PROMPT: Duration = Duration::from_secs(10);

/// A command that says when it runs, and then runs for ever.
fn endless(stage: &Stage) -> Result<Started> {
    let started = stage.run("echo >ready; exec sleep 100000").start()?;
    let ready = stage.project().join("ready");
    until("the command", START, || Ok(ready.exists().then_some(())))?;
    Ok(started)
}

pub fn killed_vmm_leaves_nothing(stage: &Stage) -> Result<()> {
    let started = endless(stage)?;
    started.signal(Signal::KILL)?;
    started.finish()?.ended_with(-9)?;
    // The lock of the VM's name is the kernel's, so the next command sees that the socket is nobody's.
    let status = stage.vmm(["status"]).finish()?.succeeded()?;
    ensure!(status.starts_with("No VM is running"), "{status}");
    // The runner finds what is left: processes, and files in the folders for state, sockets and temporary files.
    Ok(())
}

pub fn panicking_kernel_is_reported(stage: &Stage) -> Result<()> {
    let finished = stage.run("echo c >/proc/sysrq-trigger; sleep 1000").finish()?;
    finished.ended_with(125)?;
    ensure!(finished.stderr.contains("panic"), "the panic is not named; {finished}");
    Ok(())
}

pub fn dying_agent_is_reported(stage: &Stage) -> Result<()> {
    // The kernel protects PID 1 from signals, not from root writing nonsense over its memory. The agent trips over it
    // when it wakes up for the end of this command.
    let crash = r#"
import re
with open("/proc/1/maps") as maps, open("/proc/1/mem", "r+b", buffering=0) as memory:
    for line in maps.read().splitlines():
        if " r-xp " in line or " rw-p " in line:
            start, end = (int(word, 16) for word in re.match("([0-9a-f]+)-([0-9a-f]+)", line).groups())
            try:
                memory.seek(start)
                memory.write(b"\xcc" * (end - start))
            except OSError:
                pass
"#;
    let finished = stage.run_in(&stage.project(), ["python3", "-c", crash]).finish()?;
    finished.ended_with(125)?;
    ensure!(finished.stderr.lines().any(|line| line.starts_with("vmm: ")), "{finished}");
    Ok(())
}

pub fn ctrl_c_at_every_phase_of_the_start(stage: &Stage) -> Result<()> {
    const STEPS: u32 = 10;
    let begun = Instant::now();
    let ready = stage.project().join("ready");
    let started = endless(stage)?;
    let whole = begun.elapsed();
    started.signal_group(Signal::INT)?;
    started.finish()?.ended_with(130)?;
    for step in 0..STEPS {
        std::fs::remove_file(&ready).or_else(|error| if ready.exists() { Err(error) } else { Ok(()) })?;
        let started = stage.run("echo >ready; exec sleep 100000").start()?;
        // Phases are moments of a start: this is about all of them, not about waiting for a state.
        std::thread::sleep(whole * step / STEPS);
        started.signal_group(Signal::INT)?;
        let at = Instant::now();
        let finished = started.finish()?;
        let context = || format!("Ctrl-C after {step}/{STEPS} of {whole:?}: {finished}");
        // -2: it came before vmm took over signals.
        ensure!(matches!(finished.status, 130 | -2), "{}", context());
        ensure!(at.elapsed() < PROMPT, "it took {:?}; {}", at.elapsed(), context());
        ensure!(!finished.stderr.contains("panicked"), "{}", context());
        stage.nothing_left().with_context(context)?;
    }
    Ok(())
}

pub fn what_nohup_ignores_stays_ignored(stage: &Stage) -> Result<()> {
    let mut invocation = stage.run("echo >ready; sleep 1; echo survived");
    invocation.through(["sh", "-c", "trap '' HUP INT; exec \"$@\"", "sh"]);
    let started = invocation.start()?;
    until("the command", START, || Ok(stage.project().join("ready").exists().then_some(())))?;
    started.signal_group(Signal::HUP)?;
    started.signal_group(Signal::INT)?;
    let finished = started.finish()?;
    ensure!(finished.succeeded()? == "survived", "{finished}");
    Ok(())
}
