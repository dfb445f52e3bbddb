//! Finding disks by serial number, and making a blank one usable.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Command;

use agent_protocol::bytes::Serial;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::exec::helper;
use crate::failure::{During, Failure};

/// A disk is blank when its beginning is: a filesystem of any kind has something there.
const BLANK_LEN: usize = 64 * 1024;

/// The device node of the disk with that serial.
pub(super) fn find(serial: &Serial) -> Result<String, Failure> {
    let disks = fs::read_dir("/sys/block").during(|| "Cannot list disks".into())?;
    for disk in disks.flatten() {
        let found = fs::read(disk.path().join("serial")).unwrap_or_default();
        if found.trim_ascii() == serial.as_bytes() {
            return Ok(format!("/dev/{}", disk.file_name().display()));
        }
    }
    Err(Failure::new("Cannot find a disk", format!("none has the serial {serial:?}")))
}

/// Formats the disk with the mkfs.ext4 of the image mounted at `image`, if it is blank.
pub(super) fn format_if_blank(device: &str, image: &str) -> Result<(), Failure> {
    if !is_blank(device).during(|| format!("Cannot read {device}"))? {
        return Ok(());
    }
    let devices = format!("{image}/dev");
    mount_bind("/dev", devices.as_str()).during(|| format!("Cannot show devices to the image at {devices}"))?;
    // Nothing on a blank disk needs to be written as zeroes or discarded.
    let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,assume_storage_prezeroed=1";
    let output = Command::new("/proc/self/exe")
        .arg0(helper::CHROOT)
        .args([image, "/sbin/mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, device])
        .env_clear()
        .output();
    unmount(devices.as_str(), UnmountFlags::DETACH).during(|| format!("Cannot unmount {devices}"))?;
    let output = output.during(|| "Cannot run mkfs.ext4".into())?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("Cannot format {device}"), format!("{}: {}", output.status, words.trim())))
}

fn is_blank(device: &str) -> std::io::Result<bool> {
    let mut start = vec![0; BLANK_LEN];
    File::open(device)?.read_exact(&mut start)?;
    Ok(start.iter().all(|byte| *byte == 0))
}
