//! The host's loopback follows the guest's listeners: `--auto-publish`.
//!
//! The guest's reports are untrusted: nothing below port 1024 is taken, nothing that the host uses, so many ports and
//! no more, and changes at a bounded rate, however often the guest changes its mind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netstack::Transport;

use super::board::Board;
use super::mailbox::Mailbox;
use super::spec::PortSpec;

/// Ports that need no privilege begin here, and services that people expect on well-known ones end.
const FIRST_PORT: u16 = 1024;
/// Ports at a time.
const MAX_PORTS: usize = 64;
/// Changes at once, and how long it takes until a further one may be made.
const BURST: u32 = 16;
const REFILL: Duration = Duration::from_millis(500);
/// Between two rounds, whatever the guest says.
const ROUND: Duration = Duration::from_millis(100);
/// When a port that the host was using is tried again.
const RETRY: Duration = Duration::from_secs(10);
const STACK: usize = 128 << 10;

/// What became of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It leads to the guest now.
    Came,
    /// It does not any more: nothing in the guest listens on it.
    Went,
    /// It cannot, because of this.
    Refused(String),
    /// Changes wait: there are too many of them.
    Paused,
}

/// Something for the user to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The port, the same in the guest and on the host.
    pub port: u16,
    /// What became of it.
    pub change: Change,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.change {
            Change::Came => write!(f, "port {port} of the guest is published: http://localhost:{port}"),
            Change::Went => write!(f, "port {port} of the guest is published no longer: nothing listens on it"),
            Change::Refused(why) => write!(f, "port {port} of the guest is not published: {why}"),
            Change::Paused => write!(f, "the guest's ports come and go too fast; following slowly"),
        }
    }
}

/// The thread that follows the guest. Dropping it ends it; what it published goes with the VM.
#[derive(Debug)]
pub(crate) struct Mirror {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Follows the reports in `mailbox`.
    pub(crate) fn start(
        board: Arc<Board>,
        mailbox: Arc<Mailbox>,
        tell: impl Fn(&Notice) + Send + 'static,
    ) -> io::Result<Self> {
        let reports = mailbox.clone();
        let thread = thread::Builder::new().name("auto-publish".into()).stack_size(STACK);
        let thread = thread.spawn(move || {
            let mut image = Image::new(Instant::now());
            let mut until = None;
            while let Ok(report) = reports.wait_listening(until) {
                if let Some(ports) = report {
                    image.wanted = ports.into_iter().filter(|port| *port >= FIRST_PORT).take(MAX_PORTS).collect();
                }
                until = image.step(Instant::now(), &*board, &tell);
                if reports.wait_close(Instant::now() + ROUND) {
                    break;
                }
            }
        })?;
        Ok(Self { mailbox, thread: Some(thread) })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.mailbox.close();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("Automatic publishing ended by a panic");
        }
    }
}

/// Who opens and closes ports of the host.
pub(super) trait Publisher {
    fn publish(&self, port: u16) -> Result<(), String>;
    fn unpublish(&self, port: u16);
}

impl Publisher for Board {
    fn publish(&self, port: u16) -> Result<(), String> {
        let spec = PortSpec { address: None, host: port, guest: port, transport: Transport::Tcp };
        self.publish_mirrored(spec).map_err(|error| error.to_string())
    }

    fn unpublish(&self, port: u16) {
        self.remove_mirrored(port);
    }
}

/// What the host shows of what the guest has.
struct Image {
    wanted: BTreeSet<u16>,
    shown: BTreeSet<u16>,
    /// When to try again what was refused.
    refused: BTreeMap<u16, Instant>,
    tokens: u32,
    filled: Instant,
    is_paused: bool,
}

impl Image {
    fn new(now: Instant) -> Self {
        let (wanted, shown, refused) = Default::default();
        Self { wanted, shown, refused, tokens: BURST, filled: now, is_paused: false }
    }

    /// Makes the host follow, as far as changes may be made now; when to come back even without news.
    fn step(&mut self, now: Instant, ports: &dyn Publisher, tell: &dyn Fn(&Notice)) -> Option<Instant> {
        self.refill(now);
        self.refused.retain(|port, _| self.wanted.contains(port));
        let is_due = |port: &&u16| self.refused.get(port).is_none_or(|again| *again <= now);
        let gone = self.shown.difference(&self.wanted).map(|port| (*port, false));
        let new = self.wanted.difference(&self.shown).filter(is_due).map(|port| (*port, true));
        let changes: Vec<(u16, bool)> = gone.chain(new).collect();
        for (port, appears) in changes {
            if self.tokens == 0 {
                if !std::mem::replace(&mut self.is_paused, true) {
                    tell(&Notice { port, change: Change::Paused });
                }
                return Some(self.filled + REFILL);
            }
            self.tokens -= 1;
            if let Some(change) = self.apply(now, port, appears, ports) {
                tell(&Notice { port, change });
            }
        }
        self.refused.values().min().copied()
    }

