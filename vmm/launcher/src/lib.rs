//! Projects, images and sessions on top of the `vmm` library.
//!
//! The `vmm` command drives this: a [`Plan`] says what to share and how large the VM is, [`Plan::start`] boots it and
//! brings the guest agent up, the [`Session`] runs commands in it. What the guest and its agent say is untrusted.
#![forbid(unsafe_code)]

mod assets;
mod attention;
mod control;
mod dirs;
mod egress;
mod error;
mod explain;
mod files;
mod guard;
mod guest;
mod image;
mod instance;
mod machine;
mod plan;
mod ports;
mod printable;
mod project;
mod remote;
mod scratch;
mod session;
mod settings;
mod setup;
mod start;
mod user;

pub use agent_protocol::exec::WindowSize;
pub use attention::Attention;
pub use devices::fs::Rule;
pub use dirs::Dirs;
pub use egress::{Entry, Followed, Kind, Log as EgressLog, Tail};
pub use error::Error;
pub use explain::{Answer, BadQuestion, Expectation, Judged, Question, TestTable};
pub use guard::Guards;
pub use image::Image;
pub use instance::{Card, VmId, pick, recorded, running};
pub use netstack::{Proxy, Transport, host_addresses};
pub use plan::{Network, Plan};
pub use policy;
pub use ports::{Change, Notice, PortError, PortSpec};
pub use printable::printable;
pub use project::{Mount, WORKSPACE};
pub use remote::{Client, NetworkStatus, PublishedPort, Request, Response, ShareStatus, Status};
pub use session::{Command, Ended, Session, Stdio};
pub use settings::{Effective, NetworkLayer, Origin, Ports, Settings, SettingsError, Sourced, parse_size};
