//! What a case works with: the built program, an engine, and folders of its own.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{getgid, getuid};
use tempfile::TempDir;

use crate::invocation::Invocation;
use crate::leftovers;

/// Where the folders of cases lie: a path that guests do not need for themselves.
const HOME_OF_STAGES: &str = "/var/tmp";

/// Who runs the vCPUs in a run of the cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Our own VMM.
    Kvm,
    /// A QEMU child.
    Qemu,
}

impl Engine {
    pub(crate) fn from_env() -> Result<Self> {
        match env::var("VMM_TEST_ENGINE").as_deref() {
            Ok("kvm") => Ok(Self::Kvm),
            Ok("qemu") => Ok(Self::Qemu),
            other => bail!("VMM_TEST_ENGINE must be kvm or qemu, it is {other:?}; `make test` does both"),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        })
    }
}

/// What all cases share.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    engine: Engine,
    program: PathBuf,
    cache: PathBuf,
}

impl Host {
    /// Finds the built program and the image, or says how to make them.
    pub(crate) fn find(engine: Engine) -> Result<Self> {
        let program = match env::var_os("VMM_TEST_BINARY") {
            Some(path) => PathBuf::from(path),
            None => beside_this_program().context("finding the vmm program")?,
        };
        ensure!(program.is_file(), "{} is missing; build it, or set VMM_TEST_BINARY", program.display());
        let below = |name, tail: &str| env::var_os(name).map(|folder| Path::new(&folder).join(tail));
        let cache = below("VMM_CACHE_DIR", "")
            .or_else(|| below("XDG_CACHE_HOME", "vmm"))
            .or_else(|| below("HOME", ".cache/vmm"));
        let cache = cache.context("HOME is not set")?;
        ensure!(cache.join("images/default/root.erofs").is_file(), "no image in {}; run `make image`", cache.display());
        Ok(Self { engine, program, cache })
    }
}

/// Cargo puts this program into `target/PROFILE/deps` and the one under test into `target/PROFILE`.
fn beside_this_program() -> io::Result<PathBuf> {
    let this = env::current_exe()?;
    Ok(this.ancestors().nth(2).unwrap_or(Path::new("/")).join("vmm"))
}

/// Who invokes `vmm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Ours,
    /// An ordinary user whose only further group is kvm.
    OfKvmGroup,
    /// An ordinary user without any group that could help.
    Stranger,
}

/// Folders and the program, for one case.
#[derive(Debug)]
pub struct Stage {
    host: Host,
    folder: TempDir,
}

impl Stage {
    pub(crate) fn set(host: &Host) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("vmm-test.").tempdir_in(HOME_OF_STAGES)?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let stage = Self { host: host.clone(), folder };
        for name in ["home", "project", "state", "runtime", "tmp"] {
            fs::create_dir(stage.folder.path().join(name))?;
        }
        Ok(stage)
    }

    /// Which engine this is about.
    pub fn engine(&self) -> Engine {
        self.host.engine
    }

    /// The case's own folder, for whatever else it needs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An empty folder for the guest to work in.
    pub fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    /// Makes `project` a git repository with one commit.
    pub fn make_repository(&self, project: &Path) -> Result<()> {
        let git = |words: &[&str]| -> Result<()> {
            let mut command = Command::new("git");
            command
                .arg("-C")
                .arg(project)
                .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
                .args(words);
            let output = command.env("GIT_CONFIG_GLOBAL", "/dev/null").output().context("running git")?;
            ensure!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        git(&["init", "-q"])?;
        git(&["commit", "-q", "--allow-empty", "-m", "first"])
    }

    /// `vmm` with these arguments and nothing of the user's own settings.
    pub fn vmm<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Invocation {
        let mut invocation = Invocation::new(&self.host.program, self.folder.path());
        invocation.args(words);
        invocation.env("VMM_CACHE_DIR", &self.host.cache);
        for (name, folder) in [
            ("VMM_STATE_DIR", "state"),
            ("XDG_RUNTIME_DIR", "runtime"),
            ("XDG_CONFIG_HOME", "config"),
            ("TMPDIR", "tmp"),
        ] {
            invocation.env(name, self.folder.path().join(folder));
        }
        invocation
    }

    /// `vmm run` of a shell script in a small VM around the project.
    pub fn run(&self, script: &str) -> Invocation {
        self.run_in(&self.project(), ["sh", "-c", script])
    }

    /// `vmm run` of a command in a small VM around `project`.
    pub fn run_in<S: AsRef<OsStr>>(&self, project: &Path, words: impl IntoIterator<Item = S>) -> Invocation {
        // By variables, so that a case can overrule them with the flags.
        let mut invocation = self.vmm(["run", "--project"]);
        invocation.args([project]).env("VMM_ENGINE", self.host.engine.to_string());
        invocation.env("VMM_CPUS", "1").env("VMM_MEMORY", "768M");
        invocation.command(words);
        invocation
    }

    /// Lets another user run `vmm` here: makes the case's folders theirs. Needs root, as the tests have in CI.
    pub fn lend_to(&self, user: User) -> Result<()> {
        ensure!(getuid().is_root(), "running vmm as another user needs root; run the tests as root");
        for entry in walk(self.folder.path())? {
            let (uid, gid) = user.ids();
            std::os::unix::fs::lchown(&entry, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// `invocation` as `user`, with the images where that user can read them.
    pub fn as_user(&self, user: User, invocation: &Invocation) -> Result<Invocation> {
        let images = self.folder.path().join("home/images");
        fs::create_dir_all(&images)?;
        let program = self.folder.path().join("home/vmm");
        fs::copy(&self.host.program, &program)?;
        self.lend_to(user)?;
        Ok(invocation.as_user(user, &program, &self.host.cache.join("images"), &images))
    }

    /// The root image that guests get.
    pub fn image(&self) -> Result<PathBuf> {
        let image = self.host.cache.join("images/default/root.erofs");
        image.canonicalize().with_context(|| format!("finding {}", image.display()))
    }

    /// An error that names what past runs left behind: processes, and files for state, sockets and temporary data.
    pub fn nothing_left(&self) -> Result<()> {
        leftovers::no_processes()?;
        ["state", "runtime", "tmp"].iter().try_for_each(|name| leftovers::no_files(&self.folder.path().join(name)))
    }

    /// Checks that nothing is left of the case, then removes its folders.
    pub(crate) fn clear(self) -> Result<()> {
        let clean = self.nothing_left();
        self.folder.close().context("removing the case's folder")?;
        clean
    }
}

impl User {
    /// Numbers that nobody on a usual machine has.
    const ORDINARY: u32 = 61_234;

    /// User and group.
    pub fn ids(self) -> (u32, u32) {
        match self {
            Self::Ours => (getuid().as_raw(), getgid().as_raw()),
            Self::OfKvmGroup | Self::Stranger => (Self::ORDINARY, Self::ORDINARY),
        }
    }
}

fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![folder.to_owned()];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => found.extend(walk(&entry.path())?),
            false => found.push(entry.path()),
        }
    }
    Ok(found)
}
