//! Everything the transports have in common: taking and returning requests, notifications in both directions, and a
//! limit on how long a device serves without looking up.
//!
//! A transport says where its queues are ([`Queues`]) and how to reach the guest ([`Interrupt`]); then it calls
//! [`serve_queue`] for a kick, [`serve_event`] for a watched descriptor, and [`serve_pending`] while
//! [`RingSet::pending`] says that a turn ended with work left. Ring contents are the guest's and are not trusted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use crate::turn::Turn;
use crate::{Fault, Malformed, Ram, RamGuard, Request, Rings, VirtioDevice, Watch};

/// Layout of the available and the used ring (virtio 1.2, sections 2.7.6 and 2.7.8).
const AVAIL_HEADER: u64 = 4;
const AVAIL_ELEMENT: u64 = 2;
const USED_INDEX: u64 = 2;
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;

/// Raises guest interrupts: an irqfd under KVM, a vhost-user call descriptor, a recorder in tests.
pub trait Interrupt: Send + Sync + fmt::Debug {
    /// Used buffers were added to `queue`.
    fn used(&self, queue: u16);
    /// The configuration space changed.
    fn config(&self);
}

/// Where a transport keeps its queues.
pub trait Queues {
    /// How many there are.
    fn count(&self) -> u16;
    /// Calls `act` with the queue of that index, if there is one.
    fn with<T>(&mut self, index: u16, act: impl FnOnce(&mut Queue) -> T) -> Option<T>;
}

/// What the rings need to remember about one queue.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    /// Requests returned since the driver was last told: it may be owed an interrupt.
    returned: u16,
    /// The device found the queue empty since the last settling: only such a queue needs the driver's next kick. A
    /// device may leave requests in a queue (receive buffers nobody has data for) and come back to those on its own.
    drained: bool,
    /// The turn ended before the queue did.
    pending: bool,
}

/// The virtqueues of one started device.
#[derive(Debug)]
pub struct RingSet<Q> {
    ram: Ram,
    queues: Q,
    interrupt: Arc<dyn Interrupt>,
    marks: Vec<Marks>,
    turn: Turn,
}

impl<Q: Queues> RingSet<Q> {
    /// Takes over `queues`, whose geometry is frozen from here on.
    pub fn new(ram: Ram, queues: Q, interrupt: Arc<dyn Interrupt>) -> Self {
        let marks = vec![Marks::default(); usize::from(queues.count())];
        Self { ram, queues, interrupt, marks, turn: Turn::new() }
    }

    /// Guest RAM that the rings lie in.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// How many queues there are.
    pub fn count(&self) -> u16 {
        self.queues.count()
    }

    /// Whether a turn ended with work left, to be continued by [`serve_pending`].
    pub fn pending(&self) -> bool {
        self.marks.iter().any(|marks| marks.pending)
    }

    /// Puts a queue in the place of the one with that index.
    pub fn put(&mut self, index: u16, queue: Queue) {
        self.queues.with(index, |ring| *ring = queue);
        self.mark(index, |marks| *marks = Marks::default());
    }

    /// Takes the queue with that index out, leaving one that is not ready; nothing when it was not ready itself.
    pub fn take(&mut self, index: u16) -> Option<Queue> {
        self.mark(index, |marks| *marks = Marks::default());
        self.queues.with(index, std::mem::take).filter(Queue::ready)
    }

    fn with<T>(&mut self, queue: u16, act: impl FnOnce(&mut Queue) -> Result<T, Error>) -> Result<T, Fault> {
        match self.queues.with(queue, act) {
            Some(result) => result.map_err(|source| Fault::Ring { queue, source }),
            None => Err(Fault::Guest { queue, what: "no such queue" }),
        }
    }

    fn mark(&mut self, queue: u16, set: impl FnOnce(&mut Marks)) {
        if let Some(marks) = self.marks.get_mut(usize::from(queue)) {
            set(marks);
        }
    }

    pub(crate) fn begin(&mut self) {
        self.turn = Turn::new();
    }

