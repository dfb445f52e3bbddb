//! Eventfds received from somebody else.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use vmm_sys_util::eventfd::EventFd;

/// Wraps a descriptor that arrived over a socket. Whether it really is an eventfd is the sender's affair: on any other
/// descriptor its operations fail or move eight bytes.
pub fn eventfd_from(fd: OwnedFd) -> EventFd {
    // SAFETY: `into_raw_fd` gives up the descriptor, so `EventFd` becomes its only owner.
    unsafe { EventFd::from_raw_fd(fd.into_raw_fd()) }
}
