//! Taking a name for a VM, and giving it back.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

use super::find::through;
use super::{Card, VmId};
use crate::dirs::Dirs;
use crate::error::Error;

/// VMs of one project at a time.
const MAX_NUMBER: u16 = 999;

/// A name nobody else has until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    card: Card,
    run: PathBuf,
    /// What is to last of the VM: its log.
    state: PathBuf,
    /// The kernel lets go of these when the process ends, however it does.
    _locks: [File; 2],
}

impl Claim {
    /// The first free name of a project.
    pub(crate) fn new(dirs: &Dirs, project: &Path) -> Result<Self, Error> {
        let run = dirs.runtime()?;
        let vms = dirs.state()?.join("vms");
        for number in 1..=MAX_NUMBER {
            let id = VmId::new(project, number);
            let state = vms.join(id.to_string());
            let claimed = Self::take(id, project, &run, &state);
            if let Some(claim) = claimed.map_err(|source| Error::path("take a name for the VM in", &run, source))? {
                return Ok(claim);
            }
        }
        Err(Error::host("Finding a name for the VM", io::Error::other("this project has too many VMs")))
    }

    fn take(id: VmId, project: &Path, run: &Path, state: &Path) -> io::Result<Option<Self>> {
        let Some(mut lock) = lock_file(&run.join(format!("{id}.lock")))? else { return Ok(None) };
        DirBuilder::new().recursive(true).mode(0o700).create(state)?;
        // The same state folder may be in use under another run-time folder.
        let folder = match File::open(state) {
            // Whoever makes room for logs was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            folder => Some(folder?),
        };
        let is_ours =
            |folder: &File| flock(folder, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(folder, state);
        let Some(folder) = folder.filter(is_ours) else {
            fs::remove_file(run.join(format!("{id}.lock")))?;
            return Ok(None);
        };
        let socket = run.join(format!("{id}.sock"));
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Paths are bytes and cards are text.
        let project = PathBuf::from(project.to_string_lossy().into_owned());
        let card = Card { id, project, started };
        let text = serde_json::to_vec(&card)?;
        lock.set_len(0)?;
        lock.write_all(&text)?;
        fs::write(state.join(CARD), &text)?;
        Ok(Some(Self { card, run: run.to_owned(), state: state.to_owned(), _locks: [lock, folder] }))
    }

    /// Who it is.
    pub(crate) fn card(&self) -> &Card {
        &self.card
    }

    /// Where files go that outlive the VM.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Opens the socket by which others find the VM.
    pub(crate) fn listen(&self) -> io::Result<UnixListener> {
        through(&self.run, &format!("{}.sock", self.card.id), |path| UnixListener::bind(path))
    }
}

/// File name of the card that lasts.
pub(super) const CARD: &str = "vm.json";

impl Drop for Claim {
    fn drop(&mut self) {
        // What cannot be removed is recognised as stale by its lock.
        let _ = fs::remove_file(self.run.join(format!("{}.sock", self.card.id)));
        let _ = fs::remove_file(self.run.join(format!("{}.lock", self.card.id)));
        let is_bare = fs::read_dir(&self.state).is_ok_and(|entries| entries.count() == 1);
        if is_bare && fs::remove_file(self.state.join(CARD)).is_ok() {
            let _ = fs::remove_dir(&self.state);
            // The folder above goes with the last one in it.
            let _ = self.state.parent().map(fs::remove_dir);
        }
    }
}

/// Takes a lock, unless somebody has it.
fn lock_file(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Whoever had it may have removed it just before letting go.
        if is_at(&file, path) {
            return Ok(Some(file));
        }
    }
}

/// Whether an open file is still the one of that name.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), path.metadata()), (Ok(open), Ok(named)) if identity(&open) == identity(&named))
}

/// Connects to the socket of a VM.
pub(super) fn connect_socket(run: &Path, id: &VmId) -> io::Result<UnixStream> {
    through(run, &format!("{id}.sock"), |path| UnixStream::connect(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn vms_of_a_project_count_up_and_give_numbers_back() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(home.path());
        let project = Path::new("/some/project");
        let first = Claim::new(&dirs, project).unwrap();
        let second = Claim::new(&dirs, project).unwrap();
        assert_eq!([first.card.id.clone(), second.card.id.clone()], [VmId::new(project, 1), VmId::new(project, 2)]);
        drop(first);
        let again = Claim::new(&dirs, project).unwrap();
        assert_eq!(again.card.id, VmId::new(project, 1));
        drop((second, again));
        assert_eq!(names(&dirs.runtime().unwrap()), [""; 0]);
        assert_eq!(names(dirs.state().unwrap()), [""; 0]);
    }

    #[test]
    fn what_a_killed_vm_left_does_not_stop_the_next() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(home.path());
        let project = Path::new("/some/project");
        let id = VmId::new(project, 1);
        let run = dirs.runtime().unwrap();
        fs::write(run.join(format!("{id}.lock")), "half a card").unwrap();
        drop(UnixListener::bind(run.join(format!("{id}.sock"))).unwrap());
        let claim = Claim::new(&dirs, project).unwrap();
        assert_eq!(claim.card.id, id);
        let _listener = claim.listen().unwrap();
        assert!(connect_socket(&run, &id).is_ok());
    }

    #[test]
    fn a_log_outlives_its_vm() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(home.path());
        let claim = Claim::new(&dirs, Path::new("/some/project")).unwrap();
        let state = claim.state().to_owned();
        fs::write(state.join("egress.jsonl"), "{}\n").unwrap();
        drop(claim);
        assert_eq!(names(&state), ["egress.jsonl", CARD]);
    }

    #[test]
    fn long_folders_hold_sockets_too() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("x".repeat(120));
        fs::create_dir(&deep).unwrap();
        let claim = Claim::new(&Dirs::below(&deep), Path::new("/some/project")).unwrap();
        assert!(claim.listen().is_ok());
    }
}
