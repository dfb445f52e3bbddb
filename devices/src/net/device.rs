//! The state machine: when the stack gets its turn, and with what.

use std::sync::Arc;

use virtio::frame::{DeviceEnd, Lending, LentStack, Offloads, Port, Turn};
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

pub(super) const RX: u16 = 0;
pub(super) const TX: u16 = 1;
pub(super) const QUEUE_SIZE: u16 = 256;
/// Descriptors watched: the stack's while it is here, its whereabouts while it is not.
const STACK: u16 = 0;
const BELL: u16 = 1;
/// Turns of the stack in one call, before the worker looks up.
const MAX_TURNS: usize = 16;

/// Where the stack is.
#[derive(Debug)]
enum Whereabouts {
    /// Wherever it is, it is not wanted: there is no driver.
    Elsewhere,
    /// Asked for.
    Awaited,
    /// On this thread.
    Here(LentStack),
    /// It has ended.
    Gone,
}

/// The guest's network card: one queue pair, checksum and segmentation offload in both directions.
#[derive(Debug)]
pub struct Net {
    info: DeviceInfo,
    config: NetConfig,
    space: Arc<Space>,
    link: DeviceEnd,
    port: Port,
    stack: Whereabouts,
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
            port: Port::default(),
            stack: Whereabouts::Elsewhere,
        }
    }

    /// MAC address and MTU, for an engine that brings a card of its own.
    pub fn net_config(&self) -> NetConfig {
        self.config
    }

    /// Gives the stack the guest's frames and buffers and the guest what the stack has for it, until there is nothing
    /// more to do.
    fn serve(&mut self, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        for _ in 0..MAX_TURNS {
            let Whereabouts::Here(stack) = &mut self.stack else { break };
            self.port.supply(RX, TX, rings)?;
            let turn = stack.turn(&mut self.port);
            self.port.settle(RX, TX, rings)?;
            if turn == Turn::Over {
                self.return_stack(watch);
                self.stack = Whereabouts::Gone;
                break;
            }
            if self.port.is_blocked() {
                // Either the guest has offered buffers meanwhile, or it will tell when it does.
                self.port.supply(RX, TX, rings)?;
                if self.port.is_blocked() {
                    return self.port.settle(RX, TX, rings);
                }
            } else if turn == Turn::Idle {
                return Ok(());
            }
        }
        match self.stack {
            Whereabouts::Here(_) => rings.call_again(TX),
            Whereabouts::Gone => self.close(rings)?,
            Whereabouts::Awaited | Whereabouts::Elsewhere => {}
        }
        Ok(())
    }

    /// Nobody takes the guest's frames any more.
    fn close(&mut self, rings: &mut dyn Rings) -> Result<(), Fault> {
        if self.space.take_down() {
            tracing::warn!("Network stack has ended; the guest's link is down");
            rings.config_changed();
        }
        self.port.discard(TX, rings)
    }

    fn borrow_stack(&mut self, watch: &mut dyn Watch) -> Result<(), Fault> {
        self.stack = match self.link.borrow_stack() {
            Lending::Stack(stack) => {
                watch.add(stack.descriptor(), STACK, EventSet::IN)?;
                Whereabouts::Here(stack)
            }
            Lending::NotYet => Whereabouts::Awaited,
            Lending::Never => Whereabouts::Gone,
        };
        Ok(())
    }

    fn return_stack(&mut self, watch: &mut dyn Watch) {
        if let Whereabouts::Here(stack) = std::mem::replace(&mut self.stack, Whereabouts::Elsewhere)
            && let Err(error) = watch.remove(stack.descriptor(), STACK)
        {
            tracing::warn!(%error, "Network stack could not be unwatched");
        }
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
        self.port.plug(to_guest, from_guest, has(VIRTIO_NET_F_MRG_RXBUF));
        watch.add(self.link.bell(), BELL, EventSet::IN)?;
        self.borrow_stack(watch)
    }

    fn on_queue(&mut self, _queue: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        self.serve(rings, watch)
    }

    fn on_event(&mut self, token: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        if token == BELL && !matches!(self.stack, Whereabouts::Here(_)) {
            self.borrow_stack(watch)?;
        }
        self.serve(rings, watch)
    }

    fn reset(&mut self, watch: &mut dyn Watch) {
        let was_started = !matches!(self.stack, Whereabouts::Elsewhere);
        self.return_stack(watch);
        self.link.withdraw();
        self.port.unplug();
        self.stack = Whereabouts::Elsewhere;
        if was_started && let Err(error) = watch.remove(self.link.bell(), BELL) {
            tracing::warn!(%error, "Link could not be unwatched");
        }
    }
}
