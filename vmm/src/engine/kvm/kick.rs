//! Getting a vCPU thread out of KVM_RUN from another thread.
//!
//! A signal alone can arrive just before the thread enters KVM_RUN, and be lost. So the kicker first sets
//! `immediate_exit` in the vCPU's shared page, where KVM looks on every entry, and then sends the signal for the case
//! that the guest is running already. Nobody ever clears the flag: a kicked vCPU is to stop.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{register_signal_handler, unblock_signal};

use super::stop::Stop;
use super::system::host;
use crate::Error;

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the handler of the kick signal, which does nothing: an unhandled one would end the process. Doing it again
/// is harmless.
pub(super) fn install_handler() -> Result<(), Error> {
    register_signal_handler(libc::SIGRTMIN(), ignore).map_err(host("Installing the handler of SIGRTMIN"))
}

/// What it takes to kick one vCPU thread; valid while its `Registration` lives.
#[derive(Debug)]
pub(super) struct Target {
    thread: libc::pthread_t,
    immediate_exit: *const AtomicU8,
}

// SAFETY: the pointer leads to memory shared with the kernel, is only used through an atomic, and `Registration`
// keeps it valid (see `kick`); `pthread_t` is a number.
unsafe impl Send for Target {}

impl Target {
    /// Makes the vCPU leave KVM_RUN, or not enter it.
    pub(super) fn kick(&self) {
        // SAFETY: targets are only reachable under the lock of `Stop`, and leave it (in `Registration::drop`, under
        // the same lock) before the vCPU's page is unmapped.
        unsafe { &*self.immediate_exit }.store(1, Ordering::SeqCst);
        // SAFETY: for the same reason the thread is alive. An error would mean that there is nobody to kick.
        unsafe { libc::pthread_kill(self.thread, libc::SIGRTMIN()) };
    }

    fn is(&self, other: libc::pthread_t) -> bool {
        self.thread == other
    }
}

/// Keeps the calling thread's vCPU among those to be kicked; must be dropped before the vCPU is.
#[derive(Debug)]
pub(super) struct Registration {
    stop: Arc<Stop>,
    thread: libc::pthread_t,
    /// It speaks of the thread that made it.
    _not_send: PhantomData<*const ()>,
}

impl Registration {
    /// Registers `vcpu`, which the calling thread is about to run.
    pub(super) fn new(stop: &Arc<Stop>, vcpu: &mut VcpuFd) -> Self {
        // The thread may have inherited a mask that blocks the signal.
        if let Err(error) = unblock_signal(libc::SIGRTMIN()) {
            tracing::warn!("Cannot unblock SIGRTMIN, stopping may wait for the guest: {error:?}");
        }
        // SAFETY: always succeeds.
        let thread = unsafe { libc::pthread_self() };
        let immediate_exit = (&raw mut vcpu.get_kvm_run().immediate_exit).cast_const().cast();
        stop.register(Target { thread, immediate_exit });
        Self { stop: stop.clone(), thread, _not_send: PhantomData }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.stop.unregister(|target| target.is(self.thread));
    }
}
