//! Steering a running VM from another process: one JSON line asks, one JSON line answers, as often as wanted.
//!
//! The VM's process serves its socket ([`Server`]), other `vmm` commands are [`Client`]s. Only processes of the same
//! user are heard. Lines have a longest length, connections a largest number, and silence is not waited for.

mod client;
mod line;
mod message;
mod server;
mod service;

pub use client::Client;
pub use message::{NetworkStatus, PublishedPort, Request, Response, ShareStatus, Status};
pub(crate) use server::Server;
pub(crate) use service::{Facts, Service};
