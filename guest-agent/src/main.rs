//! `/init` of the guest; also its own helper, when called by that name.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use guest_agent::{control, exec::helper};

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    match words.next() {
        Some(name) if name == helper::EXEC => helper::exec(words.collect::<Vec<OsString>>()),
        Some(name) if name == helper::CHROOT => helper::chroot(words.collect::<Vec<OsString>>()),
        _ if std::process::id() == 1 => control::run(),

        _ => {
            eprintln!("The guest agent runs as PID 1 of a guest; there is nothing to do here");
            ExitCode::FAILURE
        }
    }
}
