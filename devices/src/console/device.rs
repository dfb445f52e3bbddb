//! The state machine: which direction waits for what.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtio::{ConfigSpace, DeviceInfo, Fault, Ram, RateLimit, Rings, VirtioDevice, Watch};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::epoll::EventSet;

use super::config::ConsoleHandle;
use super::port::{Input, Port};

/// Window size in configuration space (virtio 1.2, section 5.3.3).
const FEATURE_SIZE: u32 = 0;

const RX: u16 = 0;
const TX: u16 = 1;
const QUEUE_SIZE: u16 = 64;

const PORT: u16 = 0;
const WINDOW: u16 = 1;

/// The guest's console.
#[derive(Debug)]
pub struct Console {
    info: DeviceInfo,
    port: Port,
    handle: ConsoleHandle,
    has_size: bool,
    warnings: RateLimit,
}

impl Console {
    /// A console whose output is written to `host` and whose input is read from it; a socket or a terminal.
    pub fn new(host: OwnedFd) -> io::Result<(Self, ConsoleHandle)> {
        let info = DeviceInfo {
            kind: VIRTIO_ID_CONSOLE,
            label: "console".into(),
            queue_sizes: vec![QUEUE_SIZE; 2],
            features: 1 << FEATURE_SIZE,
        };
        let handle = ConsoleHandle::new()?;
        let port = Port::new(host, PORT)?;
        let console = Self { info, port, handle: handle.clone(), has_size: false, warnings: RateLimit::default() };
        Ok((console, handle))
    }

    /// The host's end, for QEMU's own device.
    pub fn into_host(self) -> OwnedFd {
        self.port.into_fd()
    }

    fn transmit(&mut self, rings: &mut dyn Rings) -> Result<(), Fault> {
        while let Some(request) = rings.pop(TX)? {
            self.port.output(&mut request.reader());
            rings.finish(TX, request.head(), 0)?;
        }
        if self.port.has_dropped() && self.warnings.allow() {
            let dropped = self.port.take_dropped();
            tracing::warn!("Console output is not read on the host; {dropped} bytes were dropped");
        }
        Ok(())
    }

    /// Fills the guest's buffers while there is input; says whether there may be more to do when input comes.
    fn receive(&mut self, rings: &mut dyn Rings) -> Result<bool, Fault> {
        while let Some(request) = rings.pop(RX)? {
            let mut buffer = request.writer();
            if buffer.available_bytes() == 0 {
                rings.finish(RX, request.head(), 0)?;
                continue;
            }
            match self.port.input(&mut buffer) {
                // At most 64 KiB.
                Input::Bytes(count) => rings.finish(RX, request.head(), u32::try_from(count).unwrap_or(u32::MAX))?,
                Input::Later | Input::End => {
                    rings.undo_pop(RX);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn serve(&mut self, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        let guest_has_room = self.receive(rings)?;
        Ok(self.port.watch(guest_has_room, watch)?)
    }
}

impl VirtioDevice for Console {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.handle.space()
    }

    fn start(&mut self, features: u64, _ram: &Ram, watch: &mut dyn Watch) -> Result<(), Fault> {
        self.has_size = features & (1 << FEATURE_SIZE) != 0;
        Ok(watch.add(self.handle.changed(), WINDOW, EventSet::IN)?)
    }

    fn on_queue(&mut self, queue: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        if queue == TX {
            self.transmit(rings)?;
        }
        self.serve(rings, watch)
    }

    fn on_event(&mut self, token: u16, rings: &mut dyn Rings, watch: &mut dyn Watch) -> Result<(), Fault> {
        if token == WINDOW {
            self.handle.clear_changed();
            if self.has_size {
                rings.config_changed();
            }
            return Ok(());
        }
        self.port.drain();
        self.serve(rings, watch)
    }

    fn reset(&mut self, watch: &mut dyn Watch) {
        self.port.reset(watch);
        // Not watched before the first start.
        let _ = watch.remove(self.handle.changed(), WINDOW);
    }
}
