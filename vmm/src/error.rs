//! Everything that can go wrong, in words for the user.

use std::io;
use std::path::PathBuf;

/// Why a VM could not be built, started or run on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value in the configuration cannot work.
    #[error("Invalid {field}: {reason}")]
    Config {
        /// The field of [`crate::VmConfig`].
        field: &'static str,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// A file the VM needs cannot be used.
    #[error("Cannot use {what} {}", path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel image is not one we can boot.
    #[error("Cannot boot the kernel: {0}")]
    Kernel(String),
    /// The chosen engine is not usable here.
    #[error("The {engine} engine cannot be used: {reason}")]
    Engine {
        /// `kvm` or `qemu`.
        engine: &'static str,
        /// What was found and what to do.
        reason: String,
    },
    /// [`Engine::Auto`](crate::Engine::Auto) found none that works.
    #[error("No engine can be used here. kvm: {kvm}. qemu: {qemu}")]
    NoEngine {
        /// Why not the kvm engine, and what to do.
        kvm: String,
        /// Why not the qemu engine, and what to do.
        qemu: String,
    },
    /// A step on the host failed.
    #[error("{doing} failed")]
    Host {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
