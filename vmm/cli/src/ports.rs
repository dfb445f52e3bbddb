//! Publishing ports: the options of `vmm run`, the lines about it, and `vmm port`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;

use clap::{Args, Subcommand};
use launcher::{Client, Dirs, Error, PortSpec, Ports, PublishedPort, Settings};

use crate::{report, which};

#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub struct PublishArgs {
    /// Let this host reach a port of the guest, also one that listens on the guest's loopback; without IP from
    /// 127.0.0.1 and ::1 alone (repeatable)
    #[arg(long, value_name = "[IP:]HOST:GUEST[/tcp|udp]", conflicts_with = "no_network")]
    pub publish: Vec<PortSpec>,
    /// Let this host reach every TCP port from 1024 that something in the guest listens on, at the same port of
    /// 127.0.0.1 and ::1, unless the host uses it
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        conflicts_with = "no_network"
    )]
    pub auto_publish: Option<bool>,
}

impl PublishArgs {
    /// What is published with these options and `settings`.
    pub fn effective(&self, settings: &Settings) -> Result<Ports, Error> {
        settings.ports(Ports { publish: self.publish.clone(), auto: self.auto_publish })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vmm port                       what is published
  vmm port add 8080:80           localhost:8080 becomes the guest's port 80
  vmm port add 0.0.0.0:8080:80   the same for everyone who can reach this host
  vmm port app rm 5353/udp       the VM of the project `app`")]
pub struct PortArgs {
    #[command(flatten)]
    which: which::WhichArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what is published (the default)
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Publish ports of the running VM
    Add {
        /// Ports
        #[arg(required = true, value_name = "[IP:]HOST:GUEST[/tcp|udp]")]
        ports: Vec<PortSpec>,
    },
    /// Free ports of the host; open TCP connections go on
    Rm {
        /// Ports
        #[arg(required = true, value_name = "[IP:]HOST[/tcp|udp]")]
        ports: Vec<String>,
    },
}

/// Runs `vmm port`.
pub fn run(args: &PortArgs) -> Result<u8, Error> {
    let dirs = Dirs::from_env()?;
    let removals = match &args.action {
        Some(Action::Rm { ports }) => ports.iter().map(|text| PortSpec::parse_removal(text)).collect(),
        _ => Ok(Vec::new()),
    };
    let removals = removals.map_err(|error| Error::Refused { message: error.to_string() })?;
    let card = which::running(&dirs, args.which.vm.as_deref())?;
    let mut client = Client::connect(&dirs, &card.id)?;
    match &args.action {
        None => list(&mut client, false)?,
        Some(Action::Ls { json }) => list(&mut client, *json)?,
        Some(Action::Add { ports }) => {
            for port in ports {
                let port = client.publish(*port)?;
                report::note(&format!("published {port}{}", if port.is_open() { OPEN } else { "" }));
            }
        }
        Some(Action::Rm { .. }) => {
            for (address, port, transport) in removals {
                client.unpublish(address, port, transport)?;
            }
        }
    }
    Ok(0)
}

const OPEN: &str = ", for everyone who can reach this host";

fn list(client: &mut Client, json: bool) -> Result<(), Error> {
    let network = client.status()?.network;
    let ports = network.map(|network| network.published).unwrap_or_default();
    let mut out = io::stdout().lock();
    let written = if ports.is_empty() && !json {
        writeln!(out, "No port is published; `vmm port add 8080:80` publishes one")
    } else if json {
        serde_json::to_writer_pretty(&mut out, &ports).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        lines(&ports).iter().try_for_each(|line| writeln!(out, "{line}"))
    };
    written.map_err(|source| Error::Host { doing: "Printing the ports", source })
}

/// A line for each port of the guest.
pub fn lines(ports: &[PublishedPort]) -> Vec<String> {
    let mut by_guest: BTreeMap<(u16, &str), (Vec<SocketAddr>, u64)> = BTreeMap::new();
    for port in ports {
        let (binds, connections) = by_guest.entry((port.guest_port, port.transport.as_str())).or_default();
        binds.push(port.bind);
        *connections += port.connections;
    }
    let line = |((guest, transport), (mut binds, connections)): ((u16, &str), (Vec<SocketAddr>, u64))| {
        binds.sort();
        let is_open = binds.iter().any(|bind| !bind.ip().to_canonical().is_loopback());
        let binds: Vec<String> = binds.iter().map(ToString::to_string).collect();
        let used = match connections {
            0 => String::new(),
            1 => ", 1 connection so far".to_owned(),
            count => format!(", {count} connections so far"),
        };
        format!("{} -> {guest}/{transport}{}{used}", binds.join(" "), if is_open { OPEN } else { "" })
    };
    by_guest.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_guest_get_a_line_each_and_open_ones_say_so() {
        let port = |bind: &str, guest_port, connections| PublishedPort {
            bind: bind.parse().unwrap(),
            guest_port,
            transport: "tcp".into(),
            connections,
        };
        let ports = [
            port("[::1]:8080", 80, 2),
            port("127.0.0.1:8080", 80, 1),
            port("0.0.0.0:99", 90, 0),
            port("127.0.0.1:100", 100, 1),
        ];
        assert_eq!(
            lines(&ports),
            [
                "127.0.0.1:8080 [::1]:8080 -> 80/tcp, 3 connections so far",
                "0.0.0.0:99 -> 90/tcp, for everyone who can reach this host",
                "127.0.0.1:100 -> 100/tcp, 1 connection so far",
            ]
        );
    }
}
