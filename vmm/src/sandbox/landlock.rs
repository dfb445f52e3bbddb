//! Files: only those in the shares, judged by the host's kernel at every opening (Linux 5.19 or newer).

use std::fmt;
use std::io;

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError,
};
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use virtio::Subtree;

/// Newest set of rights we know; what an older kernel lacks of it is left out.
const KNOWN: ABI = ABI::V5;
/// Oldest that is of use: the first one refuses every rename to another directory.
const NEEDED: i64 = 2;
/// `LANDLOCK_CREATE_RULESET_VERSION`: asks for the version only.
const VERSION: u32 = 1;

/// Whether the host's kernel has Landlock, and what it means if not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LandlockReport {
    version: Option<i64>,
}

impl LandlockReport {
    pub(crate) fn examine() -> Self {
        // SAFETY: with this flag the call reads no memory and makes nothing.
        let version = unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION)
        };
        Self { version: (version > 0).then_some(version) }
    }

    /// Whether the file server is confined by it.
    pub fn is_usable(&self) -> bool {
        self.version.is_some_and(|version| version >= NEEDED)
    }
}

impl fmt::Display for LandlockReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) if self.is_usable() => {
                write!(f, "version {version}; the file server can open nothing outside the shares")
            }
            Some(version) => {
                write!(
                    f,
                    "version {version} is too old, the file server guards the shares alone; use Linux 5.19 or newer"
                )
            }
            None => {
                let remedy = "boot Linux 5.19 or newer, with landlock in its lsm= list";
                write!(f, "the host's kernel lacks it, the file server guards the shares alone; {remedy}")
            }
        }
    }
}

/// Leaves the calling thread the files in these subtrees and no others; descriptors it holds stay usable.
pub(super) fn restrict(subtrees: &[Subtree]) -> io::Result<()> {
    let report = LandlockReport::examine();
    if !report.is_usable() {
        tracing::warn!("Landlock: {report}");
        return Ok(());
    }
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(KNOWN)).and_then(Ruleset::create);
    let mut ruleset = ruleset.map_err(|error| refused(&error))?;
    for subtree in subtrees {
        ruleset = allow(ruleset, subtree)?;
    }
    ruleset.restrict_self().map(drop).map_err(|error| refused(&error))
}

fn allow(ruleset: RulesetCreated, subtree: &Subtree) -> io::Result<RulesetCreated> {
    let found = statx(&subtree.root, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    let is_directory = FileType::from_raw_mode(u32::from(found.stx_mode)) == FileType::Directory;
    // Nothing on the host is ever run for the guest, no device made or spoken to.
    let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let readable = AccessFs::ReadFile | AccessFs::ReadDir;
    let wanted: BitFlags<AccessFs> = if subtree.is_writable { AccessFs::from_all(KNOWN) & !never } else { readable };
    let wanted = if is_directory { wanted } else { wanted & AccessFs::from_file(KNOWN) };
    ruleset.add_rule(PathBeneath::new(&subtree.root, wanted)).map_err(|error| refused(&error))
}

fn refused(error: &RulesetError) -> io::Error {
    io::Error::other(format!("Landlock: {error}"))
}
