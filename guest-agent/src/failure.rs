//! What went wrong while the guest was set up, in words for the host's user.

use std::fmt::Display;

/// A step of the boot that failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {cause}")]
pub struct Failure {
    step: String,
    cause: String,
}

impl Failure {
    /// A failure without a cause below it.
    pub fn new(step: impl Into<String>, cause: impl Display) -> Self {
        Self { step: step.into(), cause: cause.to_string() }
    }
}

/// Names the step a result belongs to.
pub trait During<T> {
    /// `step` is what could not be done: "Cannot mount /proc".
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Display> During<T> for Result<T, E> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|cause| Failure::new(step(), cause))
    }
}
