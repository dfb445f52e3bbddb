//! Which paths the guest may not change, or not see: what the user names, and what a project holds that makes the host
//! run code later.
//!
//! The default set ([`Guards::protect_what_runs`]) covers what tools on the host take as theirs once the user works in
//! the project again: git's configuration and hooks (also those of submodules and linked worktrees, wherever `.git`
//! says they are), direnv's `.envrc`, and the editors' `.vscode` and `.idea`. It cannot cover everything: what the user
//! starts by hand (Makefiles, scripts, tests, a rebase the guest left half done) runs what the guest wrote, and so does
//! git in a repository that the guest itself made inside the project. In the guest, git works but for what changes its
//! configuration or hooks (`git config`, `git remote add`, `git submodule init`), and what would remove a protected
//! file.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use devices::fs::{Guarded, Rule};

use crate::error::Error;
use crate::project::Mount;

/// Read by tools at the project's root that then run what it says.
const AT_THE_ROOT: [&str; 3] = [".envrc", ".idea", ".vscode"];
/// In a git folder: what can name programs, and what can send git elsewhere for them.
const IN_GIT: [&str; 5] = ["commondir", "config", "config.worktree", "gitdir", "hooks"];
/// Symbolic links followed on the way to one path, as in Linux.
const MAX_LINKS: usize = 40;
/// Git folders inside git folders: submodules and linked worktrees.
const MAX_GIT_FOLDERS: usize = 1000;
/// A git configuration file is not read further than this.
const MAX_CONFIG: usize = 1 << 20;

/// Rules for places on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guards {
    /// By real path; the stricter rule counts.
    rules: BTreeMap<PathBuf, Rule>,
}

impl Guards {
    /// Adds a path the user names, relative to the project; it need not exist, but must lie in one of `shares`.
    pub fn add<'a>(
        &mut self,
        rule: Rule,
        path: &Path,
        project: &Mount,
        shares: impl Iterator<Item = &'a Mount>,
    ) -> Result<(), Error> {
        let wrong = |reason: &str| Error::Guard { path: path.into(), reason: reason.into() };
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(wrong("write it without `..`"));
        }
        let place = project.host.join(path);
        let mut shares = shares.map(|share| share.host.as_path());
        let lies_in = |share: &Path| place.starts_with(share) && (rule == Rule::Protect || place != share);
        if !shares.any(lies_in) {
            return Err(wrong("it lies in no shared folder; relative paths begin at the project"));
        }
        self.follow(&place, rule);
        Ok(())
    }

    /// Adds what would make the host run code that the guest wrote, without anybody starting it.
    pub fn protect_what_runs(&mut self, project: &Mount) {
        for name in AT_THE_ROOT {
            self.follow(&project.host.join(name), Rule::Protect);
        }
        let git = project.host.join(".git");
        if git.is_dir() {
            self.protect_git(git, &project.host);
        } else if let Some(folder) = redirect(&git) {
            self.follow(&git, Rule::Protect);
            self.protect_git(folder, &project.host);
        }
    }

    /// The rules for a share, from its root on.
    pub(crate) fn of_share(&self, root: &Path) -> Vec<Guarded> {
        let within = |(path, rule): (&PathBuf, &Rule)| match path.strip_prefix(root) {
            Ok(path) => Some(Guarded { path: path.into(), rule: *rule }),
            Err(_) if root.starts_with(path) => Some(Guarded { path: PathBuf::new(), rule: *rule }),
            Err(_) => None,
        };
        self.rules.iter().filter_map(within).collect()
    }

    fn push(&mut self, path: PathBuf, rule: Rule) {
        let held = self.rules.entry(path).or_insert(rule);
        *held = rule.max(*held);
    }

    /// Adds a place and every symbolic link on the way to it: who can change a link decides what is there.
    fn follow(&mut self, path: &Path, rule: Rule) {
        let end = self.follow_links(path, rule);
        // What a protected folder holds may in turn be links to what is run.
        let entries = if rule == Rule::Protect { fs::read_dir(&end).ok() } else { None };
        for entry in entries.into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                self.follow_links(&entry.path(), rule);
            }
        }
    }

    fn follow_links(&mut self, path: &Path, rule: Rule) -> PathBuf {
        let mut left = VecDeque::new();
        prepend(&mut left, path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let here = at.join(&name);
            match fs::read_link(&here) {
                Ok(target) if links < MAX_LINKS => {
                    links += 1;
                    self.push(here, if left.is_empty() { rule } else { Rule::Protect });
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    prepend(&mut left, &target);
                }
                _ => at = here,
            }
        }
        self.push(at.clone(), rule);
        at
    }

    /// A git folder whose working tree is at `tree`, and the git folders inside it.
    fn protect_git(&mut self, folder: PathBuf, tree: &Path) {
        let mut left = vec![(folder, tree.to_owned())];
        for _ in 0..MAX_GIT_FOLDERS {
            let Some((folder, tree)) = left.pop() else { return };
            for name in IN_GIT {
                self.follow(&folder.join(name), Rule::Protect);
            }
            let common = first_line(&folder.join("commondir")).map(|path| folder.join(path));
            let folders =
                [Some(folder.clone()), common.filter(|common| !self.rules.contains_key(&common.join("hooks")))];
            for folder in folders.into_iter().flatten() {
                self.protect_configured(&folder, &tree);
                for worktree in subfolders(&folder.join("worktrees")) {
                    if let Some(file) = first_line(&worktree.join("gitdir")) {
                        self.follow(&plain(&worktree.join(file)), Rule::Protect);
                    }
                    left.push((worktree, tree.clone()));
                }
                left.extend(submodules(&folder.join("modules")).map(|module| {
                    let tree = setting(&module.join("config"), "worktree").pop();
                    let tree = tree.map_or_else(|| module.clone(), |tree| plain(&module.join(tree)));
                    self.follow(&tree.join(".git"), Rule::Protect);
                    (module, tree)
                }));
                for name in ["config", "hooks"] {
                    self.follow(&folder.join(name), Rule::Protect);
                }
            }
        }
    }

    /// What the configuration in a git folder names inside some share: hooks elsewhere, further configuration.
    fn protect_configured(&mut self, folder: &Path, tree: &Path) {
        for name in ["config", "config.worktree"] {
            let config = folder.join(name);
            for path in setting(&config, "hookspath") {
                self.follow(&plain(&tree.join(path)), Rule::Protect);
            }
            for path in setting(&config, "path") {
                self.follow(&plain(&folder.join(path)), Rule::Protect);
            }
        }
    }
}

