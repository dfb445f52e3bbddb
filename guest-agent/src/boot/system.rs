//! Clock, names, limits, kernel parameters and the files that say so.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use agent_protocol::bytes::{Hostname, Timezone};
use agent_protocol::setup::{Network, Setup, Sysctl};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::sethostname;
use rustix::time::{ClockId, Timespec, clock_settime};

use super::Boot;
use super::file::put;
use crate::failure::{During, Failure};

/// Open files: as many as development tools ask for; what a process may raise it to.
const OPEN_FILES: Rlimit = Rlimit { current: Some(65_536), maximum: Some(1_048_576) };

/// Kernel parameters that a machine of one's own should have; the host's come after them.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("fs/inotify/max_user_watches", "1048576"),
    ("fs/inotify/max_user_instances", "1024"),
];

/// Sets the wall clock.
pub(crate) fn set_clock(unix_ns: u64) -> Result<(), Failure> {
    let second = 1_000_000_000;
    let clock = Timespec {
        tv_sec: i64::try_from(unix_ns / second).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(unix_ns % second).unwrap_or(0),
    };
    clock_settime(ClockId::Realtime, clock).during(|| "Cannot set the clock".into())
}

pub(super) fn set_hostname(name: &Hostname) -> Result<(), Failure> {
    sethostname(name.as_bytes()).during(|| "Cannot set the host name".into())
}

/// Every command inherits these.
pub(super) fn raise_limits(boot: &mut Boot) {
    boot.tolerate(setrlimit(Resource::Nofile, OPEN_FILES).during(|| "Cannot raise the limit of open files".into()));
}

/// Files of the agent's own making, then those the host gave.
pub(super) fn write_files(setup: &Setup, boot: &mut Boot) -> Result<(), Failure> {
    let put_text =
        |path: &str, text: &str| put(Path::new(path), text.as_bytes(), 0o644).during(|| format!("Cannot write {path}"));
    boot.tolerate(put_text("/etc/hosts", &hosts(&setup.hostname, setup.network.as_ref())));
    if let Some(network) = &setup.network {
        boot.tolerate(put_text("/etc/resolv.conf", &resolv_conf(network)));
    }
    if let Some(timezone) = &setup.timezone {
        boot.tolerate(set_timezone(timezone));
    }
    for file in &setup.files {
        let path = file.path.as_path();
        put(path, &file.content, file.mode).during(|| format!("Cannot write {}", path.display()))?;
    }
    Ok(())
}

fn hosts(hostname: &Hostname, network: Option<&Network>) -> String {
    let hostname = hostname.as_os_str().display();
    let mut text = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {hostname}\n");
    for host in network.into_iter().flat_map(|network| &network.hosts) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {}", host.address, host.name.as_os_str().display());
    }
    text
}

fn resolv_conf(network: &Network) -> String {
    let mut text = String::new();
    for server in &network.dns {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "nameserver {server}");
    }
    if !network.search.is_empty() {
        let names: Vec<String> = network.search.iter().map(|name| name.as_os_str().display().to_string()).collect();
        let _ = writeln!(text, "search {}", names.join(" "));
    }
    text
}

fn set_timezone(timezone: &Timezone) -> Result<(), Failure> {
    let link = Path::new("/etc/localtime");
    let target = Path::new("/usr/share/zoneinfo").join(timezone.as_os_str());
    let step = || format!("Cannot set the time zone {timezone:?}");
    fs::metadata(&target).during(step)?;
    if fs::read_link(link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    // Not there is as good as removed; anything else shows in the next step.
    let _ = fs::remove_file(link);
    std::os::unix::fs::symlink(&target, link).during(step)
}

/// Sets the agent's and the host's kernel parameters; one that cannot be set is a warning.
pub(super) fn set_sysctls(wanted: &[Sysctl], boot: &mut Boot) {
    for (name, value) in SYSCTLS {
        // A kernel without the feature does not need the setting.
        let _ = fs::write(Path::new("/proc/sys").join(name), value);
    }
    for sysctl in wanted {
        let name: Vec<u8> =
            sysctl.name.as_bytes().iter().map(|byte| if *byte == b'.' { b'/' } else { *byte }).collect();
        let path = PathBuf::from("/proc/sys").join(String::from_utf8_lossy(&name).as_ref());
        let written = fs::write(&path, sysctl.value.as_bytes());
        boot.tolerate(written.during(|| format!("Cannot set {:?}", sysctl.name)));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use agent_protocol::bytes::{Domain, Hostname};
    use agent_protocol::setup::{Host, Network};

    use super::{hosts, resolv_conf};

    fn network() -> Network {
        let gateway = IpAddr::V4(Ipv4Addr::new(100, 96, 0, 1));
        let domain = |name: &str| Domain::new(name).unwrap();
        Network {
            mac: None,
            mtu: 65520,
            ipv4: None,
            ipv6: None,
            dns: vec![gateway],
            search: vec![domain("a.example"), domain("b.example")],
            hosts: vec![Host { address: gateway, name: domain("host.internal") }],
        }
    }

    #[test]
    fn hosts_has_localhost_the_guest_and_what_was_given() {
        let text = hosts(&Hostname::new("vm").unwrap(), Some(&network()));
        assert!(text.contains("127.0.0.1 localhost\n"));
        assert!(text.contains("127.0.1.1 vm\n"));
        assert!(text.ends_with("100.96.0.1 host.internal\n"));
    }

    #[test]
    fn resolv_conf_has_servers_and_search_list() {
        assert_eq!(resolv_conf(&network()), "nameserver 100.96.0.1\nsearch a.example b.example\n");
    }
}
