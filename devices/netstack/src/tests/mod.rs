//! The gateway as a guest sees it: frames go in at the device end, and what counts is what a fake internet saw.

mod audit;
mod card;
pub(crate) mod dns;
mod end;
mod flood;
mod foreign;
mod fragments;
mod front;
pub(crate) mod guest;
mod hostile;
mod icmp;
mod intercept;
pub(crate) mod internet;
mod limits;
mod names;
mod publish;
mod raw;
mod tcp;
mod translation;
mod udp;
mod verdicts;

use std::time::Duration;

use policy::{Policy, Preset};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use virtio::frame::{FrameLink, Offloads};

use crate::{Handle, Limits, NetConfig, Netstack, Resolvers};
use card::Card;
use guest::Guest;
use internet::Internet;

/// Longest time anything in these tests may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// An address of the public internet, as far as the policy knows.
pub(crate) const PUBLIC: &str = "93.184.216.34";
const PUBLIC_V6: &str = "2606:4700::1111";

/// A gateway between a guest and a fake internet.
pub(crate) struct Bench {
    pub(crate) guest: Guest,
    pub(crate) internet: Internet,
    pub(crate) handle: Handle,
}

fn bench(policy: Policy) -> Bench {
    Setup::new(policy).start()
}

pub(crate) struct Setup {
    policy: Policy,
    offloads: Offloads,
    limits: Limits,
    guest_mtu: usize,
}

impl Setup {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, offloads: Offloads::default(), limits: Limits::default(), guest_mtu: 65_520 }
    }

    fn start(self) -> Bench {
        self.start_with(|_| {})
    }

    pub(crate) fn start_with(self, change: impl FnOnce(&mut NetConfig)) -> Bench {
        let FrameLink { device, stack } = FrameLink::new().unwrap();
        let internet = Internet::new();
        let mut config = NetConfig::new(self.policy);
        config.dialer = Box::new(internet.dialer());
        config.audit = Box::new(internet.auditor());
        config.resolvers = Resolvers::Fixed(vec![internet.resolver()]);
        config.limits = self.limits;
        change(&mut config);
        let handle = Netstack::start(stack, config).unwrap();
        let card = Card::plug(device, self.offloads);
        Bench { guest: Guest::new(card, self.guest_mtu), internet, handle }
    }
}

/// For tests with thousands of connections.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

/// P0 of the cases: nothing.
fn nothing() -> Policy {
    Policy::new(Preset::None)
}

/// P2 of the cases: the public internet.
pub(crate) fn public() -> Policy {
    Policy::new(Preset::Public)
}

/// P1 of the cases: two name rules.
fn names() -> Policy {
    rules(&["api.example.com:443", "*.pkg.example"])
}

fn rules(rules: &[&str]) -> Policy {
    let mut policy = nothing();
    rules.iter().for_each(|rule| policy.push(rule.parse().unwrap()));
    policy
}

const ALL_OFFLOADS: Offloads = Offloads { checksum: true, tcp4_segments: true, tcp6_segments: true };
