//! The state machine: which direction waits for what.

use std::os::fd::AsFd;
use std::sync::Arc;

use virtio::frame::{DeviceEnd, LentStack, Offloads, Turn};
use virtio::{ConfigSpace, DeviceInfo, Fault, Ram, Rings, VirtioDevice, Watch};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS,
};
use vmm_sys_util::epoll::EventSet;

use super::NetConfig;
use super::config::Space;
use super::receive::Receive;
use super::transmit::Transmit;

pub(super) const RX: u16 = 0;
pub(super) const TX: u16 = 1;
pub(super) const QUEUE_SIZE: u16 = 256;
/// Descriptors watched: the link to the stack, and the stack itself while it is here.
pub(super) const LINK: u16 = 0;
const STACK: u16 = 1;
const REMINDER: u16 = 2;
/// Turns of the stack in one call, before the worker looks up.
const MAX_TURNS: usize = 16;

/// How one direction left off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Until the guest offers more buffers.
    NeedsGuest,
    /// Until the link is ready.
    NeedsLink,
    /// The stack closed its end.
    LinkGone,
}

/// The guest's network card: one queue pair, checksum and segmentation offload in both directions.
#[derive(Debug)]
pub struct Net {
    info: DeviceInfo,
    config: NetConfig,
    space: Arc<Space>,
    link: DeviceEnd,
    receive: Receive,
    transmit: Transmit,
    /// What the link is watched for; nothing while the device is not started.
    interest: Option<EventSet>,
    /// The stack, while this thread runs it.
    stack: Option<LentStack>,
}

impl Net {
    /// A card at the device end of a link.
    pub fn new(link: DeviceEnd, config: NetConfig) -> Self {
        let features = [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_MTU,
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_STATUS,
        ];
        Self {
            info: DeviceInfo {
                kind: VIRTIO_ID_NET,
                label: "net".to_owned(),
                queue_sizes: vec![QUEUE_SIZE; 2],
                features: features.iter().fold(0, |all, bit| all | 1 << bit),
            },
            config,
            space: Arc::new(Space::new(config)),
            link,
            receive: Receive::new(),
            transmit: Transmit::new(),
            interest: None,
            stack: None,
        }
    }

    /// MAC address and MTU, for an engine that brings a card of its own.
    pub fn net_config(&self) -> NetConfig {
        self.config
    }

    /// Gives the link up, for an engine that brings a card of its own.
    pub fn into_link(self) -> DeviceEnd {
        self.link
    }

    /// Lets the stack work on what the guest sent and on its sockets, and delivers what it has for the guest.
    fn run_stack(&mut self, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<Option<Progress>, Fault> {
        let mut received = None;
        for _ in 0..MAX_TURNS {
            let Some(stack) = &mut self.stack else { return Ok(received) };
            let turn = stack.turn();
            received = Some(self.receive.run(&self.link, rings)?);
            match turn {
                Turn::Idle => return Ok(received),
                Turn::Again => {}
                Turn::Over => {
                    self.return_stack(watch);
                    return Ok(received);
                }
            }
        }
        if let Some(stack) = &self.stack {
            stack.remind();
        }
        Ok(received)
    }

    fn borrow_stack(&mut self, watch: &mut dyn Watch) -> Result<(), Fault> {
        let Some(stack) = self.link.borrow_stack() else { return Ok(()) };
        let stack = self.stack.insert(stack);
        watch.add(stack.descriptor(), STACK, EventSet::IN)?;
        watch.add(stack.reminder(), REMINDER, EventSet::IN)?;
        stack.remind();
        Ok(())
    }

    fn return_stack(&mut self, watch: &mut dyn Watch) {
        if let Some(stack) = self.stack.take() {
            for (fd, token) in [(stack.descriptor(), STACK), (stack.reminder(), REMINDER)] {
                if let Err(error) = watch.remove(fd, token) {
                    tracing::warn!(%error, "Network stack could not be unwatched");
                }
            }
        }
    }

    /// Moves what can be moved both ways, then watches the link for what is missing.
    fn settle(
        &mut self,
        received: Option<Progress>,
        sent: Option<Progress>,
        rings: &mut dyn Rings,
        watch: &mut dyn Watch,
    ) -> Result<(), Fault> {
        let mut wanted = self.interest.unwrap_or(EventSet::empty());
        match received {
            Some(Progress::NeedsLink) => wanted |= EventSet::IN,
            Some(_) => wanted -= EventSet::IN,
            None => {}
        }
        match sent {
            Some(Progress::NeedsLink) => wanted |= EventSet::OUT,
            Some(_) => wanted -= EventSet::OUT,
            None => {}
        }
        if received == Some(Progress::LinkGone) || sent == Some(Progress::LinkGone) {
            if self.space.take_down() {
                tracing::warn!("Network stack closed its end; the guest's link is down");
                rings.config_changed();
            }
            // A closed link is ready for ever.
            if self.interest.take().is_some() {
                watch.remove(self.link.as_fd(), LINK)?;
            }
            return Ok(());
        }
        if self.interest.is_some_and(|interest| interest != wanted) {
            watch.modify(self.link.as_fd(), LINK, wanted)?;
            self.interest = Some(wanted);
        }
        Ok(())
    }
}

impl VirtioDevice for Net {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.space.clone()
    }

