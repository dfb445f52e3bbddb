//! From a question to a verdict with its reasons.

use std::net::IpAddr;

use netstack::Addresses;
use policy::{Flow, HostAddresses, Pattern, Policy, Protocol, Verdict};
use serde::Serialize;

use super::question::{Host, Question};
use super::remedy;
use crate::settings::Effective;

/// The port of DNS: whoever is asked there, the gateway's own resolver answers.
const DNS: u16 = 53;
/// Public addresses that stand for whatever public address a name may have.
const SOME_PUBLIC: [[u8; 4]; 4] = [[93, 184, 216, 34], [151, 101, 1, 6], [45, 33, 32, 156], [130, 89, 148, 77]];

/// The verdict on one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The destination in normal form.
    pub destination: String,
    /// Whether the guest may connect.
    pub allow: bool,
    /// The rule that decides.
    pub rule: String,
    /// Where that rule was made.
    pub origin: Option<String>,
    /// Why, and what else decides.
    pub because: Vec<String>,
    /// The addresses that were looked at, each with its own verdict.
    pub addresses: Vec<Judged>,
    /// How to change it.
    pub change: String,
}

/// The verdict on one address of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The address.
    pub address: IpAddr,
    /// Whether the guest is told of it and may connect.
    pub allow: bool,
    /// The rule that decides.
    pub rule: String,
}

impl Answer {
    /// What `effective` says to `question` on a host that answers at `own`. For a name, `resolved` are its addresses if
    /// the caller has asked for them.
    pub fn to(question: &Question, effective: &Effective, own: &HostAddresses, resolved: Option<&[IpAddr]>) -> Self {
        let policy = effective.policy();
        let mut answer = Self {
            destination: question.to_string(),
            allow: false,
            rule: "no network".into(),
            origin: None,
            because: Vec::new(),
            addresses: Vec::new(),
            change: String::new(),
        };
        if !effective.network.value {
            answer.origin = Some(effective.network.origin.to_string());
            answer.because.push("the VM has no network device".into());
            answer.change = format!("the network is turned off at {}", effective.network.origin);
            return answer;
        }
        match &question.host {
            _ if question.port == DNS => {
                answer.rule = "names are the gateway's to resolve".into();
                answer.because.push(
                    "nothing sent to port 53 gets there: the gateway's own resolver answers, by the rules for names"
                        .into(),
                );
                answer.change = "ask for the name itself: vmm policy explain https://NAME".into();
            }
            Host::Address(address) => answer.about_address(*address, question, effective, &policy, own),
            Host::Name(name) if is_localhost(name.as_str()) => {
                let port = question.port;
                answer.rule = "the guest itself".into();
                answer.because.push("in the guest this name is the guest's own loopback, not this machine's".into());
                answer.change = format!(
                    "this machine's loopback is {}: --allow-host {port}, then connect to {}:{port}",
                    Addresses::default().gateway_v4,
                    Addresses::default().gateway_v4
                );
            }
            Host::Name(name) => answer.about_name(name, question, effective, &policy, own, resolved),
        }
        answer
    }

    fn about_address(
        &mut self,
        address: IpAddr,
        question: &Question,
        effective: &Effective,
        policy: &Policy,
        own: &HostAddresses,
    ) {
        let on_link = Addresses::default();
        let is_gateway = address == on_link.gateway_v4 || address == on_link.gateway_v6;
        let flow = match is_gateway {
            true => Flow::to_host(question.protocol, question.port),
            false => Flow::egress(question.protocol, address, &[], question.port),
        };
        let verdict = policy.evaluate(&flow, own);
        self.decide(&verdict, question, effective);
        let rules_on_names = effective.rules.iter().any(|rule| matches!(rule.value.pattern(), Pattern::Names(_)));
        if !verdict.allow && rules_on_names && question.protocol == Protocol::Tcp {
            self.because.push(
                "a rule for a name opens an address only after the guest has resolved that name: ask for the name"
                    .into(),
            );
        }
    }

    fn about_name(
        &mut self,
        name: &policy::Name,
        question: &Question,
        effective: &Effective,
        policy: &Policy,
        own: &HostAddresses,
        resolved: Option<&[IpAddr]>,
    ) {
        let asked = policy.evaluate_name(name);
        if !asked.allow {
            self.decide(&asked, question, effective);
            self.because.push("the name itself is not resolved for the guest, and nobody outside sees it asked".into());
            return;
        }
        let names = std::slice::from_ref(name);
        let judge = |address| policy.evaluate(&Flow::egress(question.protocol, address, names, question.port), own);
        let Some(resolved) = resolved else {
            self.decide(&judge(some_public(effective)), question, effective);
            self.because.push(
                "the address decides too: this holds for a public address; a private, local or metadata address that \
                 the name may have is judged by itself (--resolve looks it up)"
                    .into(),
            );
            return self.mention_datagrams(question);
        };
        let verdicts: Vec<_> = resolved.iter().map(|address| (*address, judge(*address))).collect();
        self.addresses = verdicts
            .iter()
            .map(|(address, verdict)| Judged { address: *address, allow: verdict.allow, rule: verdict.rule.into() })
            .collect();
        // One address that may be reached is enough: the gateway tells the guest of no others.
        match verdicts.iter().find(|(_, verdict)| verdict.allow).or(verdicts.first()) {
            Some((_, verdict)) => self.decide(verdict, question, effective),
            None => {
                self.rule = "no address".into();
                self.because.push("the name has no address".into());
            }
        }
        self.mention_datagrams(question);
    }

    fn mention_datagrams(&mut self, question: &Question) {
        if !self.allow && question.protocol == Protocol::Udp {
            self.because.push("a name opens TCP only: a datagram does not show for which name it is".into());
        }
    }

    fn decide(&mut self, verdict: &Verdict<'_>, question: &Question, effective: &Effective) {
        self.allow = verdict.allow;
        self.rule = verdict.rule.into();
        self.origin = remedy::origin(verdict, question, effective).map(ToString::to_string);
        self.because.insert(0, verdict.reason.to_string());
        self.change = remedy::change(verdict, question, self.origin.as_deref());
    }
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// A public address that no rule is about, if there is one among the candidates.
fn some_public(effective: &Effective) -> IpAddr {
    let is_free = |address: &IpAddr| {
        !effective.rules.iter().any(|rule| match rule.value.pattern() {
            Pattern::Addresses(range) => range.contains(*address),
            Pattern::Names(_) => false,
        })
    };
    let candidates = SOME_PUBLIC.map(IpAddr::from);
    candidates.into_iter().find(is_free).unwrap_or(IpAddr::from([93, 184, 216, 34]))
}
