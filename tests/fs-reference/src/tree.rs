//! What a share holds in the end, as the host sees it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Everything below a folder, by path.
pub type Tree = BTreeMap<PathBuf, File>;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    mode: u32,
    links: u64,
    /// Of regular files and links.
    contents: Option<Vec<u8>>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Reads everything below `root`.
pub fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = root.join(&path);
        let metadata = full.symlink_metadata().expect("a file");
        let kind = metadata.file_type();
        let contents = if kind.is_file() {
            fs::read(&full).ok()
        } else if kind.is_symlink() {
            fs::read_link(&full).ok().map(|target| target.into_os_string().into_encoded_bytes())
        } else {
            None
        };
        // Whoever is not root cannot read everything.
        if kind.is_dir()
            && let Ok(entries) = fs::read_dir(&full)
        {
            left.extend(entries.map(|entry| path.join(entry.expect("an entry").file_name())));
        }
        let file = File { mode: metadata.mode(), links: metadata.nlink(), contents, attributes: attributes(&full) };
        tree.insert(path, file);
    }
    tree
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = [0u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut buffer).expect("a list of attributes");
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut value = [0u8; 4096];
    names
        .map(|name| {
            let length = rustix::fs::lgetxattr(path, name, &mut value).expect("an attribute's value");
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}
