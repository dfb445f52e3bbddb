//! `vmm doctor`: what this machine offers, the evidence, and the remedy where something is missing.

use std::io::{self, Write};

use launcher::{Dirs, Error, Image};
use serde::Serialize;

use crate::args::DoctorArgs;

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    is_ok: bool,
    /// What was found, or what is wrong and what to do about it.
    finding: String,
}

impl Check {
    fn new(name: &'static str, is_ok: bool, finding: String) -> Self {
        Self { name, is_ok, finding }
    }
}

/// Prints the checks; status 1 if `vmm run` cannot work.
pub fn run(args: &DoctorArgs) -> Result<u8, Error> {
    let found = vmm::probe();
    let qemu = match found.qemu.version() {
        Ok(version) => format!("{} ({version})", found.qemu),
        Err(_) => found.qemu.to_string(),
    };
    let engine = match (found.kvm.is_usable(), found.qemu.is_usable()) {
        (true, _) => Check::new("engine", true, "kvm is what --engine auto takes".into()),
        (false, true) => Check::new("engine", true, "qemu is what --engine auto takes (CPUs are emulated)".into()),
        (false, false) => Check::new("engine", false, "no engine can be used; see kvm and qemu above".into()),
    };
    let can_run = engine.is_ok;
    let image = image();
    let can_boot = image.is_ok;
    let landlock = Check::new("landlock", found.landlock.is_usable(), found.landlock.to_string());
    let kvm = Check::new("kvm", found.kvm.is_usable(), found.kvm.to_string());
    let checks = [kvm, Check::new("qemu", found.qemu.is_usable(), qemu), engine, landlock, image];
    print(&checks, args.json).map_err(|source| Error::Host { doing: "Printing the result", source })?;
    Ok(u8::from(!(can_run && can_boot)))
}

fn image() -> Check {
    match Dirs::from_env().and_then(|dirs| Image::open(None, &dirs)) {
        Ok(image) => Check::new("image", true, image.path().display().to_string()),
        Err(error) => Check::new("image", false, error.to_string()),
    }
}

fn print(checks: &[Check], is_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if is_json {
        return writeln!(out, "{}", serde_json::to_string_pretty(checks)?);
    }
    for Check { name, is_ok, finding } in checks {
        let verdict = if *is_ok { "ok" } else { "--" };
        writeln!(out, "{verdict}  {name:8} {finding}")?;
    }
    Ok(())
}
