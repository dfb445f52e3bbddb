//! What a file server has in force, asked of the server itself: for banners and status lines, which must not repeat
//! what somebody meant to configure.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use super::guard::Rule;
use super::server::{Requests, Server};
use super::share::Access;

/// Tells what a device's server has in force; from any thread, for as long as the device lives.
#[derive(Debug, Clone)]
pub struct Monitor(Weak<Server>);

impl Monitor {
    pub(super) fn new(server: &Arc<Server>) -> Self {
        Self(Arc::downgrade(server))
    }

    /// The shares in their order; nothing once the device is gone.
    pub fn shares(&self) -> Option<Vec<ShareReport>> {
        self.0.upgrade().map(|server| server.report())
    }

    /// The requests so far; nothing once the device is gone.
    pub fn requests(&self) -> Option<Requests> {
        self.0.upgrade().map(|server| server.requests())
    }
}

/// One share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareReport {
    /// What the guest may do.
    pub access: Access,
    /// Places where a rule overrides that.
    pub guarded: Vec<GuardReport>,
}

/// A place in a share and what holds there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardReport {
    /// From the share's root; empty for the share itself.
    pub path: PathBuf,
    /// What holds there and below. Where several rules meet it is the strictest.
    pub rule: Rule,
    /// Whether anything is there now.
    pub is_there: bool,
}
