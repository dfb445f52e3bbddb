//! Entropy for the guest (virtio 1.2, section 5.4): fills every buffer the driver sends with the host's random bytes.
//!
//! Nothing the guest sends is looked at; only the size of its buffers is its choice, and that is bounded.

use std::io::Write;
use std::sync::Arc;

use rustix::rand::{GetRandomFlags, getrandom};
use virtio::{ConfigSpace, DeviceInfo, Fault, NoConfig, Ram, Rings, VirtioDevice, Watch, Writer};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

/// Random bytes given for one request at most; the driver asks again for more. Descriptors may overlap and claim far
/// more than guest RAM, and Linux asks for no more than a page.
pub const MAX_REQUEST: usize = 64 << 10;

/// Bytes taken from the host's generator at once; requests up to 256 bytes are never interrupted, larger ones may be.
const CHUNK: usize = 256;

/// An entropy device.
#[derive(Debug)]
pub struct Rng {
    info: DeviceInfo,
}

impl Rng {
    /// A device that draws from the host kernel's generator.
    pub fn new() -> Self {
        Self::labelled("rng")
    }

    /// The same, for a VM that has more than one.
    pub fn labelled(label: impl Into<String>) -> Self {
        let info = DeviceInfo { kind: VIRTIO_ID_RNG, label: label.into(), queue_sizes: vec![64], features: 0 };
        Self { info }
    }
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtioDevice for Rng {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(NoConfig)
    }

    fn start(&mut self, _features: u64, _ram: &Ram, _watch: &mut dyn Watch) -> Result<(), Fault> {
        Ok(())
    }

    fn on_queue(&mut self, queue: u16, rings: &mut dyn Rings, _watch: &mut dyn Watch) -> Result<(), Fault> {
        while let Some(request) = rings.pop(queue)? {
            let written = fill(&mut request.writer())?;
            rings.finish(queue, request.head(), written)?;
        }
        Ok(())
    }

    fn on_event(&mut self, _token: u16, _rings: &mut dyn Rings, _watch: &mut dyn Watch) -> Result<(), Fault> {
        Ok(())
    }

    fn reset(&mut self, _watch: &mut dyn Watch) {}
}

/// Fills a buffer up to the limit and returns how much that was.
fn fill(buffer: &mut Writer<'_>) -> Result<u32, Fault> {
    let mut chunk = [0u8; CHUNK];
    let mut left = buffer.available_bytes().min(MAX_REQUEST);
    while left > 0 {
        let (bytes, _) = chunk.split_at_mut(left.min(CHUNK));
        let count = getrandom(&mut *bytes, GetRandomFlags::empty()).map_err(std::io::Error::from)?;
        let Some(bytes) = bytes.get(..count) else { break };
        buffer.write_all(bytes)?;
        left -= count;
    }
    // At most `MAX_REQUEST`.
    Ok(u32::try_from(buffer.bytes_written()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use virtio::test_kit::{Buffer, DATA, DriverQueue, Exchange, Local, Subject, Transport, hostile_chains, ram};

    use super::*;

    fn rng() -> Subject {
        Subject::new(Rng::new(), &[0])
    }

    mod contract {
        virtio::contract_suite!(super::rng);
    }

    fn served() -> (Local, DriverQueue) {
        let ram = ram();
        let driver = DriverQueue::new(&ram, 0, 64);
        let mut local = Local::serve(Box::new(Rng::new()), &ram);
        local.start(0, std::slice::from_ref(&driver));
        (local, driver)
    }

    #[test]
    fn buffer_is_filled_to_its_end_and_no_further() {
        let (local, mut driver) = served();
        let used = local.exchange(0, &mut driver, &[Buffer::writable(DATA, 1000)]);
        assert_eq!(used.length, 1000);
        let bytes = driver.read(DATA, 1064);
        // A run of 16 zero bytes does not come out of a working generator.
        assert!(bytes[..1000].windows(16).all(|window| window.iter().any(|byte| *byte != 0)));
        assert_eq!(bytes[1000..], [0; 64]);
    }

    #[test]
    fn two_requests_differ() {
        let (local, mut driver) = served();
        local.exchange(0, &mut driver, &[Buffer::writable(DATA, 64)]);
        local.exchange(0, &mut driver, &[Buffer::writable(DATA + 64, 64)]);
        assert_ne!(driver.read(DATA, 64), driver.read(DATA + 64, 64));
    }

    #[test]
    fn overlapping_buffers_claiming_256_mib_get_no_more_than_the_limit() {
        let (local, mut driver) = served();
        let hostile = hostile_chains().into_iter().find(|chain| chain.name.contains("overlapping writable")).unwrap();
        hostile.send(&mut driver);
        assert_eq!(usize::try_from(local.answer(0, &mut driver).length).unwrap(), MAX_REQUEST);
    }
}
