//! Where the launcher keeps what outlives one run.

use std::env;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// The user's folders for caches and state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    cache: PathBuf,
    state: PathBuf,
    settings: Option<PathBuf>,
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
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.state)
            .map_err(|source| Error::path("create", &self.state, source))?;
        Ok(&self.state)
    }
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
    fn without_a_home_the_error_names_the_variable_to_set() {
        let error = resolve(&[]).unwrap_err().to_string();
        assert!(error.contains("VMM_CACHE_DIR"), "{error}");
    }
}
