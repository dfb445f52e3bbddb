//! Credit (virtio 1.2, section 5.10.6.3): how much each side of a connection may still send.
//!
//! All counters wrap; a guest that lies about its own only harms its own connection.

/// Bytes one connection may hold for a host that does not read.
pub const BUFFER: u32 = 256 << 10;
/// The guest is told of room again once this much was passed on since the last time: always before it runs dry.
const UPDATE: u32 = BUFFER / 4;

/// What the guest may send.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    received: u32,
    forwarded: u32,
    told: u32,
}

/// The guest sent more than it was allowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overrun;

impl Inbound {
    pub(super) fn receive(&mut self, bytes: u32) -> Result<(), Overrun> {
        let held = self.received.wrapping_sub(self.forwarded);
        if bytes > BUFFER.saturating_sub(held) {
            return Err(Overrun);
        }
        self.received = self.received.wrapping_add(bytes);
        Ok(())
    }

    /// `bytes` of what was received were passed on to the host, or dropped.
    pub(super) fn forward(&mut self, bytes: usize) {
        let held = self.received.wrapping_sub(self.forwarded);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(held);
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    pub(super) fn is_update_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= UPDATE
    }

    /// The counter for a header that is being sent.
    pub(super) fn tell(&mut self) -> u32 {
        self.told = self.forwarded;
        self.forwarded
    }
}

/// What the host may send.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    buf_alloc: u32,
    fwd_cnt: u32,
    sent: u32,
}

impl Outbound {
    /// Takes over what a header from the guest says.
    pub(super) fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.buf_alloc = buf_alloc;
        self.fwd_cnt = fwd_cnt;
    }

    pub(super) fn free(&self) -> usize {
        let held = self.sent.wrapping_sub(self.fwd_cnt);
        usize::try_from(self.buf_alloc.saturating_sub(held)).unwrap_or(usize::MAX)
    }

    pub(super) fn send(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, prop_assert, proptest};

    use super::{BUFFER, Inbound, Outbound, Overrun};

    proptest! {
        #[test]
        fn never_more_is_held_than_the_buffer(steps in vec((any::<u32>(), any::<u32>()), 0..200), start in any::<u32>()) {
            let mut account = Inbound { received: start, forwarded: start, told: start };
            let mut held = 0u64;
            for (received, forwarded) in steps {
                let (received, forwarded) = (received % (2 * BUFFER), usize::try_from(forwarded % BUFFER).expect("small"));
                held += account.receive(received).map_or(0, |()| u64::from(received));
                account.forward(forwarded);
                held = held.saturating_sub(u64::try_from(forwarded).expect("small"));
                prop_assert!(held <= u64::from(BUFFER));
                prop_assert!(u64::from(account.received.wrapping_sub(account.forwarded)) == held);
            }
        }

        #[test]
        fn a_lying_guest_gets_no_more_than_it_claims_to_have(buf_alloc in any::<u32>(), fwd_cnt in any::<u32>(), sent in any::<u32>()) {
            let account = Outbound { buf_alloc, fwd_cnt, sent };
            prop_assert!(account.free() <= usize::try_from(buf_alloc).expect("64-bit host"));
        }
    }

    #[test]
    fn counters_may_wrap() {
        let mut account = Outbound { buf_alloc: 100, fwd_cnt: u32::MAX - 10, sent: u32::MAX };
        assert_eq!(account.free(), 90);
        account.send(50);
        assert_eq!(account.free(), 40);
        account.update(100, 49);
        assert_eq!(account.free(), 100);
    }

    #[test]
    fn a_sender_that_waits_for_updates_never_waits_for_ever() {
        let mut account = Inbound::default();
        for _ in 0..1000 {
            // The guest fills what it knows to be free; the host reads all of it.
            let known_free = BUFFER - account.received.wrapping_sub(account.told);
            assert!(known_free > 0);
            account.receive(known_free).expect("within what it was told");
            account.forward(usize::try_from(known_free).expect("small"));
            assert!(account.is_update_due());
            account.tell();
        }
        assert_eq!(account.receive(BUFFER + 1), Err(Overrun));
    }
}
