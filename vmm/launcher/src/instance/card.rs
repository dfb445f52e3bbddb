//! What is written down about a VM: enough to recognise it by the words a user has for it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::VmId;

/// Longest card: a path has at most 4 KiB, six characters a byte in JSON.
const MAX_CARD: u64 = 32 << 10;
/// Shorter beginnings of a name are more likely something else.
const MIN_PREFIX: usize = 4;

/// A VM, running or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Its name.
    pub id: VmId,
    /// Its project, as far as text can spell the path.
    pub project: PathBuf,
    /// When it was last started, in seconds since 1970.
    pub started: u64,
}

impl Card {
    /// Reads a card.
    pub(super) fn read(file: &File) -> io::Result<Self> {
        let mut text = String::new();
        file.take(MAX_CARD).read_to_string(&mut text)?;
        serde_json::from_str(&text).map_err(io::Error::from)
    }

    /// Whether `words` mean this VM: its name or the beginning of it, its project's path or the name of its folder.
    pub(super) fn is_meant_by(&self, words: &OsStr) -> bool {
        let is_name = words.to_str().is_some_and(|text| {
            let id = self.id.to_string();
            id == text || (text.len() >= MIN_PREFIX && id.starts_with(text))
        });
        let is_path = || Path::new(words).canonicalize().is_ok_and(|path| self.id.is_of(&path));
        is_name || self.project.file_name() == Some(words) || is_path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_name_vms_in_several_ways() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().canonicalize().unwrap();
        let card = Card { id: VmId::new(&project, 1), project: project.clone(), started: 0 };
        let id = card.id.to_string();
        for words in [id.as_str(), &id[..4], project.to_str().unwrap(), project.file_name().unwrap().to_str().unwrap()]
        {
            assert!(card.is_meant_by(OsStr::new(words)), "{words}");
        }
        for words in ["", &id[..3], "/", "other", "..", &VmId::new(&project, 10).to_string()] {
            assert!(!card.is_meant_by(OsStr::new(words)), "{words}");
        }
    }
}