    fn start(&mut self, features: u64, _ram: &Ram, watch: &mut dyn Watch) -> Result<(), Fault> {
        let has = |bit: u32| features & 1 << bit != 0;
        let checksum = has(VIRTIO_NET_F_GUEST_CSUM);
        let to_guest = Offloads {
            checksum,
            tcp4_segments: checksum && has(VIRTIO_NET_F_GUEST_TSO4),
            tcp6_segments: checksum && has(VIRTIO_NET_F_GUEST_TSO6),
        };
        let checksum = has(VIRTIO_NET_F_CSUM);
        let from_guest = Offloads {
            checksum,
            tcp4_segments: checksum && has(VIRTIO_NET_F_HOST_TSO4),
            tcp6_segments: checksum && has(VIRTIO_NET_F_HOST_TSO6),
        };
        self.link.set_offloads(to_guest);
        self.receive.start(to_guest, has(VIRTIO_NET_F_MRG_RXBUF));
        self.transmit.start(from_guest);
        watch.add(self.link.as_fd(), LINK, EventSet::IN)?;
        self.interest = Some(EventSet::IN);
        self.borrow_stack(watch)
    }

    fn on_queue(&mut self, queue: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        match queue {
            RX => {
                let received = self.receive.run(&self.link, rings)?;
                self.settle(Some(received), None, rings, watch)
            }
            TX => {
                let mut sent = self.transmit.run(&self.link, rings)?;
                let received = self.run_stack(rings, watch)?;
                if sent == Progress::NeedsLink && received.is_some() {
                    sent = self.transmit.run(&self.link, rings)?;
                    if let Some(stack) = &self.stack {
                        stack.remind();
                    }
                }
                self.settle(received, Some(sent), rings, watch)
            }
            _ => Ok(()),
        }
    }

    fn on_event(&mut self, _token: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        let received = match self.run_stack(rings, watch)? {
            Some(received) => received,
            None => self.receive.run(&self.link, rings)?,
        };
        let sent = if self.transmit.is_waiting() { Some(self.transmit.run(&self.link, rings)?) } else { None };
        self.settle(Some(received), sent, rings, watch)
    }

    fn reset(&mut self, watch: &mut dyn Watch) {
        self.return_stack(watch);
        if self.interest.take().is_some()
            && let Err(error) = watch.remove(self.link.as_fd(), LINK)
        {
            tracing::warn!(%error, "Link could not be unwatched");
        }
        self.link.set_offloads(Offloads::default());
        self.receive.reset();
        self.transmit.reset();
    }
}
