//! Bad input: one clear error, status 125, nothing left behind (the runner looks for that after every case).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rustix::process::getuid;
use system_tests::{Finished, Stage, User};

/// Status of vmm's own failures.
const FAILED: i32 = 125;

/// Checks that the program failed as it should: with the right status, in few lines, with `words` in the first.
fn refused(finished: &Finished, words: &[&str]) -> Result<()> {
    finished.ended_with(FAILED)?;
    let lines: Vec<&str> = finished.stderr.lines().filter(|line| line.starts_with("vmm: ")).collect();
    ensure!(lines.len() == 1, "not one error line but {}; {finished}", lines.len());
    ensure!(!finished.stderr.contains("panicked"), "{finished}");
    for word in words {
        ensure!(lines.iter().any(|line| line.contains(word)), "{word:?} is not in the error; {finished}");
    }
    Ok(())
}

pub fn neither_kvm_nor_qemu(stage: &Stage) -> Result<()> {
    let mut run = stage.run("true");
    run.args(["--engine", "auto"]);
    let run = run.through_script("mount --bind /dev/null /dev/kvm; export PATH=/nonexistent; exec \"$@\"");
    refused(&run.finish()?, &["qemu-system-x86_64", "kvm"])?;
    let mut run = stage.run("true");
    run.args(["--engine", "qemu"]).through_script("export PATH=/nonexistent; exec \"$@\"");
    refused(&run.finish()?, &["qemu-system-x86_64"])
}

pub fn kvm_without_permission(stage: &Stage) -> Result<()> {
    let mut run = stage.run("true");
    run.args(["--engine", "kvm"]);
    let run = stage.as_user(User::Stranger, &run)?;
    refused(&run.finish()?, &["/dev/kvm", "kvm"])
}

pub fn bad_kernels(stage: &Stage) -> Result<()> {
    let kernel = stage.folder().join("kernel");
    let with = |kernel: &PathBuf| stage.run("true").args(["--kernel".as_ref(), kernel.as_os_str()]).finish();
    refused(&with(&kernel)?, &["kernel"])?;
    fs::write(&kernel, "")?;
    refused(&with(&kernel)?, &["kernel"])?;
    fs::write(&kernel, "not a kernel".repeat(10_000))?;
    refused(&with(&kernel)?, &["kernel"])?;
    // An ELF file whose segments lie beyond its end.
    let mut head = vec![0; 4096];
    File::open("/proc/self/exe")?.read_exact(&mut head)?;
    fs::write(&kernel, head)?;
    refused(&with(&kernel)?, &["kernel"])
}

pub fn bad_images(stage: &Stage) -> Result<()> {
    let image = stage.folder().join("image");
    let with = |image: &PathBuf| stage.run("true").args(["--image".as_ref(), image.as_os_str()]).finish();
    refused(&with(&image)?, &["image"])?;
    fs::write(&image, "not an image".repeat(10_000))?;
    refused(&with(&image)?, &["image"])?;
    let real = stage.image()?;
    let mut head = vec![0; 64 << 10];
    File::open(&real)?.read_exact(&mut head)?;
    let mut file = File::create(&image)?;
    file.write_all(&head)?;
    refused(&with(&image)?, &["image"])?;
    // As long as it says it is, and empty after the first pages: only the guest can find that out.
    file.set_len(real.metadata()?.len())?;
    refused(&with(&image)?, &["guest"]).context("an image that is damaged inside")
}

pub fn impossible_sizes(stage: &Stage) -> Result<()> {
    for (option, value, word) in
        [("--memory", "100T", "memory"), ("--memory", "0", "memory"), ("--cpus", "0", "cpus"), ("--cpus", "33", "cpus")]
    {
        refused(&stage.run("true").args([option, value]).finish()?, &[word])?;
    }
    Ok(())
}

pub fn bad_projects(stage: &Stage) -> Result<()> {
    let missing = stage.folder().join("missing");
    refused(&stage.run_in(&missing, ["true"]).finish()?, &["missing"])?;
    fs::write(&missing, "")?;
    refused(&stage.run_in(&missing, ["true"]).finish()?, &["missing"])?;
    let closed = stage.folder().join("closed");
    fs::create_dir(&closed)?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000))?;
    let run = stage.run_in(&closed, ["true"]);
    // Root may read everything.
    let run = if getuid().is_root() { stage.as_user(User::OfKvmGroup, &run)? } else { run };
    let finished = run.finish()?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700))?;
    refused(&finished, &["closed"])
}
