//! What can go wrong between a command line and a running command, in words for the user.

use std::io;
use std::path::{Path, PathBuf};

use crate::settings::SettingsError;

/// Why the launcher failed. The command's own failures are exit statuses, not errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No folder for caches or state is known.
    #[error("There is no home folder to keep files in; set HOME or {variable}")]
    NoHome {
        /// Our variable that would do.
        variable: String,
    },
    /// A file or folder cannot be used.
    #[error("Cannot {doing} {}", path.display())]
    Path {
        /// What was to be done with it.
        doing: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A folder or mount cannot be shared as asked.
    #[error("Cannot share {}: {reason}", path.display())]
    Share {
        /// The host path.
        path: PathBuf,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A path cannot be protected or hidden as asked.
    #[error("Cannot protect or hide {}: {reason}", path.display())]
    Guard {
        /// The path as it was given.
        path: PathBuf,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The root image is missing or damaged.
    #[error("The root image {} {problem}", path.display())]
    Image {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// A settings file cannot be followed.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The variables that name this machine's proxy cannot be understood; going out without it is no answer.
    #[error(transparent)]
    Proxy(#[from] netstack::ProxyError),
    /// Options of the command line contradict each other, or one of them does nothing.
    #[error("{option}: {problem} (for example: {example})")]
    Option {
        /// The option, as it was written.
        option: String,
        /// What is wrong with it.
        problem: String,
        /// What would be right.
        example: &'static str,
    },
    /// The VM could not be built or started.
    #[error(transparent)]
    Vm(#[from] vmm::Error),
    /// The guest did not come up.
    #[error("The guest did not start: {reason}")]
    Guest {
        /// What is known about it.
        reason: String,
        /// The last lines of the guest's console.
        console: String,
    },
    /// The VM ended while the command was running.
    #[error("The VM ended before the command did: {reason}")]
    Lost {
        /// What is known about it.
        reason: String,
        /// The last lines of the guest's console.
        console: String,
    },
    /// The agent and the launcher do not understand each other.
    #[error("The guest agent broke the protocol")]
    Protocol(#[source] agent_protocol::ProtocolError),
    /// A signal asked for the end before the command ran.
    #[error("Interrupted before the command ran")]
    Interrupted,
    /// A running VM said no.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// It cannot be told which VM is meant.
    #[error("{problem}")]
    Which {
        /// What was asked for, and what there is.
        problem: String,
    },
    /// A port cannot be published.
    #[error("Cannot publish {port}")]
    Publish {
        /// The port in the user's words.
        port: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step on the host failed.
    #[error("{doing} failed")]
    Host {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn host(doing: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Host { doing, source: source.into() }
    }

    pub(crate) fn path(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Path { doing, path: path.into(), source: source.into() }
    }

    /// What the guest last wrote to its console, where that explains the failure.
    pub fn console(&self) -> Option<&str> {
        match self {
            Self::Guest { console, .. } | Self::Lost { console, .. } if !console.is_empty() => Some(console),
            _ => None,
        }
    }
}
