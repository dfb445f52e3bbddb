//! The worker's end of the stream to the guest's kernel.
//!
//! Nothing here waits for the guest: what it does not take is kept up to a bound, and beyond that forgotten and made up
//! for by one message that everything is out of date.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use virtio::Watch;
use vmm_sys_util::epoll::EventSet;

use super::notice::Notice;
use super::notifier::{Mailbox, Notifier};

/// Events of the outbox: there is a stream; the stream takes more, or has ended.
pub(super) const CONNECTED: u16 = 0x100;
pub(super) const STREAM: u16 = 0x101;

/// Bytes kept for a guest that is slow to take them: some thousand messages.
const MAX_WAITING: usize = 256 << 10;

/// Messages for the guest.
#[derive(Debug)]
pub(super) struct Outbox {
    mailbox: Arc<Mailbox>,
    link: Option<Link>,
}

#[derive(Debug)]
struct Link {
    stream: UnixStream,
    waiting: Vec<u8>,
    /// The worker is waiting for room in the stream.
    is_full: bool,
    /// Some messages were not kept.
    is_incomplete: bool,
}

impl Outbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { mailbox: Mailbox::new()?, link: None })
    }

    /// Where streams come from.
    pub(super) fn notifier(&self) -> Notifier {
        self.mailbox.notifier()
    }

    pub(super) fn start(&self, watch: &mut dyn Watch) -> io::Result<()> {
        watch.add(self.mailbox.bell(), CONNECTED, EventSet::IN)
    }

    /// Somebody takes the messages.
    pub(super) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// `CONNECTED` or `STREAM` happened.
    pub(super) fn on_event(&mut self, token: u16, watch: &mut dyn Watch) -> io::Result<()> {
        if token == CONNECTED {
            if let Some(stream) = self.mailbox.take() {
                self.disconnect(watch);
                watch.add(stream_fd(&stream), STREAM, WAITING_FOR_THE_END)?;
                self.link = Some(Link { stream, waiting: Vec::new(), is_full: false, is_incomplete: false });
                // Of what was told before, some may have changed while nobody took messages.
                self.send(&[Notice::Everything], watch)?;
            }
            return Ok(());
        }
        if self.link.as_mut().is_some_and(Link::has_ended) {
            self.disconnect(watch);
        }
        self.flush(watch)
    }

    /// Sends messages, or keeps them until they can be sent.
    pub(super) fn send(&mut self, notices: &[Notice], watch: &mut dyn Watch) -> io::Result<()> {
        let Some(link) = &mut self.link else { return Ok(()) };
        for notice in notices {
            link.keep(notice);
        }
        self.flush(watch)
    }

    fn flush(&mut self, watch: &mut dyn Watch) -> io::Result<()> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let was_full = link.is_full;
        match link.flush() {
            Ok(()) if link.is_full == was_full => Ok(()),
            Ok(()) => {
                let room = if link.is_full { EventSet::OUT } else { EventSet::empty() };
                watch.modify(stream_fd(&link.stream), STREAM, WAITING_FOR_THE_END | room)
            }
            Err(error) => {
                tracing::debug!(%error, "The guest no longer takes messages about changed files");
                self.disconnect(watch);
                Ok(())
            }
        }
    }

    /// The guest the stream leads to is gone.
    pub(super) fn reset(&mut self, watch: &mut dyn Watch) {
        // Fails when it is not watched.
        let _ = watch.remove(self.mailbox.bell(), CONNECTED);
        self.disconnect(watch);
    }

    fn disconnect(&mut self, watch: &mut dyn Watch) {
        if let Some(link) = self.link.take() {
            // Fails when the worker stopped watching it by itself.
            let _ = watch.remove(stream_fd(&link.stream), STREAM);
        }
    }
}

const WAITING_FOR_THE_END: EventSet = EventSet::IN.union(EventSet::READ_HANG_UP);

fn stream_fd(stream: &UnixStream) -> std::os::fd::BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(stream)
}

impl Link {
    fn keep(&mut self, notice: &Notice) {
        if self.is_incomplete || self.waiting.len() >= MAX_WAITING {
            self.is_incomplete = true;
        } else {
            notice.write(&mut self.waiting);
        }
    }

