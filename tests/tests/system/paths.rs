//! Project paths.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Result, ensure};
use system_tests::Stage;

pub fn any_byte_may_stand_in_a_project_path(stage: &Stage) -> Result<()> {
    let name = OsStr::from_bytes(b"sp ace \xc3\xa4\xe2\x82\xac \xff\xfe 'quote\" $dollar *");
    let project = stage.folder().join(name);
    fs::create_dir(&project)?;
    stage.make_repository(&project)?;
    let run = stage.run_in(&project, ["sh", "-c", "git status --short >/dev/null && pwd && touch here"]);
    let finished = run.finish()?;
    finished.ended_with(0)?;
    let mut expected = project.as_os_str().as_bytes().to_vec();
    expected.push(b'\n');
    ensure!(finished.stdout == expected, "the command ran in another folder: {finished}");
    ensure!(project.join("here").exists());
    Ok(())
}

pub fn project_in_a_folder_of_the_guest_is_moved(stage: &Stage) -> Result<()> {
    let project = tempfile::tempdir_in("/tmp")?;
    let finished = stage.run_in(project.path(), ["sh", "-c", "pwd && touch here"]).finish()?;
    ensure!(finished.succeeded()? == "/workspace", "{finished}");
    ensure!(finished.stderr.contains("/workspace"), "it does not say so: {finished}");
    ensure!(project.path().join("here").exists());
    Ok(())
}
