//! Egress rules and their evaluator: pure, total, no I/O, no clock.
//!
//! The launcher builds a [`Policy`] from flags and files; the network stack asks it about every flow
//! ([`Policy::evaluate`]), every name ([`Policy::evaluate_name`]) and every address in a DNS answer
//! ([`Policy::evaluate_answer`]). There is one classifier of addresses for all of it ([`Class`]), and whatever an IPv6
//! address embeds counts as much as the address itself. Rule texts come from the user and are parsed with errors meant
//! for people; flows and names come from the guest and are trusted in nothing.
#![forbid(unsafe_code)]

mod address;
mod class;
mod embedding;
mod flow;
mod name;
mod preset;
mod reason;
mod rule;
mod table;
mod verdict;

pub use address::{Cidr, HostAddresses};
pub use class::Class;
pub use flow::{Direction, Flow, Protocol, Target};
pub use name::{BadName, Name, NamePattern};
pub use preset::{Preset, UnknownPreset};
pub use reason::Reason;
pub use rule::{Action, Pattern, Rule, RuleError};
pub use table::{MAX_RULES, Table, TableError};
pub use verdict::{Policy, Verdict};
