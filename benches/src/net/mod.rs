//! `bench net`: the same guest behind different network stacks, measured in turns.
//!
//! Two processes of this program take part besides the guests: [`vm`] runs a guest behind our stack, [`compare`] is
//! what the guests talk to and what tells them what to measure. The guests run `net-load` (`load.rs`). Everything is
//! started by `benches/net`, in namespaces that lead nowhere.

mod compare;
mod goal;
mod guest;
mod peer;
mod plan;
mod vm;

pub use compare::{Args as CompareArgs, run as compare};
pub use vm::{Args as VmArgs, run as run_vm};
