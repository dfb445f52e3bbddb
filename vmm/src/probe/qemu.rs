//! Whether QEMU is installed. Its version is asked for only when somebody wants to know: that starts a process.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program the qemu engine runs.
const PROGRAM: &str = "qemu-system-x86_64";

/// What was found out about QEMU; its `Display` is one line for the user, with the remedy if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QemuReport {
    /// Where the program is.
    pub program: Option<PathBuf>,
}

impl QemuReport {
    /// Searches `PATH`.
    pub(crate) fn search() -> Self {
        Self { program: std::env::var_os("PATH").and_then(|path| find_in(&path)) }
    }

    /// Whether the qemu engine can be used.
    pub fn is_usable(&self) -> bool {
        self.program.is_some()
    }

    /// Asks the program for its version; takes tens of milliseconds.
    pub fn version(&self) -> io::Result<String> {
        let program = self.program.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let output = Command::new(program).arg("--version").stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.lines().next() {
            Some(line) if output.status.success() => Ok(line.to_owned()),
            _ => Err(io::Error::other(format!("`{} --version` ended with {}", program.display(), output.status))),
        }
    }
}

impl fmt::Display for QemuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Some(program) => write!(f, "{} is installed", program.display()),
            None => write!(f, "{PROGRAM} is not in PATH; install it (Debian, Ubuntu: `apt install qemu-system-x86`)"),
        }
    }
}

fn find_in(path: &OsStr) -> Option<PathBuf> {
    // An empty entry means the current directory to a shell; running a program from there is a trap.
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(PROGRAM))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn first_executable_in_path_is_taken() {
        let (plain, good) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(plain.path().join(PROGRAM), "").unwrap();
        let program = good.path().join(PROGRAM);
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = std::env::join_paths([Path::new("relative"), plain.path(), good.path()]).unwrap();
        assert_eq!(find_in(&path), Some(program));
    }

    #[test]
    fn missing_program_comes_with_its_remedy() {
        let report = QemuReport { program: find_in(OsStr::new("/nonexistent:")) };
        assert!(!report.is_usable());
        assert!(report.to_string().contains("apt install qemu-system-x86"));
        assert_eq!(report.version().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
