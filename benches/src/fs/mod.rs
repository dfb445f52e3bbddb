//! `bench fs`: the same work on folders that are shared, on the guest's own disk and on the host, in turns.
//!
//! Started by `benches/fs`, which also says how to reach the workers: processes that run `fs-load` (`load.rs`)
//! somewhere and pass its standard input and output on. [`plan`] is what is measured, [`compare`] asks for it in turns.

mod compare;
mod plan;
mod worker;

pub use compare::{Args, run};
