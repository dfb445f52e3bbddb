//! No driver, whatever it does, brings a device down: random scripts against every device. The fuzz targets play the
//! same scripts, only longer and better chosen.

use std::fs::File;
use std::os::unix::net::UnixStream;

use devices::balloon::Balloon;
use devices::blk::{Access, Blk, Disk};
use devices::console::Console;
use devices::rng::Rng;
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};
use virtio::test_kit::{Echo, Subject, play};

fn image() -> File {
    let image = tempfile::tempfile().expect("a temporary file");
    image.set_len(1 << 20).expect("a sparse file");
    image
}

fn blk(access: Access) -> Subject {
    Subject::new(Blk::new(Disk::new(image(), access).expect("a disk"), "disk"), &[0])
}

fn console() -> Subject {
    let (host, far) = UnixStream::pair().expect("a socket pair");
    let (console, handle) = Console::new(far.into()).expect("a console");
    Subject::new(console, &[1]).keeping((handle, host))
}

fn balloon() -> Subject {
    let (balloon, handle) = Balloon::new().expect("a balloon");
    Subject::new(balloon, &[0, 1, 3, 4]).keeping(handle)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rng_survives_any_driver(script in vec(any::<u8>(), 0..2000)) {
        play(Subject::new(Rng::new(), &[0]), &script);
    }

    #[test]
    fn writable_disk_survives_any_driver(script in vec(any::<u8>(), 0..2000)) {
        play(blk(Access::ReadWrite), &script);
    }

    #[test]
    fn read_only_disk_survives_any_driver(script in vec(any::<u8>(), 0..2000)) {
        play(blk(Access::ReadOnly), &script);
    }

    #[test]
    fn console_survives_any_driver(script in vec(any::<u8>(), 0..2000)) {
        play(console(), &script);
    }

    #[test]
    fn balloon_survives_any_driver(script in vec(any::<u8>(), 0..2000)) {
        play(balloon(), &script);
    }

    #[test]
    fn split_queue_survives_any_driver(script in vec(any::<u8>(), 0..2000)) {
        play(Echo::subject(), &script);
    }
}
