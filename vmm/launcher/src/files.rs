//! What a running guest sees of the host's files, as the file server has it in force.

use std::io;
use std::path::{Path, PathBuf};

use devices::fs::{Access, GuardReport, Monitor, Rule, ShareReport};

use crate::error::Error;
use crate::project::Mount;
use crate::remote::ShareStatus;

/// The shares of a VM: where they are on both sides, and who knows the rest.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    mounts: Vec<Mount>,
    server: Monitor,
}

impl Files {
    /// `mounts` in the order in which `server` has them.
    pub(crate) fn new(mounts: Vec<Mount>, server: Monitor) -> Self {
        Self { mounts, server }
    }

    /// Every share, the project first.
    pub(crate) fn status(&self) -> Result<Vec<ShareStatus>, Error> {
        let ended = || Error::host("Asking the file server what is in force", io::Error::other("It has ended"));
        let reports = self.server.shares().ok_or_else(ended)?;
        Ok(self.mounts.iter().zip(&reports).map(|(mount, report)| status(mount, report)).collect())
    }
}

fn status(mount: &Mount, report: &ShareReport) -> ShareStatus {
    let there = |wanted: Rule| {
        let is_meant = move |place: &&GuardReport| place.is_there && place.rule == wanted;
        report.guarded.iter().filter(is_meant).map(|place| text(&place.path)).collect()
    };
    ShareStatus {
        host: text(&mount.host),
        guest: text(&mount.guest),
        read_only: report.access == Access::ReadOnly,
        protected: there(Rule::Protect),
        hidden: there(Rule::Hide),
    }
}

/// JSON has no bytes that are not text.
fn text(path: &Path) -> PathBuf {
    path.to_string_lossy().into_owned().into()
}

#[cfg(test)]
mod tests {
    use devices::fs::{Fs, Guarded, Share};

    use super::*;

    fn mount(path: &Path, is_read_only: bool) -> Mount {
        Mount { host: path.into(), guest: "/guest".into(), is_read_only }
    }

    #[test]
    fn what_the_server_enforces_is_told_not_what_was_planned() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kept"), "").unwrap();
        std::fs::write(folder.path().join("secret"), "").unwrap();
        let mut share = Share::open(folder.path(), Access::ReadOnly).unwrap();
        share.guarded = [("kept", Rule::Protect), ("secret", Rule::Hide), ("absent", Rule::Protect)]
            .map(|(path, rule)| Guarded { path: path.into(), rule })
            .to_vec();
        let server = Fs::new(vec![share]).unwrap();
        let files = Files::new(vec![mount(folder.path(), false)], server.monitor());
        let [status] = files.status().unwrap().try_into().unwrap();
        assert!(status.read_only);
        assert_eq!((status.protected, status.hidden), (vec!["kept".into()], vec!["secret".into()]));
        drop(server);
        assert!(files.status().is_err());
    }
}
