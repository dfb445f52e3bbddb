//! What the agent last said about ports.
//!
//! Only the last word of each kind is kept, so a guest that talks without end costs no memory and nobody's time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_protocol::control::Relay;

/// The last words, and whoever waits for them.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Mail {
    listening: Option<Vec<u16>>,
    relays: Option<Vec<Relay>>,
    is_closed: bool,
}

impl Mailbox {
    /// The guest listens on these ports now.
    pub(crate) fn put_listening(&self, ports: Vec<u16>) {
        self.lock().listening = Some(ports);
        self.news.notify_all();
    }

    /// These ports are relayed now.
    pub(crate) fn put_relays(&self, relays: Vec<Relay>) {
        self.lock().relays = Some(relays);
        self.news.notify_all();
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.news.notify_all();
    }

    /// Forgets an answer that nobody waited for.
    pub(super) fn drop_relays(&self) {
        self.lock().relays = None;
    }

    /// The answer to a request for relays, if it comes in time. The error says that it is over.
    pub(super) fn wait_relays(&self, patience: Duration) -> Result<Option<Vec<Relay>>, Closed> {
        let is_open = |mail: &mut Mail| mail.relays.is_none() && !mail.is_closed;
        let waited = self.news.wait_timeout_while(self.lock(), patience, is_open);
        let mut mail = waited.unwrap_or_else(PoisonError::into_inner).0;
        if mail.is_closed { Err(Closed) } else { Ok(mail.relays.take()) }
    }

    /// A report newer than those taken so far; `None` if none comes by `until`. The error says that it is over.
    pub(super) fn wait_listening(&self, until: Option<Instant>) -> Result<Option<Vec<u16>>, Closed> {
        let is_open = |mail: &mut Mail| mail.listening.is_none() && !mail.is_closed;
        let mail = self.lock();
        let mut mail = match until {
            None => self.news.wait_while(mail, is_open).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let patience = until.saturating_duration_since(Instant::now());
                let waited = self.news.wait_timeout_while(mail, patience, is_open);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if mail.is_closed { Err(Closed) } else { Ok(mail.listening.take()) }
    }

    /// Waits for the end alone, until then; true if it came.
    pub(super) fn wait_close(&self, until: Instant) -> bool {
        let patience = until.saturating_duration_since(Instant::now());
        let waited = self.news.wait_timeout_while(self.lock(), patience, |mail| !mail.is_closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_closed
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The VM is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;
