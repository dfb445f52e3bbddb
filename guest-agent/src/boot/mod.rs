//! From the kernel's first process to a guest as the host described it.
//!
//! [`kernel_filesystems`] is all that talking to the host needs; [`set_up`] does the rest in the order the kernel's
//! objects depend on each other. What an image may lack is a warning, what the host asked for and cannot be had is a
//! [`Failure`]. Nothing here waits for anything but the kernel.

mod disk;
mod file;
mod mount;
mod root;
mod share;
mod system;

use std::os::fd::OwnedFd;

use agent_protocol::bytes::Text;
use agent_protocol::control::Mark;
use agent_protocol::setup::Setup;

use crate::exec::monotonic_ns;
use crate::failure::Failure;
use crate::net;

pub use mount::kernel_filesystems;
pub(crate) use system::set_clock;

/// What a boot leaves behind for the report and the shutdown.
#[derive(Debug, Default)]
pub struct Boot {
    /// Moments reached since the last report.
    pub marks: Vec<Mark>,
    /// What was left out.
    pub warnings: Vec<Text>,
    /// Whether the kernel takes notices of what changed in the shares.
    pub takes_notices: bool,
    /// The mount of the writable disk, out of sight of the guest's programs.
    pub upper: Option<OwnedFd>,
}

impl Boot {
    /// Remembers when something was reached.
    pub fn mark(&mut self, name: &str) {
        self.marks.push(Mark { name: Text::new(name), at_ns: monotonic_ns() });
    }

    /// Remembers that something optional failed.
    pub(crate) fn tolerate<T>(&mut self, result: Result<T, Failure>) {
        if let Err(failure) = result
            && self.warnings.len() < agent_protocol::control::MAX_WARNINGS
        {
            self.warnings.push(Text::new(failure.to_string()));
        }
    }

    /// Makes the guest what the host asked for. `prepare_shares` comes before the shares: who owns them can be looked
    /// up then.
    pub fn set_up(
        &mut self,
        setup: &Setup,
        prepare_shares: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        system::set_clock(setup.unix_ns)?;
        system::set_hostname(&setup.hostname)?;
        system::raise_limits(self);
        self.upper = root::mount(setup)?;
        self.mark("root mounted");
        mount::run_time_filesystems(self)?;
        for tmpfs in &setup.tmpfs {
            mount::tmpfs(tmpfs)?;
        }
        prepare_shares()?;
        share::mount(&setup.shares)?;
        self.mark("shares mounted");
        net::up(setup.network.as_ref(), self)?;
        self.mark("network up");
        system::write_files(setup, self)?;
        system::set_sysctls(&setup.sysctls, self);
        Ok(())
    }
}
