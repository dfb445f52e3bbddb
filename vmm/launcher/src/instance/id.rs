//! The name of a VM.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Hexadecimal digits of a project's hash: no two projects of one user share 48 bits by accident.
const DIGITS: usize = 12;

/// A project's hash and a number, such as `3f9a0c61d2b7-1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmId {
    project: String,
    number: u16,
}

/// A text that names no VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Not the name of a VM, as in 3f9a0c61d2b7-1")]
pub struct NotAnId;

impl VmId {
    /// The `number`th VM of the project at this real path.
    pub(crate) fn new(project: &Path, number: u16) -> Self {
        Self { project: Self::hash(project), number }
    }

    /// What the names of all VMs of a project begin with.
    pub(crate) fn hash(project: &Path) -> String {
        let digest = Sha256::digest(project.as_os_str().as_bytes());
        digest.iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether it is a VM of the project at this real path.
    pub fn is_of(&self, project: &Path) -> bool {
        self.project == Self::hash(project)
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.project, self.number)
    }
}

impl FromStr for VmId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let (project, number) = text.split_once('-').ok_or(NotAnId)?;
        let is_hash = project.len() == DIGITS && project.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = Self { project: project.to_owned(), number: number.parse().map_err(|_| NotAnId)? };
        // One spelling: what is accepted becomes a file name.
        if is_hash && id.to_string() == text { Ok(id) } else { Err(NotAnId) }
    }
}

impl TryFrom<String> for VmId {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        text.parse()
    }
}

impl From<VmId> for String {
    fn from(id: VmId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_being_written_and_tell_projects_apart() {
        let id = VmId::new(Path::new("/home/me/app"), 2);
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert!(id.is_of(Path::new("/home/me/app")) && !id.is_of(Path::new("/home/me/apple")));
    }

    #[test]
    fn nothing_else_becomes_a_file_name() {
        for text in
            ["", "../x-1", "3f9a0c61d2b7", "3f9a0c61d2b7-", "3f9a0c61d2b7-01", "3F9A0C61D2B7-1", "3f9a0c61d2b7-+1"]
        {
            assert_eq!(text.parse::<VmId>(), Err(NotAnId), "{text}");
        }
    }
}