fn prepend(left: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        if let Component::Normal(_) | Component::ParentDir = component {
            left.push_front(component.as_os_str().to_owned());
        }
    }
}

/// A path without `..`; what it says about links is not believed here, but when it is followed.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, component| {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
        plain
    })
}

/// Where a `.git` that is a file sends git.
fn redirect(file: &Path) -> Option<PathBuf> {
    let line = first_line(file)?;
    let target = line.as_bytes().strip_prefix(b"gitdir: ")?;
    Some(plain(&file.parent()?.join(OsStr::from_bytes(target))))
}

fn first_line(file: &Path) -> Option<OsString> {
    let bytes = read(file)?;
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    Some(OsStr::from_bytes(line).to_owned())
}

/// A file of a sensible size; what the guest wrote there earlier must not fill our memory.
fn read(file: &Path) -> Option<Vec<u8>> {
    let metadata = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
    if usize::try_from(metadata.len()).ok()? > MAX_CONFIG { None } else { fs::read(file).ok() }
}

fn subfolders(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// The git folders of submodules, whose names may have several components.
fn submodules(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    const MAX_DEPTH: usize = 8;
    let mut found = Vec::new();
    let mut left: Vec<_> = subfolders(folder).map(|path| (path, 0)).collect();
    while let Some((path, depth)) = left.pop() {
        if path.join("HEAD").exists() {
            found.push(path);
        } else if depth < MAX_DEPTH {
            left.extend(subfolders(&path).map(|path| (path, depth + 1)));
        }
    }
    found.into_iter()
}

/// All values of a key in a git configuration file, in whatever section: too many are protected rather than too few.
fn setting(file: &Path, key: &str) -> Vec<PathBuf> {
    let text = read(file).unwrap_or_default();
    let value = |line: &[u8]| {
        let line = line.trim_ascii();
        let at = line.iter().position(|byte| *byte == b'=')?;
        let (name, value) = line.split_at(at);
        let value = value.get(1..)?.trim_ascii();
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        // A key may stand on the line of its section's name.
        let name = name.rsplit(|byte| *byte == b']').next()?.trim_ascii();
        name.eq_ignore_ascii_case(key.as_bytes()).then(|| PathBuf::from(OsStr::from_bytes(value)))
    };
    text.split(|byte| *byte == b'\n').filter_map(value).collect()
}

#[cfg(test)]
mod tests;
