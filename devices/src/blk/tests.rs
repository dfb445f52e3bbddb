//! Requests as a driver makes them, and as no driver should.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use virtio::test_kit::{Buffer, DATA, DriverQueue, Exchange, Local, Subject, Transport, ram};

use super::*;
use crate::blk::config::{MAX_DATA, MAX_DISCARD_SECTORS, MAX_RANGES};

/// 1 MiB and half a sector: the half is out of reach.
const IMAGE_BYTES: u64 = (1 << 20) + 256;
const SECTORS: u64 = 2048;
const HEADER: u64 = DATA;
const PAYLOAD: u64 = DATA + 0x1000;
const STATUS: u64 = DATA + 0x800;
const FEATURES: u64 = 1 << 9 | 1 << 13 | 1 << 14;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// What the status byte holds before the device writes it.
const NO_STATUS: u8 = 0xee;

struct Bench {
    local: Local,
    driver: DriverQueue,
    image: File,
}

fn image() -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&vec![b'x'; usize::try_from(IMAGE_BYTES).unwrap()], 0).unwrap();
    file
}

fn bench_with(access: Access, features: u64) -> Bench {
    let image = image();
    let blk = Blk::new(Disk::new(image.try_clone().unwrap(), access).unwrap(), "overlay");
    let ram = ram();
    let driver = DriverQueue::new(&ram, 0, 256);
    let mut local = Local::serve(Box::new(blk), &ram);
    local.start(features, std::slice::from_ref(&driver));
    Bench { local, driver, image }
}

fn bench() -> Bench {
    bench_with(Access::ReadWrite, FEATURES)
}

impl Bench {
    /// Sends header, buffers and status; returns status and used length.
    fn request(&mut self, kind: u32, sector: u64, buffers: &[Buffer]) -> (u8, u32) {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.driver.write(HEADER, &header);
        self.driver.write(STATUS, &[NO_STATUS]);
        let mut chain = vec![Buffer::readable(HEADER, 16)];
        chain.extend(buffers);
        chain.push(Buffer::writable(STATUS, 1));
        let used = self.local.exchange(0, &mut self.driver, &chain);
        (self.driver.read(STATUS, 1)[0], used.length)
    }

    fn status(&mut self, kind: u32, sector: u64, buffers: &[Buffer]) -> u8 {
        self.request(kind, sector, buffers).0
    }

    /// A discard or write-zeroes request over (sector, sectors, flags).
    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let bytes: Vec<u8> = ranges
            .iter()
            .flat_map(|(sector, sectors, flags)| {
                [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
            })
            .collect();
        self.driver.write(PAYLOAD, &bytes);
        self.status(kind, 0, &[Buffer::readable(PAYLOAD, u32::try_from(bytes.len()).unwrap())])
    }

