//! A guest that is told of changes on the host.

use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tempfile::TempDir;
use virtio::test_kit::{Local, Transport, ram};
use zerocopy::FromBytes;

use super::guest::{Guest, MINOR, SHARE, folders, queues};
use crate::fs::notice::Notice;
use crate::fs::wire::OutHeader;
use crate::fs::{Access, Fs, Notifier, Share};

/// Longer than any message takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Listener {
    guest: Guest,
    notifier: Notifier,
    notices: Option<UnixStream>,
}

impl Listener {
    /// A guest that has one writable share and is told nothing yet. What the test itself does in a share is somebody else's
    /// doing, as there might be another guest in this process.
    pub(super) fn deaf() -> Self {
        let (host, shares) = folders(&[Access::ReadWrite]);
        Self::serving(shares, host, 1, u64::MAX)
    }

    /// One that is told, and has looked into its share.
    pub(super) fn new() -> Self {
        let mut listener = Self::deaf();
        listener.listen();
        listener.lookup(SHARE, b"anything").unwrap();
        listener
    }

    /// One that is told, with no other guest in this process.
    pub(super) fn alone() -> Self {
        let (host, shares) = folders(&[Access::ReadWrite]);
        let mut listener = Self::serving(shares, host, 0, u64::MAX);
        listener.listen();
        listener
    }

    /// A guest of these shares and with these features, and so many others in this process.
    pub(super) fn serving(shares: Vec<Share>, host: TempDir, others: usize, features: u64) -> Self {
        let fs = Fs::among(shares, Box::leak(Box::new(AtomicUsize::new(others)))).unwrap();
        let notifier = fs.notifier();
        let ram = ram();
        let queues = queues(&ram);
        let mut device = Local::serve(Box::new(fs), &ram);
        device.start(0, &queues);
        let [_, driver] = queues;
        let mut guest = Guest::of(device, driver, host);
        guest.init_with(MINOR, features).unwrap();
        Self { guest, notifier, notices: None }
    }

    /// Takes messages from now on.
    pub(super) fn listen(&mut self) {
        let (ours, guests) = UnixStream::pair().unwrap();
        guests.set_read_timeout(Some(PATIENCE)).unwrap();
        self.notifier.connect(ours).unwrap();
        self.notices = Some(guests);
        assert_eq!(self.next_notice(), bytes(&Notice::Everything));
    }

    /// Takes no messages any longer.
    pub(super) fn turn_away(&mut self) {
        drop(self.notices.take());
    }

    /// Messages up to one that has to come.
    pub(super) fn told_until(&mut self, last: &Notice) -> Vec<Vec<u8>> {
        let last = bytes(last);
        std::iter::repeat_with(|| self.next_notice()).take_while(|message| *message != last).collect()
    }

    pub(super) fn next_notice(&mut self) -> Vec<u8> {
        let stream = self.notices.as_mut().expect("listening");
        let mut head = [0; size_of::<OutHeader>()];
        stream.read_exact(&mut head).expect("a message in time");
        let length = usize::try_from(OutHeader::read_from_bytes(&head).unwrap().len).unwrap();
        let mut body = vec![0; length - head.len()];
        stream.read_exact(&mut body).expect("a whole message");
        [&head[..], &body].concat()
    }
}

impl Deref for Listener {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl DerefMut for Listener {
    fn deref_mut(&mut self) -> &mut Guest {
        &mut self.guest
    }
}

/// A message as it is sent.
pub(super) fn bytes(notice: &Notice) -> Vec<u8> {
    let mut out = Vec::new();
    notice.write(&mut out);
    out
}
