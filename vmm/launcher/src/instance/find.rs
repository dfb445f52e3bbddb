//! Finding VMs, and cleaning up after those that were killed.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::claim::{CARD, connect_socket, is_at};
use super::{Card, VmId};
use crate::dirs::Dirs;
use crate::error::Error;

/// The user's running VMs, by name. What killed ones left is removed.
pub fn running(dirs: &Dirs) -> Result<Vec<Card>, Error> {
    let run = dirs.runtime()?;
    let mut cards = Vec::new();
    for id in names(&run, ".lock").map_err(|source| Error::path("list", &run, source))? {
        match look(&run, &id) {
            Ok(Some(card)) => cards.push(card),
            Ok(None) => {}
            // It ended while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::path("read", &run.join(format!("{id}.lock")), source)),
        }
    }
    cards.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(cards)
}

/// The VMs of which files were kept, running or not; those started last come first.
pub fn recorded(dirs: &Dirs) -> Result<Vec<(Card, PathBuf)>, Error> {
    let vms = dirs.state()?.join("vms");
    let ids = match names(&vms, "") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        ids => ids.map_err(|source| Error::path("list", &vms, source))?,
    };
    let card = |id: VmId| {
        let folder = vms.join(id.to_string());
        let card = File::open(folder.join(CARD)).and_then(|file| Card::read(&file)).ok()?;
        Some((card, folder))
    };
    let mut found: Vec<_> = ids.into_iter().filter_map(card).collect();
    found.sort_by_key(|(card, _)| std::cmp::Reverse(card.started));
    Ok(found)
}

/// Those of `cards` that the user means: by `words`, else by being in their project, else because there is no other.
pub fn pick<'a>(cards: &'a [Card], words: Option<&OsStr>) -> Vec<&'a Card> {
    let Some(words) = words else {
        let here = env::current_dir().and_then(|here| here.canonicalize()).unwrap_or_default();
        let of = |folder: &Path| cards.iter().filter(|card| card.id.is_of(folder)).collect::<Vec<_>>();
        let ours = here.ancestors().map(of).find(|found| !found.is_empty());
        return ours.unwrap_or_else(|| cards.iter().collect());
    };
    match cards.iter().find(|card| OsStr::new(&card.id.to_string()) == words) {
        Some(exact) => vec![exact],
        None => cards.iter().filter(|card| card.is_meant_by(words)).collect(),
    }
}

/// Connects to a running VM.
pub(crate) fn connect(dirs: &Dirs, id: &VmId) -> Result<UnixStream, Error> {
    let run = dirs.runtime()?;
    connect_socket(&run, id).map_err(|source| Error::path("connect to", &run.join(format!("{id}.sock")), source))
}

/// The card of a VM if it runs; else its files go.
fn look(run: &Path, id: &VmId) -> io::Result<Option<Card>> {
    let path = run.join(format!("{id}.lock"));
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_err() {
        // A VM that has its lock and no card yet is not there yet.
        return Ok(Card::read(&file).ok());
    }
    if !is_at(&file, &path) {
        return Ok(None);
    }
    // A start that sees the shared lock takes the next number: no harm.
    let _ = fs::remove_file(run.join(format!("{id}.sock")));
    fs::remove_file(path)?;
    Ok(None)
}

pub(super) fn names(folder: &Path, suffix: &str) -> io::Result<Vec<VmId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        ids.extend(name.to_str().and_then(|name| name.strip_suffix(suffix)?.parse::<VmId>().ok()));
    }
    Ok(ids)
}

/// Calls `act` with a path to `name` in `folder` that is short enough for a socket's address, however long the folder's
/// is.
pub(super) fn through<T>(folder: &Path, name: &str, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = File::open(folder)?;
    act(&PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Claim;

    #[test]
    fn running_vms_are_found_and_killed_ones_cleaned_up() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(home.path());
        let run = dirs.runtime().unwrap();
        let dead = VmId::new(Path::new("/dead"), 1);
        for suffix in ["lock", "sock"] {
            fs::write(run.join(format!("{dead}.{suffix}")), "").unwrap();
        }
        let claim = Claim::new(&dirs, Path::new("/alive")).unwrap();
        assert_eq!(running(&dirs).unwrap(), [claim.card().clone()]);
        assert_eq!(run.read_dir().unwrap().count(), 1);
        drop(claim);
        assert_eq!(running(&dirs).unwrap(), []);
    }

    #[test]
    fn without_words_the_only_vm_is_meant() {
        let card = |project: &str| Card { id: VmId::new(Path::new(project), 1), project: project.into(), started: 0 };
        let cards = [card("/a/one"), card("/b/two")];
        assert_eq!(pick(&cards[..1], None), [&cards[0]]);
        assert_eq!(pick(&cards, None).len(), 2);
        assert_eq!(pick(&cards, Some(OsStr::new("two"))), [&cards[1]]);
    }
}