    fn apply(&mut self, now: Instant, port: u16, appears: bool, ports: &dyn Publisher) -> Option<Change> {
        if !appears {
            ports.unpublish(port);
            self.shown.remove(&port);
            return Some(Change::Went);
        }
        match ports.publish(port) {
            Ok(()) => {
                self.refused.remove(&port);
                self.shown.insert(port);
                Some(Change::Came)
            }
            // It is told once, and tried again quietly.
            Err(why) => self.refused.insert(port, now + RETRY).is_none().then_some(Change::Refused(why)),
        }
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < BURST && now.saturating_duration_since(self.filled) >= REFILL {
            self.tokens += 1;
            self.filled += REFILL;
        }
        if self.tokens == BURST {
            self.filled = now;
            self.is_paused = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[derive(Default)]
    struct Host {
        open: RefCell<BTreeSet<u16>>,
        taken: BTreeSet<u16>,
        calls: RefCell<usize>,
        told: RefCell<Vec<Notice>>,
    }

    impl Publisher for Host {
        fn publish(&self, port: u16) -> Result<(), String> {
            *self.calls.borrow_mut() += 1;
            if self.taken.contains(&port) {
                return Err("somebody has it".into());
            }
            self.open.borrow_mut().insert(port);
            Ok(())
        }

        fn unpublish(&self, port: u16) {
            *self.calls.borrow_mut() += 1;
            self.open.borrow_mut().remove(&port);
        }
    }

    impl Host {
        fn step(&self, image: &mut Image, now: Instant, wanted: &[u16]) -> Option<Instant> {
            image.wanted = wanted.iter().copied().collect();
            image.step(now, self, &|notice| self.told.borrow_mut().push(notice.clone()))
        }

        fn told(&self) -> Vec<(u16, Change)> {
            self.told.borrow().iter().map(|notice| (notice.port, notice.change.clone())).collect()
        }
    }

    #[test]
    fn ports_come_and_go_with_a_line_each() {
        let (host, now) = (Host::default(), Instant::now());
        let mut image = Image::new(now);
        host.step(&mut image, now, &[3000, 8080]);
        assert_eq!(*host.open.borrow(), BTreeSet::from([3000, 8080]));
        host.step(&mut image, now, &[8080]);
        assert_eq!(*host.open.borrow(), BTreeSet::from([8080]));
        assert_eq!(host.told(), [(3000, Change::Came), (8080, Change::Came), (3000, Change::Went)]);
    }

    #[test]
    fn a_taken_port_is_told_once_and_tried_again_later() {
        let mut host = Host { taken: BTreeSet::from([8080]), ..Host::default() };
        let now = Instant::now();
        let mut image = Image::new(now);
        let again = host.step(&mut image, now, &[8080]).unwrap();
        for seconds in 0..5 {
            host.step(&mut image, now + Duration::from_secs(seconds), &[8080]);
        }
        assert_eq!(*host.calls.borrow(), 1);
        host.step(&mut image, again, &[8080]);
        host.taken.clear();
        host.step(&mut image, again + RETRY, &[8080]);
        assert_eq!(host.told(), [(8080, Change::Refused("somebody has it".into())), (8080, Change::Came)]);
    }

    #[test]
    fn a_flapping_guest_changes_little_and_says_so_once() {
        let (host, now) = (Host::default(), Instant::now());
        let mut image = Image::new(now);
        for flap in 0..1000 {
            let wanted: &[u16] = if flap % 2 == 0 { &[8080] } else { &[] };
            host.step(&mut image, now + Duration::from_millis(10) * flap, wanted);
        }
        let most = BURST as usize + 10_000 / 500 + 1;
        assert!(*host.calls.borrow() <= most, "{} changes in 10 s", host.calls.borrow());
        assert_eq!(host.told().iter().filter(|(_, change)| *change == Change::Paused).count(), 1);
        let later = now + Duration::from_secs(60);
        host.step(&mut image, later, &[8080]);
        assert_eq!(*host.open.borrow(), BTreeSet::from([8080]));
    }

    #[test]
    fn what_waits_is_done_without_further_news() {
        let (host, now) = (Host::default(), Instant::now());
        let mut image = Image::new(now);
        let wanted: Vec<u16> = (2000..2000 + u16::try_from(BURST).unwrap() + 2).collect();
        let mut at = host.step(&mut image, now, &wanted).unwrap();
        assert_eq!(host.open.borrow().len(), BURST as usize);
        while let Some(next) = host.step(&mut image, at, &wanted) {
            at = next;
        }
        assert_eq!(host.open.borrow().len(), wanted.len());
    }
}
