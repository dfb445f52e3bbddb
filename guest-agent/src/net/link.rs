//! Finding the interface, in sysfs.

use std::fs;
use std::path::Path;

use crate::failure::{During, Failure};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) index: u32,
}

impl Link {
    /// Writes one of the interface's IPv6 settings.
    pub(super) fn configure_ipv6(&self, setting: &str, value: &str) -> Result<(), Failure> {
        let path = format!("/proc/sys/net/ipv6/conf/{}/{setting}", self.name);
        fs::write(&path, value).during(|| format!("Cannot write {path}"))
    }
}

/// The interface with that address, or the first that is a device.
pub(super) fn find(mac: Option<[u8; 6]>) -> Result<Link, Failure> {
    find_in(Path::new("/sys/class/net"), mac)
}

fn find_in(directory: &Path, mac: Option<[u8; 6]>) -> Result<Link, Failure> {
    let wanted = mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    let entries = fs::read_dir(directory).during(|| "Cannot list network interfaces".into())?;
    let mut links: Vec<Link> = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let read = |what: &str| fs::read_to_string(entry.path().join(what)).unwrap_or_default().trim().to_owned();
        // Interfaces of the kernel's own making have no device.
        let has_device = || entry.path().join("device").exists();
        let is_wanted = wanted.as_ref().map_or_else(has_device, |wanted| read("address") == *wanted);
        if is_wanted && let Ok(index) = read("ifindex").parse() {
            links.push(Link { name, index });
        }
    }
    let first = links.into_iter().min_by_key(|link| link.index);
    first.ok_or_else(|| {
        Failure::new("Cannot find the network interface", wanted.unwrap_or_else(|| "there is none".into()))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::find_in;

    fn add(directory: &Path, name: &str, index: u32, address: &str) {
        fs::create_dir(directory.join(name)).unwrap();
        fs::write(directory.join(name).join("ifindex"), format!("{index}\n")).unwrap();
        fs::write(directory.join(name).join("address"), format!("{address}\n")).unwrap();
    }

    #[test]
    fn the_address_picks_the_interface_or_else_the_first_device() {
        let directory = tempfile::tempdir().unwrap();
        add(directory.path(), "lo", 1, "00:00:00:00:00:00");
        add(directory.path(), "eth1", 3, "02:76:6d:6d:00:02");
        add(directory.path(), "dummy0", 2, "02:00:00:00:00:03");
        add(directory.path(), "eth0", 4, "02:00:00:00:00:01");
        fs::create_dir(directory.path().join("eth0/device")).unwrap();
        assert_eq!(find_in(directory.path(), Some([2, 0x76, 0x6d, 0x6d, 0, 2])).unwrap().name, "eth1");
        assert_eq!(find_in(directory.path(), None).unwrap().name, "eth0");
        assert!(find_in(directory.path(), Some([9; 6])).is_err());
    }
}
