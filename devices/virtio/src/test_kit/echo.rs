//! The simplest device there can be, for the tests of transports.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::Subject;
use crate::{ConfigSpace, DeviceInfo, Fault, Ram, Rings, VirtioDevice, Watch};

const DOORBELL: u16 = 7;

/// Returns every request of queue 0 untouched; writes `!` into one request of queue 1 whenever its doorbell is pressed.
#[derive(Debug)]
pub struct Echo {
    info: DeviceInfo,
    doorbell: UnixStream,
    panics: bool,
}

/// Every byte written here is one press.
pub type Button = UnixStream;

impl Echo {
    /// The device and the button of its doorbell. Without the button the device faults.
    pub fn new() -> (Self, Button) {
        let info = DeviceInfo { kind: 42, label: "echo".into(), queue_sizes: vec![256, 64], features: 0b101 };
        let (doorbell, button) = UnixStream::pair().expect("a socket pair");
        (Self { info, doorbell, panics: false }, button)
    }

    /// A device with a bug: it panics at the first request.
    pub fn panicking() -> (Self, Button) {
        let (device, button) = Self::new();
        (Self { panics: true, ..device }, button)
    }

    /// The device as the contract suite takes it.
    pub fn subject() -> Subject {
        let (device, button) = Self::new();
        Subject::new(device, &[0]).keeping(button)
    }
}

impl VirtioDevice for Echo {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(EchoConfig)
    }

    fn start(&mut self, _features: u64, _ram: &Ram, watch: &mut dyn Watch) -> Result<(), Fault> {
        Ok(watch.add(self.doorbell.as_fd(), DOORBELL, EventSet::IN)?)
    }

    fn on_queue(&mut self, queue: u16, rings: &mut dyn Rings, _watch: &mut dyn Watch) -> Result<(), Fault> {
        while queue == 0
            && let Some(request) = rings.pop(queue)?
        {
            assert!(!self.panics, "asked to");
            rings.finish(queue, request.head(), 0)?;
        }
        Ok(())
    }

    fn on_event(&mut self, token: u16, rings: &mut dyn Rings, _watch: &mut dyn Watch) -> Result<(), Fault> {
        assert_eq!(token, DOORBELL);
        self.doorbell.read_exact(&mut [0])?;
        if let Some(request) = rings.pop(1)? {
            request.writer().write_obj(b'!')?;
            rings.finish(1, request.head(), 1)?;
        }
        Ok(())
    }

    fn reset(&mut self, watch: &mut dyn Watch) {
        // Not watched before the first start.
        let _ = watch.remove(self.doorbell.as_fd(), DOORBELL);
    }
}

/// Reads as 1, 2, 3, 4 and then zeroes.
#[derive(Debug)]
struct EchoConfig;

impl ConfigSpace for EchoConfig {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (position, byte) in (0u64..).zip(data) {
            *byte = match offset.checked_add(position) {
                Some(0) => 1,
                Some(1) => 2,
                Some(2) => 3,
                Some(3) => 4,
                _ => 0,
            };
        }
    }
}
