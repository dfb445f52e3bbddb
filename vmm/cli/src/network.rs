//! The options about the network, the same for everything that starts a VM or asks what one would be allowed.

use clap::{Args, ValueEnum};
use launcher::policy::{Action, Class, Pattern, Preset, Rule};
use launcher::{Effective, Error, NetworkLayer, Settings, Sourced};

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// What the guest may reach where no rule says anything [default: public]
    #[arg(long, value_enum)]
    pub egress: Option<EgressArg>,
    /// Allow this destination, too; with --egress none, only what is listed (repeatable)
    ///
    /// Adds to what --egress allows: a private network under `public`, or every single destination under `none`, which
    /// makes it an allow list. A name opens the public addresses that the gateway's own resolver gave for it, over TCP;
    /// *.example.com is every name below example.com, not example.com itself. An IPv6 address with a port is in
    /// brackets.
    #[arg(long, value_name = "IP|CIDR|DOMAIN[:PORT]")]
    pub allow_egress: Vec<Rule>,
    /// Allow private networks, but not this machine, link-local or metadata addresses
    #[arg(long)]
    pub allow_lan: bool,
    /// Allow a port of this machine's loopback, which is 100.96.0.1 in the guest; all of them without PORT (repeatable)
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = EVERY_PORT, value_parser = host_port)]
    pub allow_host: Vec<HostPort>,
    /// No network device at all
    #[arg(long)]
    pub no_network: bool,
}

/// One port of the host's loopback, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort(Option<u16>);

/// What `--allow-host` means without a value.
const EVERY_PORT: &str = "all";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EgressArg {
    /// The public internet; no private, local or metadata address
    Public,
    /// Nothing but what is listed
    None,
    /// Everything but the host's loopback, link-local and metadata addresses
    Open,
}

impl EgressArg {
    fn preset(self) -> Preset {
        match self {
            Self::Public => Preset::Public,
            Self::None => Preset::None,
            Self::Open => Preset::Open,
        }
    }
}

impl NetworkArgs {
    /// What is in force with these options and `settings`.
    pub fn effective(&self, settings: &Settings) -> Result<Effective, Error> {
        if self.no_network
            && let Some(other) = self.others().first()
        {
            return Err(wrong(
                "--no-network".into(),
                format!("without a network, {other} means nothing"),
                "--egress none --allow-egress api.example.com:443",
            ));
        }
        let effective = settings.network(self.layer())?;
        if !effective.network.value
            && !self.no_network
            && let Some(option) = self.others().into_iter().next()
        {
            let problem = format!("it opens nothing, because {} turns the network off", effective.network.origin);
            return Err(wrong(option, problem, "--egress none --allow-egress api.example.com:443"));
        }
        if self.egress.is_none()
            && let Some(rule) = self.allow_egress.iter().find(|rule| is_idle(rule, &effective))
        {
            let problem = format!(
                "it changes nothing: --egress {0} allows this already, and everything else that {0} allows, too. With \
                 --egress none only what is listed is allowed",
                effective.egress.value
            );
            let option = format!("--allow-egress {}", destination(rule));
            return Err(wrong(option, problem, "--egress none --allow-egress api.example.com:443"));
        }
        Ok(effective)
    }

    fn layer(&self) -> NetworkLayer {
        let host = self.allow_host.iter().map(|port| Sourced::by_flag(port.0)).collect::<Vec<_>>();
        // Who says what shall be reached wants a network, whatever the settings file says.
        let network = if self.no_network { Some(false) } else { self.egress.map(|_| true) };
        NetworkLayer {
            network: network.map(Sourced::by_flag),
            egress: self.egress.map(|egress| Sourced::by_flag(egress.preset())),
            allow: self.allow_egress.iter().cloned().map(Sourced::by_flag).collect(),
            deny: Vec::new(),
            lan: self.allow_lan.then(|| Sourced::by_flag(true)),
            host: (!host.is_empty()).then_some(host),
        }
    }

    /// The options other than `--no-network`, as they were written.
    fn others(&self) -> Vec<String> {
        let mut others = Vec::new();
        others.extend(self.egress.map(|egress| format!("--egress {}", egress.preset())));
        others.extend(self.allow_egress.iter().map(|rule| format!("--allow-egress {}", destination(rule))));
        others.extend(self.allow_lan.then(|| "--allow-lan".to_owned()));
        others.extend(self.allow_host.iter().map(|port| match port.0 {
            Some(number) => format!("--allow-host {number}"),
            None => "--allow-host".into(),
        }));
        others
    }
}

