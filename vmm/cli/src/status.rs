//! `vmm status`: running VMs, as they describe themselves.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use launcher::{Client, Dirs, Error, ShareStatus, Status};

use crate::{ports, report, which};

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// VM, by its name or the beginning of it, its project's path, or the name of the project's folder
    /// [default: all of yours]
    #[arg(value_name = "VM")]
    vm: Option<std::ffi::OsString>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what runs.
pub fn run(args: &StatusArgs) -> Result<u8, Error> {
    let dirs = Dirs::from_env()?;
    let found = match &args.vm {
        Some(words) => {
            let card = which::running(&dirs, Some(words))?;
            vec![Client::connect(&dirs, &card.id)?.status()?]
        }
        // One that ends while we ask is none.
        None => launcher::running(&dirs)?
            .iter()
            .filter_map(|card| Client::connect(&dirs, &card.id).ok()?.status().ok())
            .collect(),
    };
    print(&found, args.json).map_err(|source| Error::Host { doing: "Printing the status", source })?;
    Ok(0)
}

fn print(found: &[Status], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, found)?;
        return writeln!(out);
    }
    if found.is_empty() {
        return writeln!(out, "No VM is running; `vmm run -- COMMAND` starts one");
    }
    found.iter().try_for_each(|status| out.write_all(describe(status).as_bytes()))
}

fn describe(status: &Status) -> String {
    let mut text = format!("{}  {}\n", status.id, status.project.display());
    let mut put = |title: &str, lines: &[String]| {
        for (index, line) in lines.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {:<9} {line}", if index == 0 { title } else { "" });
        }
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(status.started)).unwrap_or_default();
    put("process", &[format!("{}, for {}", status.pid, rough(since))]);
    put("engine", &[format!("{}, {}, {} MiB", status.engine, report::cpus(status.cpus), status.memory_mib)]);
    let shares = status.shares.iter().map(|share| {
        let mode = if share.read_only { "read-only" } else { "read-write" };
        match share.host == share.guest {
            true => format!("{} ({mode})", share.host.display()),
            false => format!("{} -> {} ({mode})", share.host.display(), share.guest.display()),
        }
    });
    put("shares", &shares.collect::<Vec<_>>());
    put("protected", &inside(status, |share| &share.protected));
    put("hidden", &inside(status, |share| &share.hidden));
    match &status.network {
        None => put("network", &["none".to_owned()]),
        Some(network) => {
            put("network", &[network.policy.as_slice(), &network.ways].concat());
            put("ports", &ports::lines(&network.published));
            put("flows", &[format!("{} TCP, {} UDP", network.tcp_flows, network.udp_mappings)]);
            if network.log_lines_lost > 0 {
                put("log", &[format!("{} lines lost", network.log_lines_lost)]);
            }
        }
    }
    text
}

/// Places in the shares, as the guest names them.
fn inside(status: &Status, of: fn(&ShareStatus) -> &Vec<PathBuf>) -> Vec<String> {
    let places = status.shares.iter().flat_map(|share| of(share).iter().map(|path| share.guest.join(path)));
    places.map(|path| path.display().to_string()).collect()
}

fn rough(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use launcher::NetworkStatus;

    use super::*;

    #[test]
    fn a_status_shows_shares_network_and_flows() {
        let share = |guest: &str, read_only| ShareStatus {
            host: "/a".into(),
            guest: guest.into(),
            read_only,
            protected: vec![".git/config".into()],
            hidden: Vec::new(),
        };
        let network = NetworkStatus {
            gateway: [100, 96, 0, 1].into(),
            policy: vec!["public internet".into(), "deny x.example".into()],
            ways: vec!["out by proxy p:1, over TCP only".into()],
            resolvers: Vec::new(),
            published: Vec::new(),
            tcp_flows: 3,
            udp_mappings: 1,
            log_lines_lost: 0,
        };
        let text = describe(&Status {
            id: "3f9a0c61d2b7-1".parse().unwrap(),
            project: "/a".into(),
            pid: 42,
            started: 0,
            engine: "qemu".into(),
            cpus: 2,
            memory_mib: 2048,
            shares: vec![share("/a", false), share("/data", true)],
            network: Some(network),
        });
        for line in [
            "3f9a0c61d2b7-1  /a",
            "  engine    qemu, 2 CPUs, 2048 MiB",
            "  shares    /a (read-write)",
            "            /a -> /data (read-only)",
            "  protected /a/.git/config",
            "  network   public internet",
            "            deny x.example",
            "            out by proxy p:1, over TCP only",
            "  flows     3 TCP, 1 UDP",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn times_are_rounded() {
        for (seconds, text) in [(5, "5 s"), (300, "5 min"), (7300, "2 h 1 min")] {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
    }
}
