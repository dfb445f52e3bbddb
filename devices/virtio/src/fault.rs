//! Whose fault it is decides what happens next.

use std::io;

/// Why a device stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The guest broke the protocol: the device goes to NEEDS_RESET, the VM lives on.
    #[error("Guest misused queue {queue}: {what}")]
    Guest {
        /// Queue index the misuse was seen on.
        queue: u16,
        /// What the guest did, for one log line.
        what: &'static str,
    },
    /// The ring itself is unusable, which is the guest's fault too.
    #[error("Ring {queue} is unusable")]
    Ring {
        /// Queue index of the ring.
        queue: u16,
        /// What the ring's checks said.
        #[source]
        source: virtio_queue::Error,
    },
    /// The host side failed: the worker ends and the VM's policy decides.
    #[error("Host side of the device failed")]
    Host(#[from] io::Error),
}
