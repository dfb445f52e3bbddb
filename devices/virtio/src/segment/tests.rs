//! Positions in scattered memory, and files read and written straight through them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use virtio_queue::QueueOwnedT;
use vm_memory::GuestAddressSpace;

use crate::Request;
use crate::test_kit::{Buffer, DATA, DriverQueue, ram};

/// A request of two readable and two writable pieces, 4 and 6 bytes each way, and the driver's view of them.
fn scattered() -> (Request, DriverQueue) {
    let ram = ram();
    let mut driver = DriverQueue::new(&ram, 0, 16);
    driver.write(DATA, b"0123");
    driver.write(DATA + 100, b"456789");
    driver.send(&[
        Buffer::readable(DATA, 4),
        Buffer::readable(DATA + 100, 6),
        Buffer::writable(DATA + 200, 4),
        Buffer::writable(DATA + 300, 6),
    ]);
    let chain = driver.device_side(false).iter(ram.memory()).unwrap().next().unwrap();
    (Request::parse(chain, ram.memory()).unwrap(), driver)
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
    bytes
}

fn written(driver: &DriverQueue) -> Vec<u8> {
    [driver.read(DATA + 200, 4), driver.read(DATA + 300, 6)].concat()
}

#[test]
fn split_at_any_byte_keeps_every_byte() {
    let (request, _driver) = scattered();
    for at in 0..=10 {
        let mut front = request.reader();
        let mut back = front.split_at(at).unwrap();
        let mut bytes = Vec::new();
        assert_eq!(front.read_to_end(&mut bytes).unwrap(), at);
        back.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"0123456789");
        assert_eq!((front.bytes_read(), back.bytes_read()), (at, 10 - at));
    }
    assert!(request.reader().split_at(11).is_none());
}

#[test]
fn skipping_past_the_end_stops_at_the_end() {
    let (request, _driver) = scattered();
    let mut reader = request.reader();
    reader.skip(7);
    assert_eq!(reader.read_obj::<u8>().unwrap(), b'7');
    reader.skip(100);
    assert_eq!(reader.available_bytes(), 0);
    assert!(reader.read_obj::<u8>().is_err());
}

#[test]
fn guest_bytes_reach_a_file_at_an_offset() {
    let (request, _driver) = scattered();
    let file = file_of(b"................");
    let mut reader = request.reader();
    reader.skip(1);
    reader.read_exact_to_at(file.as_fd(), 7, 3).unwrap();
    assert_eq!(contents(&file), b"...1234567......");
    assert_eq!(reader.available_bytes(), 2);
}

#[test]
fn file_bytes_reach_the_guest_and_stop_at_the_count() {
    let (request, driver) = scattered();
    let file = file_of(b"abcdefghijklmnop");
    let mut writer = request.writer();
    writer.write_exact_from_at(file.as_fd(), 7, 2).unwrap();
    assert_eq!(written(&driver), b"cdefghi\0\0\0");
    assert_eq!(writer.bytes_written(), 7);
}

#[test]
fn end_of_file_is_short_or_an_error_as_asked() {
    let (request, driver) = scattered();
    let file = file_of(b"abc");
    assert_eq!(request.writer().write_from_at(file.as_fd(), 10, 1).unwrap(), 2);
    assert_eq!(written(&driver), b"bc\0\0\0\0\0\0\0\0");
    let error = request.writer().write_exact_from_at(file.as_fd(), 10, 0).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn more_than_the_chain_holds_is_refused_before_any_transfer() {
    let (request, driver) = scattered();
    let file = file_of(b"abcdefghijklmnop");
    assert!(request.writer().write_exact_from_at(file.as_fd(), 11, 0).is_err());
    assert_eq!(written(&driver), [0; 10]);
    assert!(request.reader().read_exact_to_at(file.as_fd(), 11, 0).is_err());
    assert_eq!(contents(&file), b"abcdefghijklmnop");
}

#[test]
fn offsets_no_file_has_are_errors() {
    let (request, _driver) = scattered();
    let file = file_of(b"abc");
    assert!(request.writer().write_from_at(file.as_fd(), 1, u64::MAX).is_err());
    assert!(request.reader().read_to_at(file.as_fd(), 1, 1 << 63).is_err());
}

#[test]
fn sockets_take_and_give_without_a_position() {
    let (request, driver) = scattered();
    let (mut near, far) = UnixStream::pair().unwrap();
    assert_eq!(request.reader().read_to(far.as_fd(), 8).unwrap(), 8);
    let mut bytes = [0; 8];
    near.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"01234567");
    near.write_all(b"vwxyz").unwrap();
    assert_eq!(request.writer().write_from(far.as_fd(), 10).unwrap(), 5);
    assert_eq!(written(&driver), b"vwxyz\0\0\0\0\0");
}

#[test]
fn zeroes_overwrite_what_was_there() {
    let (request, driver) = scattered();
    request.writer().write_all(b"ABCDEFGHIJ").unwrap();
    let mut writer = request.writer();
    assert_eq!(writer.write_zeroes(6), 6);
    assert_eq!(written(&driver), b"\0\0\0\0\0\0GHIJ");
    assert_eq!(writer.write_zeroes(100), 4);
}

#[test]
fn what_a_socket_has_is_looked_at_where_the_guest_finds_it_and_stays() {
    let (request, driver) = scattered();
    let (mut far, near) = UnixStream::pair().unwrap();
    far.write_all(b"abcdefgh").unwrap();
    crate::set_peek_offset(&near, 1).unwrap();
    let mut writer = request.writer();
    assert_eq!(writer.peek_from(near.as_fd(), 5).unwrap(), 5);
    assert_eq!((writer.bytes_written(), &written(&driver)[..5]), (5, &b"bcdef"[..]));
    let mut all = [0; 8];
    (&near).read_exact(&mut all).unwrap();
    assert_eq!(&all, b"abcdefgh");
}
