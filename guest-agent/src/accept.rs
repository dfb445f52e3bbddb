//! The next connection of a listener that is served for ever: for commands, notices and relayed ports.

use std::io;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::log;

/// How long a listener rests that cannot take connections, as when all descriptors are in use. The connection waits
/// meanwhile, and asking again at once would only keep a CPU busy.
const REST: Duration = Duration::from_millis(100);

/// Waits for a connection to `what`, however long that takes; nothing once the listener is shut down.
pub(crate) fn next<T>(what: &str, accept: impl FnMut() -> io::Result<T>) -> Option<T> {
    next_resting(what, accept, || thread::sleep(REST))
}

fn next_resting<T>(what: &str, mut accept: impl FnMut() -> io::Result<T>, mut rest: impl FnMut()) -> Option<T> {
    let mut is_reported = false;
    loop {
        let error = match accept() {
            Ok(connection) => return Some(connection),
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            // accept(2): not listening (any more).
            Some(Errno::INVAL) => return None,
            // Of the connection that was to be taken, which is gone with that.
            Some(Errno::CONNABORTED | Errno::INTR | Errno::PROTO) => continue,
            _ => {}
        }
        if !is_reported {
            log::warn(&format!("{what} has to wait: {error}"));
            is_reported = true;
        }
        rest();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::net::{Shutdown, shutdown};

    use super::*;

    /// What comes of these answers of accept(2), and how often the listener rested meanwhile.
    fn outcome(answers: &[Result<u8, Errno>]) -> (Option<u8>, usize) {
        let (mut answers, mut rests) = (answers.iter().copied(), 0);
        let next = next_resting("a test", || Ok(answers.next().expect("an answer")?), || rests += 1);
        (next, rests)
    }

    #[test]
    fn errors_of_one_connection_do_not_hold_up_the_next() {
        assert_eq!(outcome(&[Err(Errno::CONNABORTED), Err(Errno::PROTO), Err(Errno::INTR), Ok(7)]), (Some(7), 0));
    }

    #[test]
    fn a_listener_rests_after_each_error_that_may_last_and_then_goes_on() {
        assert_eq!(outcome(&[Err(Errno::MFILE), Err(Errno::NFILE), Err(Errno::NOMEM), Ok(7)]), (Some(7), 3));
    }

    #[test]
    fn a_listener_that_is_shut_down_has_no_next_connection() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_, peer) = next("a test", || listener.accept()).unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        shutdown(&listener, Shutdown::Both).unwrap();
        assert!(next("a test", || listener.accept()).is_none());
    }
}
