//! Waiting for what happens outside this process, with a limit.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long the guest may take to hear of what the host does to its files, on a machine that is busy otherwise or emulates
/// another one. What is not told at all it would believe for a day; how fast it is told, is what a bench measures.
pub const NOTICE: Duration = Duration::from_secs(30);

/// How often a state is looked at that nobody announces.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `look` finds something; an error that names `what` if that takes longer than `limit`.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        thread::sleep(LOOK);
    }
}

/// True if `is_so` becomes true within `limit`.
pub fn waited(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    until("", limit, || Ok(is_so().then_some(()))).is_ok()
}