    /// Ends a turn: sends the interrupts the device earned, asks for kicks on the queues it emptied. A queue that
    /// filled up meanwhile becomes pending.
    fn end(&mut self) -> Result<(), Fault> {
        let ram = self.ram.memory();
        for queue in 0..self.queues.count() {
            let mut seen = Marks::default();
            self.mark(queue, |marks| (seen, marks.returned, marks.drained) = (*marks, 0, false));
            if seen.returned > 0 && self.with(queue, |ring| wants_interrupt(ring, &ram, seen.returned))? {
                self.interrupt.used(queue);
            }
            if seen.drained && self.with(queue, |ring| ask_for_kick(ring, &ram))? {
                self.mark(queue, |marks| marks.pending = true);
            }
        }
        Ok(())
    }
}

impl<Q: Queues> RingSet<Q> {
    /// The next request, or why there is none.
    fn next(&mut self, queue: u16) -> Result<(Option<Request>, LeftOff), Fault> {
        let ram = self.ram.memory();
        loop {
            if !self.turn.take() {
                self.mark(queue, |marks| marks.pending = true);
                return Ok((None, LeftOff::Early));
            }
            match self.with(queue, |ring| take(ring, &ram))? {
                Taken::Request(request) => return Ok((Some(request), LeftOff::Early)),
                Taken::Malformed(malformed) => {
                    tracing::debug!(queue, head = malformed.head, "Malformed chain given back: {}", malformed.what);
                    self.finish(queue, malformed.head, 0)?;
                }
                Taken::Nothing => return Ok((None, LeftOff::Empty)),
                Taken::NoQueue => return Ok((None, LeftOff::Early)),
            }
        }
    }
}

impl<Q: Queues> Rings for RingSet<Q> {
    fn pop(&mut self, queue: u16) -> Result<Option<Request>, Fault> {
        let (request, left_off) = self.next(queue)?;
        if left_off == LeftOff::Empty {
            self.mark(queue, |marks| marks.drained = true);
        }
        Ok(request)
    }

    fn pop_quietly(&mut self, queue: u16) -> Result<Option<Request>, Fault> {
        self.next(queue).map(|(request, _)| request)
    }

    fn undo_pop(&mut self, queue: u16) {
        self.queues.with(queue, Queue::go_to_previous_position);
    }

    fn finish(&mut self, queue: u16, head: u16, written: u32) -> Result<(), Fault> {
        self.finish_all(queue, &[(head, written)])
    }

    fn finish_all(&mut self, queue: u16, requests: &[(u16, u32)]) -> Result<(), Fault> {
        let ram = self.ram.memory();
        // A queue taken out of service meanwhile gets nothing back.
        self.with(queue, |ring| if ring.ready() { give_back(ring, &ram, requests) } else { Ok(()) })?;
        let count = u16::try_from(requests.len()).unwrap_or(u16::MAX);
        self.mark(queue, |marks| marks.returned = marks.returned.saturating_add(count));
        Ok(())
    }

    fn call_again(&mut self, queue: u16) {
        self.mark(queue, |marks| marks.pending = true);
    }

    fn config_changed(&mut self) {
        self.interrupt.config();
    }
}

/// Serves a kick of `queue` for one turn.
pub fn serve_queue<Q: Queues>(
    device: &mut dyn VirtioDevice,
    rings: &mut RingSet<Q>,
    queue: u16,
    watch: &mut dyn Watch,
) -> Result<(), Fault> {
    let ram = rings.ram.memory();
    rings.mark(queue, |marks| marks.pending = false);
    let ready = rings.with(queue, |ring| match ring.ready() {
        true => ring.disable_notification(&*ram).map(|()| true),
        false => Ok(false),
    })?;
    if ready {
        rings.begin();
        device.on_queue(queue, rings, watch)?;
        rings.end()?;
    }
    Ok(())
}

/// Serves one ready descriptor that the device watches, for one turn.
pub fn serve_event<Q: Queues>(
    device: &mut dyn VirtioDevice,
    rings: &mut RingSet<Q>,
    token: u16,
    watch: &mut dyn Watch,
) -> Result<(), Fault> {
    rings.begin();
    device.on_event(token, rings, watch)?;
    rings.end()
}