/// Whether an allow rule opens nothing that the preset does not: whoever writes it believes that it is a limit.
fn is_idle(rule: &Rule, effective: &Effective) -> bool {
    let is_public = match rule.pattern() {
        Pattern::Names(_) => true,
        Pattern::Addresses(range) => Class::of(range.network()) == Class::Public,
    };
    let denies_something = effective.rules.iter().any(|rule| rule.value.action() == Action::Deny);
    is_public && effective.egress.value != Preset::None && !denies_something
}

/// A rule without its verb.
fn destination(rule: &Rule) -> &str {
    rule.text().split_once(' ').map_or(rule.text(), |(_, destination)| destination)
}

fn wrong(option: String, problem: String, example: &'static str) -> Error {
    Error::Option { option, problem, example }
}

fn host_port(text: &str) -> Result<HostPort, String> {
    if text == EVERY_PORT {
        return Ok(HostPort(None));
    }
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if is_number && port != 0 => Ok(HostPort(Some(port))),
        _ => Err(format!(
            "`{text}` is not a port from 1 to 65535; write for example --allow-host 8080, and -- before the command"
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use launcher::policy::Preset;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(words: &[&str]) -> Result<NetworkArgs, String> {
        let words = ["vmm", "run"].iter().chain(words).chain(&["--", "true"]);
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Run(run) => Ok(run.network),
            _ => Err("not a run".into()),
        }
    }

    fn effective(words: &[&str]) -> Result<Effective, String> {
        args(words)?.effective(&Settings::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn allow_host_takes_a_port_or_none() {
        let ports = |words: &[&str]| args(words).unwrap().allow_host;
        assert_eq!(ports(&["--allow-host", "8080", "--allow-host=5432"]), [HostPort(Some(8080)), HostPort(Some(5432))]);
        assert_eq!(ports(&["--allow-host", "--allow-lan"]), [HostPort(None)]);
        assert_eq!(ports(&["--allow-host"]), [HostPort(None)]);
    }

    #[test]
    fn options_become_a_policy() {
        let words =
            ["--egress", "none", "--allow-egress", "a.test:443", "--allow-egress", "10.0.0.0/8", "--allow-host", "80"];
        let policy = effective(&words).unwrap().policy();
        assert_eq!(policy.summary()[1..], ["allow a.test:443", "allow 10.0.0.0/8", "port 80 of the host's loopback"]);
        assert_eq!(effective(&[]).unwrap().egress.value, Preset::Public);
        assert!(!effective(&["--no-network"]).unwrap().network.value);
        assert!(effective(&["--allow-egress", "10.1.2.3:22"]).is_ok());
        assert!(effective(&["--egress", "public", "--allow-egress", "a.test"]).is_ok());
    }

    #[test]
    fn errors_name_the_option_the_value_and_a_right_example() {
        for (words, expected) in [
            (&["--allow-egress", "*.com"][..], &["--allow-egress", "*.com", "*.example.com"][..]),
            (&["--allow-egress", "*"], &["--allow-egress", "\"*\"", "api.example.com:443"]),
            (&["--allow-egress", "10.0.0.0/33"], &["--allow-egress", "33", "10.20.0.0/16"]),
            (&["--allow-egress", "a.test:0"], &["--allow-egress", "\"0\"", "api.example.com:443"]),
            (&["--allow-egress", "2001:db8::1::"], &["--allow-egress", "2001:db8::1::", "2606:4700::1111"]),
            (&["--allow-egress", ""], &["--allow-egress", "empty", "api.example.com:443"]),
            (&["--egress", "all"], &["--egress", "'all'", "public"]),
            (&["--allow-host", "make"], &["--allow-host", "`make`", "--allow-host 8080"]),
            (&["--allow-host", "0"], &["--allow-host", "`0`", "--allow-host 8080"]),
            (&["--allow-host", "65536"], &["--allow-host", "`65536`", "--allow-host 8080"]),
            (&["--no-network", "--egress", "open"], &["--no-network", "--egress open", "for example"]),
            (&["--no-network", "--allow-lan"], &["--no-network", "--allow-lan", "for example"]),
            (&["--no-network", "--allow-host"], &["--no-network", "--allow-host", "for example"]),
            (&["--no-network", "--allow-egress", "a.test"], &["--no-network", "--allow-egress a.test", "for example"]),
            (&["--allow-egress", "a.test"], &["--allow-egress a.test", "--egress none --allow-egress"]),
            (&["--allow-egress", "93.184.216.34"], &["--allow-egress 93.184.216.34", "--egress none --allow-egress"]),
        ] {
            let error = effective(words).unwrap_err();
            for word in expected {
                assert!(error.contains(word), "{word:?} is not in {error:?} about {words:?}");
            }
        }
    }
}