    fn on_image(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.image.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

fn subject(access: Access) -> Subject {
    Subject::new(Blk::new(Disk::new(image(), access).unwrap(), "root"), &[0])
}

fn writable() -> Subject {
    subject(Access::ReadWrite)
}

fn read_only() -> Subject {
    subject(Access::ReadOnly)
}

mod writable_contract {
    virtio::contract_suite!(super::writable);
}

mod read_only_contract {
    virtio::contract_suite!(super::read_only);
}

#[test]
fn what_is_written_is_on_the_image_and_reads_back() {
    let mut bench = bench();
    bench.driver.write(PAYLOAD, &[b'w'; 1024]);
    let written = bench.request(WRITE, 3, &[Buffer::readable(PAYLOAD, 1024)]);
    assert_eq!(written, (OK, 1));
    assert_eq!(bench.on_image(3 * 512 - 1, 1026), [&b"x"[..], &[b'w'; 1024], b"x"].concat());
    let read = bench.request(READ, 2, &[Buffer::writable(PAYLOAD, 700), Buffer::writable(PAYLOAD + 0x1000, 836)]);
    assert_eq!(read, (OK, 1537));
    assert_eq!(bench.driver.read(PAYLOAD, 700), [vec![b'x'; 512], vec![b'w'; 188]].concat());
    assert_eq!(bench.driver.read(PAYLOAD + 0x1000, 836), vec![b'w'; 836]);
}

#[test]
fn header_and_status_may_share_descriptors_with_data() {
    let mut bench = bench();
    let header = [&READ.to_le_bytes()[..], &[0; 4], &0u64.to_le_bytes()].concat();
    bench.driver.write(HEADER, &header);
    bench.local.exchange(
        0,
        &mut bench.driver,
        &[Buffer::readable(HEADER, 3), Buffer::readable(HEADER + 3, 13), Buffer::writable(PAYLOAD, 513)],
    );
    assert_eq!(bench.driver.read(PAYLOAD, 513), [&[b'x'; 512][..], &[OK]].concat());
}

#[test]
fn sectors_past_the_end_are_io_errors() {
    let mut bench = bench();
    let sector = [Buffer::writable(PAYLOAD, 512)];
    let two = [Buffer::writable(PAYLOAD, 1024)];
    assert_eq!(bench.status(READ, SECTORS - 1, &sector), OK);
    assert_eq!(bench.status(READ, SECTORS, &sector), IOERR);
    assert_eq!(bench.status(READ, SECTORS - 1, &two), IOERR);
    for far in [u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1, 1 << 63] {
        assert_eq!(bench.status(READ, far, &sector), IOERR, "sector {far}");
        assert_eq!(bench.status(WRITE, far, &[Buffer::readable(PAYLOAD, 512)]), IOERR, "sector {far}");
    }
    assert_eq!(bench.image.metadata().unwrap().len(), IMAGE_BYTES);
}

#[test]
fn half_sectors_are_io_errors() {
    let mut bench = bench();
    assert_eq!(bench.status(READ, 0, &[Buffer::writable(PAYLOAD, 511)]), IOERR);
    assert_eq!(bench.status(WRITE, 0, &[Buffer::readable(PAYLOAD, 513)]), IOERR);
    assert_eq!(bench.on_image(0, 1024), [b'x'; 1024]);
}

#[test]
fn image_cut_short_by_the_host_is_an_io_error() {
    let mut bench = bench();
    bench.image.set_len(512).unwrap();
    assert_eq!(bench.status(READ, 0, &[Buffer::writable(PAYLOAD, 512)]), OK);
    assert_eq!(bench.status(READ, 1, &[Buffer::writable(PAYLOAD, 512)]), IOERR);
}

#[test]
fn full_host_disk_is_an_io_error_and_the_device_goes_on() {
    // Every write to this device fails with ENOSPC.
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    let disk = Disk::new(image(), Access::ReadWrite).unwrap().on(full);
    let ram = ram();
    let driver = DriverQueue::new(&ram, 0, 256);
    let mut local = Local::serve(Box::new(Blk::new(disk, "full")), &ram);
    local.start(FEATURES, std::slice::from_ref(&driver));
    let mut bench = Bench { local, driver, image: image() };
    assert_eq!(bench.status(WRITE, 0, &[Buffer::readable(PAYLOAD, 512)]), IOERR);
    assert_eq!(bench.status(READ, 0, &[Buffer::writable(PAYLOAD, 512)]), OK);
}

#[test]
fn read_only_disk_refuses_every_change() {
    let mut bench = bench_with(Access::ReadOnly, FEATURES);
    assert_eq!(bench.status(WRITE, 0, &[Buffer::readable(PAYLOAD, 512)]), IOERR);
    assert_ne!(bench.ranges(DISCARD, &[(0, 8, 0)]), OK);
    assert_ne!(bench.ranges(ZEROES, &[(0, 8, 0)]), OK);
    assert_eq!(bench.on_image(0, 4096), [b'x'; 4096]);
    assert_eq!(bench.status(READ, 0, &[Buffer::writable(PAYLOAD, 512)]), OK);
}

#[test]
fn access_decides_the_features() {
    let features = |access| subject(access).device.info().features;
    assert_eq!(features(Access::ReadOnly), 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6);
    assert_eq!(features(Access::ReadWrite), 1 << 1 | 1 << 2 | 1 << 6 | FEATURES);
}

#[test]
fn serial_is_the_label_padded_to_20_bytes() {
    let mut bench = bench();
    assert_eq!(bench.request(GET_ID, 0, &[Buffer::writable(PAYLOAD, 20)]), (OK, 21));
    assert_eq!(bench.driver.read(PAYLOAD, 20), b"overlay\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(bench.request(GET_ID, 0, &[Buffer::writable(PAYLOAD, 4)]), (OK, 5));
}

#[test]
fn flush_succeeds() {
    assert_eq!(bench().status(FLUSH, 0, &[]), OK);
}

#[test]
fn discarded_range_returns_its_space_to_the_host() {
    let mut bench = bench();
    let before = bench.image.metadata().unwrap().blocks();
    assert_eq!(bench.ranges(DISCARD, &[(0, 1024, 0), (1024, 512, 0)]), OK);
    assert_eq!(before - bench.image.metadata().unwrap().blocks(), 1536);
    assert_eq!(bench.on_image(1535 * 512, 1024), [[0; 512], [b'x'; 512]].concat());
    assert_eq!(bench.image.metadata().unwrap().len(), IMAGE_BYTES);
}

#[test]
fn zeroed_range_reads_as_zeroes_whether_unmapped_or_not() {
    for unmap in [0, 1] {
        let mut bench = bench();
        assert_eq!(bench.ranges(ZEROES, &[(1, 300, unmap)]), OK);
        assert_eq!(bench.on_image(511, 301 * 512), [&b"x"[..], &[0; 300 * 512], &[b'x'; 511]].concat());
    }
}

#[test]
fn bad_ranges_change_nothing() {
    let good = (0, 8, 0);
    let mut bench = bench();
    assert_eq!(bench.ranges(DISCARD, &[good, (SECTORS - 7, 8, 0)]), IOERR);
    assert_eq!(bench.ranges(DISCARD, &[good, (u64::MAX, 8, 0)]), IOERR);
    assert_eq!(bench.ranges(DISCARD, &[good, (0, MAX_DISCARD_SECTORS + 1, 0)]), IOERR);
    assert_eq!(bench.ranges(DISCARD, &[good, (0, 8, 1)]), UNSUPPORTED);
    assert_eq!(bench.ranges(ZEROES, &[good, (0, 8, 2)]), UNSUPPORTED);
    assert_eq!(bench.ranges(DISCARD, &[good; MAX_RANGES + 1]), IOERR);
    assert_eq!(bench.ranges(DISCARD, &[]), IOERR);
    assert_eq!(bench.status(DISCARD, 0, &[Buffer::readable(PAYLOAD, 15)]), IOERR);
    assert_eq!(bench.on_image(0, 4096), [b'x'; 4096]);
}

#[test]
fn requests_that_were_not_negotiated_are_unsupported() {
    let mut bench = bench_with(Access::ReadWrite, 0);
    assert_eq!(bench.ranges(DISCARD, &[(0, 8, 0)]), UNSUPPORTED);
    assert_eq!(bench.ranges(ZEROES, &[(0, 8, 0)]), UNSUPPORTED);
    assert_eq!(bench.status(77, 0, &[]), UNSUPPORTED);
    assert_eq!(bench.status(u32::MAX, 0, &[]), UNSUPPORTED);
}

#[test]
fn request_larger_than_any_honest_one_is_refused() {
    let mut bench = bench();
    let header = [&READ.to_le_bytes()[..], &[0; 12]].concat();
    bench.driver.write(HEADER, &header);
    let mut chain = vec![Buffer::readable(HEADER, 16)];
    // The same MiB again and again: more than `MAX_DATA` in all.
    chain.extend(vec![Buffer::writable(PAYLOAD, 1 << 19); MAX_DATA / (1 << 19) + 1]);
    chain.push(Buffer::writable(STATUS, 1));
    bench.driver.send_indirect(&chain);
    let used = bench.local.answer(0, &mut bench.driver);
    assert_eq!((bench.driver.read(STATUS, 1)[0], used.length), (IOERR, 1));
}

#[test]
fn request_without_room_for_a_status_comes_back_empty() {
    let mut bench = bench();
    let used = bench.local.exchange(0, &mut bench.driver, &[Buffer::readable(HEADER, 16)]);
    assert_eq!(used.length, 0);
}

#[test]
fn request_without_a_header_gets_an_error_status() {
    let mut bench = bench();
    bench.driver.write(STATUS, &[NO_STATUS]);
    let chain = [Buffer::readable(HEADER, 15), Buffer::writable(STATUS, 1)];
    let used = bench.local.exchange(0, &mut bench.driver, &chain);
    assert_eq!((bench.driver.read(STATUS, 1)[0], used.length), (IOERR, 1));
}

#[test]
fn configuration_tells_the_size_in_sectors() {
    let mut bench = bench();
    assert_eq!(bench.local.config(0, 8), SECTORS.to_le_bytes());
    assert_eq!(bench.local.config(20, 4), 512u32.to_le_bytes());
    assert_eq!(bench.local.config(56, 1), [1]);
    assert_eq!(bench.local.config(60, 8), [0; 8]);
}

#[test]
fn empty_image_is_no_disk() {
    let error = Disk::new(tempfile::tempfile().unwrap(), Access::ReadOnly).unwrap_err();
    assert!(error.to_string().contains("at least 512 bytes"), "{error}");
}
