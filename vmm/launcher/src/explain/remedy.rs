//! Who made the rule that decides, and what to write for another verdict.

use netstack::Addresses;
use policy::{Class, Reason, Verdict};

use super::question::{Host, Question};
use crate::settings::{Effective, Origin};

/// Where the rule behind `verdict` was made; nothing for what holds always.
pub(crate) fn origin<'e>(verdict: &Verdict<'_>, question: &Question, effective: &'e Effective) -> Option<&'e Origin> {
    match verdict.reason {
        Reason::AddressRule | Reason::NameRule { .. } => effective.origin_of(verdict.rule),
        Reason::Preset => Some(&effective.egress.origin),
        Reason::Lan => Some(&effective.lan.origin),
        Reason::HostPort => {
            let opened = effective.host.iter().find(|port| port.value.is_none_or(|port| port == question.port));
            opened.map(|port| &port.origin)
        }
        _ => None,
    }
}

/// What to write to turn `verdict` around.
pub(crate) fn change(verdict: &Verdict<'_>, question: &Question, origin: Option<&str>) -> String {
    let port = question.port;
    let target = match &question.host {
        Host::Name(name) => format!("{name}:{port}"),
        Host::Address(address) if address.is_ipv6() => format!("[{address}]:{port}"),
        Host::Address(address) => format!("{address}:{port}"),
    };
    let place = origin.unwrap_or("default");
    let gateway = Addresses::default().gateway_v4;
    match (verdict.allow, verdict.reason) {
        (_, Reason::AddressRule | Reason::NameRule { .. }) => {
            format!("take `{}` away ({place})", verdict.rule)
        }
        (true, Reason::Preset) => {
            format!("--egress none allows only what is listed; or [policy] deny = [\"{target}\"] in config.toml")
        }
        (true, Reason::Lan) => {
            format!("close private networks again ({place}), or deny = [\"{target}\"] in config.toml")
        }
        (true, Reason::HostPort) => format!("close port {port} of the host again ({place})"),
        (true, _) => format!("[policy] deny = [\"{target}\"] in config.toml"),
        (false, Reason::HostPort) => {
            format!(
                "--allow-host {port}, or [policy] host = [{port}] in config.toml; the guest then uses {gateway}:{port}"
            )
        }
        (false, Reason::OwnAddress) => {
            format!("nothing opens it; a service on this machine's loopback: --allow-host {port}, as {gateway}:{port}")
        }
        (false, Reason::MetadataName) => "nothing opens it".into(),
        (false, Reason::Class(class)) => match class {
            Class::Private => format!("--allow-egress {target}, or --allow-lan for every private network"),
            Class::CarrierNat | Class::Benchmark | Class::Documentation | Class::Public => {
                format!("--allow-egress {target}")
            }
            Class::LinkLocal | Class::Metadata => {
                format!("--allow-egress {target} opens this one address; a metadata service hands out credentials")
            }
            Class::Loopback => format!(
                "nothing opens it: in the guest it is the guest's own; this machine's loopback is {gateway}, with \
                 --allow-host {port}"
            ),
            Class::Reserved | Class::Multicast | Class::Broadcast | Class::Unspecified => "nothing opens it".into(),
        },
        (false, _) => format!("--allow-egress {target}, or [policy] allow = [\"{target}\"] in config.toml"),
    }
}
