//! Hands what the host says about changed files to the kernel.
//!
//! Our kernel takes notices through an attribute of the virtio-fs device, one in each write; others have no such
//! attribute, and the host is told so. The kernel applies a notice before the write returns, so notices take effect in
//! their order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use agent_protocol::notice::{EVERYTHING, NOTICE_PORT, NoticeReader};
use agent_protocol::{ProtocolError, SHARES_TAG};
use rustix::io::Errno;

use crate::failure::{During, Failure};
use crate::{accept, log, vsock};

/// Where the kernel lists its virtio-fs devices.
const DEVICES: &str = "/sys/fs/virtiofs";
const STACK: usize = 128 << 10;

/// Takes notices from now on, if the kernel does; whether it does.
pub(crate) fn start() -> Result<bool, Failure> {
    let Some(attribute) = attribute(Path::new(DEVICES)) else { return Ok(false) };
    // It fails as long as nothing is mounted.
    if attribute.write_at(&EVERYTHING, 0).is_err() {
        return Ok(false);
    }
    let listener = vsock::listen_on(NOTICE_PORT).during(|| "Cannot listen for notices".into())?;
    let thread = thread::Builder::new().name("notice".into()).stack_size(STACK);
    thread.spawn(move || take_notices(&listener, &attribute)).during(|| "Cannot start to take notices".into())?;
    Ok(true)
}

/// The attribute of the device that carries the shares.
fn attribute(devices: &Path) -> Option<File> {
    let is_ours =
        |device: &Path| fs::read(device.join("tag")).is_ok_and(|tag| tag.trim_ascii_end() == SHARES_TAG.as_bytes());
    let mut devices = fs::read_dir(devices).ok()?.flatten().map(|device| device.path());
    let device = devices.find(|device| is_ours(device))?;
    OpenOptions::new().write(true).open(device.join("notify")).ok()
}

/// Serves one connection after the other, for ever.
fn take_notices(listener: &OwnedFd, attribute: &File) {
    while let Some(stream) = accept::next("a connection for notices", || vsock::accept(listener)) {
        if let Err(error) = pass_on(File::from(stream), |notice| attribute.write_at(notice, 0).map(drop)) {
            log::warn(&format!("notices end: {error}"));
        }
    }
}

/// Gives `kernel` every notice of `stream`, and at the end, whatever it is, that everything may have changed.
fn pass_on(stream: impl Read, mut kernel: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), ProtocolError> {
    let mut notices = NoticeReader::new(stream);
    let ended = loop {
        match notices.receive() {
            Ok(Some(notice)) => match kernel(notice) {
                // It does not know what the notice is about, so there is nothing to forget.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
                // What could not be forgotten alone is forgotten with everything else.
                Err(error) => match kernel(&EVERYTHING) {
                    Ok(()) => log::warn(&format!("the kernel refuses a notice: {error}")),
                    Err(error) => break Err(error.into()),
                },
                Ok(()) => {}
            },
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    kernel(&EVERYTHING)?;
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTICE: [u8; 17] = [17, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'x'];

    /// What the kernel is given for `stream` when it answers every notice but the last one with `answer`.
    fn given(stream: &[u8], answer: impl Fn() -> io::Result<()>) -> (Vec<Vec<u8>>, bool) {
        let mut given = Vec::new();
        let ended = pass_on(stream, |notice| {
            given.push(notice.to_vec());
            if notice == EVERYTHING { Ok(()) } else { answer() }
        });
        (given, ended.is_ok())
    }

    #[test]
    fn notices_go_to_the_kernel_in_order_and_the_end_makes_it_forget() {
        let stream = [&NOTICE[..], &EVERYTHING, &NOTICE].concat();
        let expected = vec![NOTICE.to_vec(), EVERYTHING.to_vec(), NOTICE.to_vec(), EVERYTHING.to_vec()];
        assert_eq!(given(&stream, || Ok(())), (expected, true));
    }

    #[test]
    fn what_the_kernel_does_not_know_needs_nothing() {
        let answer = || Err(Errno::NOENT.into());
        assert_eq!(given(&NOTICE, answer), (vec![NOTICE.to_vec(), EVERYTHING.to_vec()], true));
    }

    #[test]
    fn what_the_kernel_cannot_forget_alone_is_forgotten_with_everything() {
        let answer = || Err(Errno::NOMEM.into());
        let expected =
            vec![NOTICE.to_vec(), EVERYTHING.to_vec(), NOTICE.to_vec(), EVERYTHING.to_vec(), EVERYTHING.to_vec()];
        assert_eq!(given(&[NOTICE, NOTICE].concat(), answer), (expected, true));
    }

    #[test]
    fn nonsense_ends_the_connection_and_makes_the_kernel_forget() {
        let stream = [&NOTICE[..], &[0; 20]].concat();
        assert_eq!(given(&stream, || Ok(())), (vec![NOTICE.to_vec(), EVERYTHING.to_vec()], false));
    }

    #[test]
    fn the_attribute_is_that_of_the_device_with_the_shares() {
        let devices = tempfile::tempdir().unwrap();
        for (number, tag) in [("0", "other\n"), ("1", "vmm-shares\n"), ("2", "vmm-shares-too\n")] {
            let device = devices.path().join(number);
            fs::create_dir(&device).unwrap();
            fs::write(device.join("tag"), tag).unwrap();
            fs::write(device.join("notify"), "").unwrap();
        }
        attribute(devices.path()).unwrap().write_at(b"here", 0).unwrap();
        assert_eq!(fs::read(devices.path().join("1/notify")).unwrap(), b"here");

        fs::remove_file(devices.path().join("1/notify")).unwrap();
        assert!(attribute(devices.path()).is_none());
        assert!(attribute(&devices.path().join("missing")).is_none());
    }
}