    /// Sends as much as the stream takes.
    fn flush(&mut self) -> Result<(), Errno> {
        loop {
            if self.waiting.is_empty() {
                self.is_full = false;
                if !std::mem::take(&mut self.is_incomplete) {
                    return Ok(());
                }
                Notice::Everything.write(&mut self.waiting);
            }
            match send(&self.stream, &self.waiting, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(Errno::AGAIN) => {
                    self.is_full = true;
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the reader hung up. It has nothing to say; whatever comes is thrown away.
    fn has_ended(&mut self) -> bool {
        let mut noise = [0; 512];
        match rustix::io::read(&self.stream, &mut noise) {
            Ok(0) => true,
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::os::fd::BorrowedFd;

    use super::*;

    /// What is waited for, by token.
    #[derive(Default)]
    struct Watched(BTreeMap<u16, EventSet>);

    impl Watch for Watched {
        fn add(&mut self, _fd: BorrowedFd<'_>, token: u16, events: EventSet) -> io::Result<()> {
            assert_eq!(self.0.insert(token, events), None);
            Ok(())
        }

        fn modify(&mut self, _fd: BorrowedFd<'_>, token: u16, events: EventSet) -> io::Result<()> {
            self.0.insert(token, events).map(drop).ok_or(io::ErrorKind::NotFound.into())
        }

        fn remove(&mut self, _fd: BorrowedFd<'_>, token: u16) -> io::Result<()> {
            self.0.remove(&token).map(drop).ok_or(io::ErrorKind::NotFound.into())
        }
    }

    struct Setting {
        outbox: Outbox,
        watched: Watched,
    }

    impl Setting {
        fn new() -> Self {
            let mut setting = Self { outbox: Outbox::new().unwrap(), watched: Watched::default() };
            setting.outbox.start(&mut setting.watched).unwrap();
            setting
        }

        fn connect(&mut self) -> UnixStream {
            let (ours, guests) = UnixStream::pair().unwrap();
            guests.set_nonblocking(true).unwrap();
            self.outbox.notifier().connect(ours).unwrap();
            self.happens(CONNECTED);
            guests
        }

        fn happens(&mut self, token: u16) {
            self.outbox.on_event(token, &mut self.watched).unwrap();
        }

        fn send(&mut self, notice: Notice) {
            self.outbox.send(&[notice], &mut self.watched).unwrap();
        }
    }

    fn bytes(notices: &[Notice]) -> Vec<u8> {
        let mut out = Vec::new();
        notices.iter().for_each(|notice| notice.write(&mut out));
        out
    }

    fn received(stream: &mut UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count) = stream.read(&mut piece)
            && count > 0
        {
            all.extend_from_slice(&piece[..count]);
        }
        all
    }

    const CHANGE: Notice = Notice::Node { node: 5, contents: true };

    #[test]
    fn whoever_connects_first_hears_that_everything_is_out_of_date() {
        let mut setting = Setting::new();
        setting.send(CHANGE);
        let mut guest = setting.connect();
        setting.send(CHANGE);
        assert_eq!(received(&mut guest), bytes(&[Notice::Everything, CHANGE]));
        let mut second = setting.connect();
        assert_eq!(guest.read(&mut [0; 1]).unwrap(), 0, "the first has ended");
        assert_eq!(received(&mut second), bytes(&[Notice::Everything]));
    }

    #[test]
    fn slow_reader_gets_what_was_kept_and_then_starts_over() {
        let mut setting = Setting::new();
        let mut guest = setting.connect();
        let before = (2 * MAX_WAITING).div_ceil(bytes(&[CHANGE]).len()) * 2;
        (0..before).for_each(|_| setting.send(CHANGE));
        assert_eq!(setting.watched.0[&STREAM], WAITING_FOR_THE_END | EventSet::OUT);
        let mut all = Vec::new();
        while setting.watched.0[&STREAM] != WAITING_FOR_THE_END {
            all.extend(received(&mut guest));
            setting.happens(STREAM);
        }
        all.extend(received(&mut guest));
        let everything = bytes(&[Notice::Everything]);
        assert!(all.starts_with(&everything) && all.ends_with(&everything));
        let between = &all[everything.len()..all.len() - everything.len()];
        assert!(between.len() < before * bytes(&[CHANGE]).len());
        assert!(between.chunks(40).all(|message| message == bytes(&[CHANGE])));
        setting.send(CHANGE);
        assert_eq!(received(&mut guest), bytes(&[CHANGE]));
    }

    #[test]
    fn end_of_the_reader_is_noticed() {
        let mut setting = Setting::new();
        drop(setting.connect());
        setting.happens(STREAM);
        assert!(!setting.outbox.is_connected());
        assert!(!setting.watched.0.contains_key(&STREAM));
        let chatty = setting.connect();
        rustix::io::write(&chatty, b"noise").unwrap();
        setting.happens(STREAM);
        assert!(setting.outbox.is_connected());
    }

    #[test]
    fn reset_ends_the_stream_and_lets_another_come() {
        let mut setting = Setting::new();
        let mut guest = setting.connect();
        setting.outbox.reset(&mut setting.watched);
        assert!(setting.watched.0.is_empty());
        assert_eq!(received(&mut guest), bytes(&[Notice::Everything]));
        setting.outbox.start(&mut setting.watched).unwrap();
        setting.connect();
        assert!(setting.outbox.is_connected());
    }

    #[test]
    fn device_that_is_gone_takes_no_stream() {
        let notifier = Outbox::new().unwrap().notifier();
        let (ours, _guests) = UnixStream::pair().unwrap();
        assert_eq!(notifier.connect(ours).unwrap_err().kind(), io::ErrorKind::NotConnected);
    }
}
