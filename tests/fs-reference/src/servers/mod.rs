//! The servers, each behind a virtqueue of its own with a guest in front.

mod fuse_backend;
mod queue;
mod virtiofsd;

use std::path::Path;
use std::time::Duration;

use devices::fs::test_kit::{Backend, Guest, MINOR, ROOT, SHARE, folders, queues};
use devices::fs::{Access, Fs, Share};
use tempfile::TempDir;
use virtio::Ram;
use virtio::test_kit::{DriverQueue, Inline, ram};

/// What a session is begun with: everything but the long form of SETXATTR.
pub const FEATURES: u64 = !(1 << 29);

/// How long names and attributes are good: as long as with ours.
const VALID: Duration = Duration::from_secs(1);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// This project's.
    Ours,
    /// The one that QEMU's users have.
    Virtiofsd,
    /// The one of Kata's and Dragonfly's users.
    FuseBackend,
}

impl Kind {
    /// All, ours first.
    pub const ALL: [Self; 3] = [Self::Ours, Self::Virtiofsd, Self::FuseBackend];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Virtiofsd => "virtiofsd",
            Self::FuseBackend => "fuse-backend-rs",
        }
    }

    /// The node of the share's root: ours has a root above all shares.
    pub fn root(self) -> u64 {
        if self == Self::Ours { SHARE } else { ROOT }
    }

    /// A guest in a session with a server of the folder `0` in `host`.
    pub fn serve(self, host: TempDir) -> Guest<Box<dyn Backend>> {
        self.serve_through(host, |server| server)
    }

    /// The same with something between queue and server.
    pub fn serve_through(
        self,
        host: TempDir,
        wrap: impl FnOnce(Box<dyn Backend>) -> Box<dyn Backend>,
    ) -> Guest<Box<dyn Backend>> {
        let ram = ram();
        let queues = queues(&ram);
        let share = host.path().join("0");
        let [_, requests] = &queues;
        let server: Box<dyn Backend> = match self {
            Self::Ours => Box::new(ours(&share, &ram, &queues)),
            Self::Virtiofsd => Box::new(virtiofsd::Server::new(&share, &ram, requests)),
            Self::FuseBackend => Box::new(fuse_backend::Server::new(&share, &ram, requests)),
        };
        let [_, driver] = queues;
        let mut guest = Guest::of(wrap(server), driver, host);
        guest.init_with(MINOR, FEATURES).expect("a session");
        guest
    }
}

fn ours(share: &Path, ram: &Ram, queues: &[DriverQueue]) -> Inline {
    let share = Share::open(share, Access::ReadWrite).expect("a folder");
    Inline::start(Box::new(Fs::new(vec![share]).expect("a device")), ram, queues)
}

/// A folder of the host with an empty share in it.
pub fn host() -> TempDir {
    folders(&[Access::ReadWrite]).0
}
