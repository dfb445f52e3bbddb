//! A share on a machine that stops answering: everything else goes on, and the VM ends when asked.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use system_tests::{Engine, Stage};

/// Guests of an emulated machine are slow, in the kvm engine's case inside another one.
const PATIENCE: Duration = Duration::from_secs(400);

/// What goes on in the guest; the share hangs from `hung` on.
const SCRIPT: &str = r#"
test "$(cat /away/file)" = contents && touch ready
until [ -e hung ]; do sleep 0.1; done
for n in 1 2 3 4 5 6; do cat /away/file >/dev/null 2>&1 & done
dd if=/dev/zero of=/away/file conv=fsync bs=4k count=1 >/dev/null 2>&1 &
sleep 1
echo data >new && sync new && mkdir folder && mv new folder && ls folder >listed && touch enough
"#;

pub fn share_that_hangs_leaves_the_rest_alone_and_lets_the_vm_end(stage: &Stage) -> Result<()> {
    let project = stage.project();
    let (away, flag) = (stage.folder().join("away"), stage.folder().join("flag"));
    fs::create_dir(&away)?;
    let server = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("lab/hanging-fs.py");
    let mut run = stage.run(&format!("{SCRIPT}sleep 1000"));
    run.args(["--mount", &format!("{}:/away", away.display())]).patience(PATIENCE);
    // The server outlives the program by a little, so that its end helps nobody.
    run.through_script(&format!(
        "(cd /; exec python3 '{}' '{}' '{}') >served 2>&1 &
         until grep -q mounted served; do sleep 0.1; done
         setsid sh -c 'while kill -0 $1 2>/dev/null; do sleep 0.2; done; kill $2' sh $$ $! >/dev/null 2>&1 &
         exec \"$@\"",
        server.display(),
        away.display(),
        flag.display(),
    ));
    let started = run.start()?;
    let wait = |name: &str| {
        let path = project.join(name);
        system_tests::until(name, PATIENCE, || Ok(path.exists().then_some(())))
    };
    wait("ready")?;
    fs::write(&flag, "")?;
    fs::write(project.join("hung"), "")?;
    wait("enough")?;
    ensure!(fs::read(project.join("listed"))? == b"new\n" && fs::read(project.join("folder/new"))? == b"data\n");
    let asked = Instant::now();
    started.signal(Signal::TERM)?;
    let finished = started.finish()?;
    let took = asked.elapsed();
    // An emulated machine inside another one gets more than the five seconds a VM may take.
    let limit = Duration::from_secs(if stage.engine() == Engine::Kvm { 30 } else { 5 });
    ensure!(took < limit, "it took {took:?} to end; {finished}");
    Ok(())
}