/// Gives every pending queue one more turn.
pub fn serve_pending<Q: Queues>(
    device: &mut dyn VirtioDevice,
    rings: &mut RingSet<Q>,
    watch: &mut dyn Watch,
) -> Result<(), Fault> {
    for queue in 0..rings.queues.count() {
        if rings.marks.get(usize::from(queue)).is_some_and(|marks| marks.pending) {
            serve_queue(device, rings, queue, watch)?;
        }
    }
    Ok(())
}

/// Why there was no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeftOff {
    Empty,
    /// There may be more.
    Early,
}

enum Taken {
    Request(Request),
    Malformed(Malformed),
    Nothing,
    /// The driver did not set this queue up.
    NoQueue,
}

fn take(ring: &mut Queue, ram: &RamGuard) -> Result<Taken, Error> {
    if !ring.ready() {
        return Ok(Taken::NoQueue);
    }
    if ring.avail_idx(&**ram, Ordering::Acquire)?.0 == ring.next_avail() {
        return Ok(Taken::Nothing);
    }
    // `iter`, not `pop_descriptor_chain`: the latter logs and swallows a bad available index. Nothing from the iterator
    // here means that the ring cannot be read; called empty, it would be served again and again.
    let chain = ring.iter(&**ram)?.next().ok_or(Error::InvalidAvailRingIndex)?;
    if chain.head_index() >= ring.size() {
        return Err(Error::InvalidDescriptorIndex);
    }
    Ok(match Request::parse(chain, ram.clone()) {
        Ok(request) => Taken::Request(request),
        Err(malformed) => Taken::Malformed(malformed),
    })
}

/// Writes `requests` to the used ring and shows them to the driver together (virtio 1.2, section 2.7.8).
fn give_back(ring: &mut Queue, ram: &RamGuard, requests: &[(u16, u32)]) -> Result<(), Error> {
    let at = |offset: u64| ring.used_ring().checked_add(offset).map(GuestAddress).ok_or(Error::AddressOverflow);
    let mut next = ring.next_used();
    for (head, written) in requests {
        if *head >= ring.size() {
            return Err(Error::InvalidDescriptorIndex);
        }
        let slot = at(USED_HEADER + USED_ELEMENT * u64::from(next % ring.size()))?;
        ram.write_obj([u32::from(*head).to_le(), written.to_le()], slot).map_err(Error::GuestMemory)?;
        next = next.wrapping_add(1);
    }
    ram.store(next.to_le(), at(USED_INDEX)?, Ordering::Release).map_err(Error::GuestMemory)?;
    ring.set_next_used(next);
    Ok(())
}

/// Whether the driver wants to hear of the `returned` requests it was given last (virtio 1.2, sections 2.7.7 and
/// 2.7.10).
fn wants_interrupt(ring: &mut Queue, ram: &RamGuard, returned: u16) -> Result<bool, Error> {
    if !ring.ready() {
        return Ok(false);
    }
    // The driver shows what it wants and then looks at the used index; we do it the other way round.
    fence(Ordering::SeqCst);
    let at = |offset: u64| ring.avail_ring().checked_add(offset).map(GuestAddress).ok_or(Error::AddressOverflow);
    let load = |address| ram.load(address, Ordering::Relaxed).map(u16::from_le).map_err(Error::GuestMemory);
    if !ring.event_idx_enabled() {
        return Ok(u32::from(load(at(0)?)?) & VRING_AVAIL_F_NO_INTERRUPT == 0);
    }
    let event = load(at(AVAIL_HEADER + AVAIL_ELEMENT * u64::from(ring.size()))?)?;
    // Whether the request it names is among those returned.
    Ok(ring.next_used().wrapping_sub(event).wrapping_sub(1) < returned)
}

/// Asks the driver for a kick with its next request; true when one came before the driver could know.
fn ask_for_kick(ring: &mut Queue, ram: &RamGuard) -> Result<bool, Error> {
    if !ring.ready() {
        return Ok(false);
    }
    ring.enable_notification(&**ram)
}
