//! Where the launcher keeps what outlives one run.

use std::env;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::Error;

/// The user's folders for caches and state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    cache: PathBuf,
    state: PathBuf,
    settings: Option<PathBuf>,
    /// The system's own folder for this user's sockets, if there is one.
    session: Option<PathBuf>,
}

impl Dirs {
    /// From `VMM_CACHE_DIR` and `VMM_STATE_DIR`, else the XDG variables, else the home folder.
    pub fn from_env() -> Result<Self, Error> {
        Self::resolve(|name| env::var_os(name))
    }

    fn resolve(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        // The XDG specification: a relative path in one of its variables is invalid and ignored.
        let absolute = |name: &str| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = |ours: &str, xdg: &str, below_home: &str| {
            absolute(ours)
                .or_else(|| absolute(xdg).map(|path| path.join("vmm")))
                .or_else(|| absolute("HOME").map(|home| home.join(below_home).join("vmm")))
                .ok_or_else(|| Error::NoHome { variable: ours.to_owned() })
        };
        Ok(Self {
            cache: folder("VMM_CACHE_DIR", "XDG_CACHE_HOME", ".cache")?,
            state: folder("VMM_STATE_DIR", "XDG_STATE_HOME", ".local/state")?,
            settings: absolute("XDG_CONFIG_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".config")))
                .map(|folder| folder.join("vmm/config.toml")),
            session: absolute("XDG_RUNTIME_DIR"),
        })
    }

    /// What can be made again: images, the unpacked kernel.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The user's settings file, whether or not it exists.
    pub fn settings(&self) -> Option<&Path> {
        self.settings.as_deref()
    }

    /// What cannot: disks of VMs, logs. Created here, readable by the user alone.
    pub fn state(&self) -> Result<&Path, Error> {
        create(&self.state)?;
        Ok(&self.state)
    }

    /// Sockets and locks of what runs: below `XDG_RUNTIME_DIR` if that is this user's, else with the state. Created
    /// here; one that others can get into is refused.
    pub fn runtime(&self) -> Result<PathBuf, Error> {
        let user = rustix::process::geteuid().as_raw();
        // After `sudo` the variable may still name the other user's folder.
        let is_ours = |folder: &&PathBuf| folder.metadata().is_ok_and(|metadata| metadata.uid() == user);
        let run = self.session.as_ref().filter(is_ours).map_or_else(|| self.state.join("run"), |dir| dir.join("vmm"));
        create(&run)?;
        let metadata = run.symlink_metadata().map_err(|source| Error::path("open", &run, source))?;
        if !metadata.is_dir() || metadata.uid() != user || metadata.mode() & 0o077 != 0 {
            let reason = "it must be a folder of yours that nobody else may enter (chmod 700)";
            return Err(Error::path("keep sockets in", &run, io::Error::other(reason)));
        }
        Ok(run)
    }

    /// Everything below one folder.
    #[cfg(test)]
    pub(crate) fn below(folder: &Path) -> Self {
        let session = folder.join("session");
        create(&session).unwrap();
        Self { cache: folder.join("cache"), state: folder.join("state"), settings: None, session: Some(session) }
    }
}

fn create(folder: &Path) -> Result<(), Error> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(|source| Error::path("create", folder, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(vars: &[(&str, &str)]) -> Result<Dirs, Error> {
        Dirs::resolve(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn own_variables_win_over_xdg_and_home() {
        let dirs = resolve(&[("VMM_CACHE_DIR", "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]).unwrap();
        assert_eq!(dirs.cache(), Path::new("/c"));
        assert_eq!(dirs.state, Path::new("/h/.local/state/vmm"));
    }

    #[test]
    fn settings_lie_with_the_user_s_other_settings() {
        let path = |vars| resolve(vars).unwrap().settings().map(Path::to_path_buf);
        assert_eq!(path(&[("HOME", "/h")]), Some("/h/.config/vmm/config.toml".into()));
        assert_eq!(path(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]), Some("/x/vmm/config.toml".into()));
        assert_eq!(path(&[("VMM_CACHE_DIR", "/c"), ("VMM_STATE_DIR", "/s")]), None);
    }

    #[test]
    fn relative_xdg_paths_are_ignored() {
        let dirs = resolve(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]).unwrap();
        assert_eq!(dirs.cache(), Path::new("/h/.cache/vmm"));
    }

    #[test]
    fn sockets_go_where_nobody_else_gets_in() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(home.path());
        let run = dirs.runtime().unwrap();
        assert_eq!(run, home.path().join("session/vmm"));
        std::fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(dirs.runtime().unwrap_err().to_string().contains("session/vmm"));
        let without = Dirs { session: None, ..dirs };
        assert_eq!(without.runtime().unwrap(), home.path().join("state/run"));
    }

    #[test]
    fn without_a_home_the_error_names_the_variable_to_set() {
        let error = resolve(&[]).unwrap_err().to_string();
        assert!(error.contains("VMM_CACHE_DIR"), "{error}");
    }
}
