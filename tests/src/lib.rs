//! Harness of the whole-system tests: runs the built `vmm` program against real guests, one case after the other, and
//! checks after each that nothing was left behind.
//!
//! The cases are plain functions in `tests/system/`, the same for both engines. `VMM_TEST_ENGINE` says which: with
//! `qemu` they run here; with `kvm` the program starts the lab (`tests/lab/kvm`) once and runs itself again in there.
#![forbid(unsafe_code)]

mod conversation;
mod invocation;
mod lab;
mod leftovers;
mod patience;
mod progress;
mod runner;
mod stage;
mod terminal;
mod watch;

pub use conversation::{Conversation, quoted};
pub use invocation::{Finished, Invocation, Started};
pub use patience::{NOTICE, until, waited};
pub use runner::{Case, main};
pub use stage::{Engine, Stage, User};
pub use terminal::Terminal;

/// The cases by their paths: `cases![module::function, …]`.
#[macro_export]
macro_rules! cases {
    ($($path:path),* $(,)?) => { &[$($crate::Case { name: stringify!($path), run: $path }),*] };
}
