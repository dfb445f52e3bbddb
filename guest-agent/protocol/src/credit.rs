//! Credit: how many bytes of a stream may be on their way.
//!
//! The sender of a stream holds a [`SendCredit`] and never sends more than it; the receiver holds a [`ReceiveCredit`]
//! and gives back what it has passed on. A receiver therefore always has room for what arrives and never stops
//! reading its connection, so signals cannot get stuck behind data and memory is bounded by [`WINDOW`] per stream.

use crate::frame::ProtocolError;

/// Bytes of credit each stream starts with, and the most it ever has.
pub const WINDOW: u32 = 512 * 1024;
/// Credit is given back in pieces of at least this, so that bulk data does not cost a message per read.
const GRANT: u32 = WINDOW / 8;

/// The sender's side.
#[derive(Debug)]
pub struct SendCredit {
    left: u32,
}

impl Default for SendCredit {
    fn default() -> Self {
        Self { left: WINDOW }
    }
}

impl SendCredit {
    /// How many bytes may be sent now.
    pub fn left(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX)
    }

    /// Accounts for bytes that are being sent; more than are left is a bug of the caller and leaves nothing.
    pub fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// The receiver gave `bytes` back; more than it ever took is a breach.
    pub fn add(&mut self, bytes: u32) -> Result<(), ProtocolError> {
        match self.left.checked_add(bytes) {
            Some(left) if left <= WINDOW => {
                self.left = left;
                Ok(())
            }
            _ => Err(ProtocolError::Credit),
        }
    }
}

/// The receiver's side.
#[derive(Debug)]
pub struct ReceiveCredit {
    /// What the sender may still send.
    left: u32,
    /// What was passed on since the last grant.
    owed: u32,
}

impl Default for ReceiveCredit {
    fn default() -> Self {
        Self { left: WINDOW, owed: 0 }
    }
}

impl ReceiveCredit {
    /// Accounts for received bytes; more than was allowed is a breach.
    pub fn take(&mut self, bytes: usize) -> Result<(), ProtocolError> {
        let bytes = u32::try_from(bytes).map_err(|_| ProtocolError::Credit)?;
        self.left = self.left.checked_sub(bytes).ok_or(ProtocolError::Credit)?;
        Ok(())
    }

    /// `bytes` were passed on; answers with the credit to give back, when it is worth a message.
    pub fn release(&mut self, bytes: usize) -> Option<u32> {
        self.owed = self.owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)).min(WINDOW - self.left);
        if self.owed < GRANT {
            return None;
        }
        self.left += self.owed;
        Some(std::mem::take(&mut self.owed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::{ReceiveCredit, SendCredit, WINDOW};

    proptest! {
        #[test]
        fn an_honest_pair_never_breaches_and_never_starves(steps in proptest::collection::vec(1..200_000usize, 1..60)) {
            let (mut sender, mut receiver) = (SendCredit::default(), ReceiveCredit::default());
            for wanted in steps {
                let sent = wanted.min(sender.left());
                prop_assert!(sent > 0);
                sender.spend(sent);
                receiver.take(sent).expect("within the window");
                if let Some(grant) = receiver.release(sent) {
                    sender.add(grant).expect("within the window");
                }
            }
        }

        #[test]
        fn a_receiver_that_passes_nothing_on_takes_one_window_and_no_more(steps in proptest::collection::vec(1..100_000usize, 20..60)) {
            let mut receiver = ReceiveCredit::default();
            let taken: usize = steps.into_iter().filter(|bytes| receiver.take(*bytes).is_ok()).sum();
            prop_assert!(taken <= usize::try_from(WINDOW).expect("small"));
        }
    }

    #[test]
    fn credit_out_of_nothing_is_a_breach() {
        assert!(SendCredit::default().add(1).is_err());
        let mut sender = SendCredit::default();
        sender.spend(10);
        assert!(sender.add(u32::MAX).is_err());
        assert!(sender.add(10).is_ok());
    }

    #[test]
    fn what_was_not_taken_is_not_given_back() {
        let mut receiver = ReceiveCredit::default();
        receiver.take(100_000).expect("within the window");
        assert_eq!(receiver.release(10_000_000), Some(100_000));
    }
}
