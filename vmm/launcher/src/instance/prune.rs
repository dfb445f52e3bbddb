//! Finished VMs make room: what they left is kept for a while, and not for ever.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::claim::{CARD, is_at};
use super::find::names;
use super::{Card, VmId};
use crate::dirs::Dirs;
use crate::egress::LOGS;
use crate::error::Error;

/// Finished VMs whose logs are kept, 16 MiB each at most.
const MAX_KEPT: usize = 32;

/// Removes the logs of all finished VMs but those that were started last. A folder that holds anything else stays.
pub(crate) fn prune(dirs: &Dirs) -> Result<(), Error> {
    let vms = dirs.state()?.join("vms");
    prune_in(&vms, MAX_KEPT).map_err(|source| Error::path("remove old logs in", &vms, source))
}

fn prune_in(vms: &Path, kept: usize) -> io::Result<()> {
    let mut finished = Vec::new();
    for id in names(vms, "")? {
        if let Some(found) = look(vms, &id)? {
            finished.push(found);
        }
    }
    finished.sort_by_key(|(started, _)| Reverse(*started));
    finished.iter().skip(kept).try_for_each(|(_, folder)| remove(folder))
}

/// When a finished VM was started, if what it left is nothing but its log. Without a card, long ago.
fn look(vms: &Path, id: &VmId) -> io::Result<Option<(u64, PathBuf)>> {
    let folder = vms.join(id.to_string());
    if lock(&folder)?.is_none() {
        return Ok(None);
    }
    for entry in fs::read_dir(&folder)? {
        let name = entry?.file_name();
        if name != CARD && !LOGS.iter().any(|log| name == *log) {
            return Ok(None);
        }
    }
    let card = File::open(folder.join(CARD)).and_then(|file| Card::read(&file));
    Ok(Some((card.map_or(0, |card| card.started), folder)))
}

/// A VM that starts meanwhile finds the folder locked, and takes another one.
fn remove(folder: &Path) -> io::Result<()> {
    let Some(_lock) = lock(folder)? else { return Ok(()) };
    for name in LOGS.iter().copied().chain([CARD]) {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_dir(folder)
}

/// The folder of a VM that does not run; none if it runs, or is gone.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let folder = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        folder => folder?,
    };
    let is_ours = flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&folder, path);
    Ok(is_ours.then_some(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Claim;

    /// What a VM left that was started at this time.
    fn left(vms: &Path, started: u64) -> PathBuf {
        let project = PathBuf::from(format!("/project/{started}"));
        let id = VmId::new(&project, 1);
        let folder = vms.join(id.to_string());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(CARD), serde_json::to_vec(&Card { id, project, started }).unwrap()).unwrap();
        LOGS.iter().for_each(|log| fs::write(folder.join(log), "{}\n").unwrap());
        folder
    }

    #[test]
    fn the_logs_of_the_vms_started_last_are_kept() {
        let home = tempfile::tempdir().unwrap();
        let folders: Vec<PathBuf> = (0..10).map(|started| left(home.path(), started)).collect();
        prune_in(home.path(), 4).unwrap();
        let is_there: Vec<bool> = folders.iter().map(|folder| folder.exists()).collect();
        assert_eq!(is_there, [[false; 6].as_slice(), &[true; 4]].concat());
    }

    #[test]
    fn running_vms_and_what_is_no_log_stay() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(home.path());
        let running = Claim::new(&dirs, Path::new("/running")).unwrap();
        let vms = running.state().parent().unwrap().to_owned();
        let with_disk = left(&vms, 1);
        fs::write(with_disk.join("disk"), "").unwrap();
        let without_card = left(&vms, 2);
        fs::remove_file(without_card.join(CARD)).unwrap();
        fs::create_dir(vms.join("not a VM's")).unwrap();

        prune_in(&vms, 0).unwrap();

        assert!(running.state().join(CARD).exists() && with_disk.join("disk").exists());
        assert!(with_disk.join(CARD).exists() && vms.join("not a VM's").exists());
        assert!(!without_card.exists());
    }
}
