//! Writes a cpio archive in the `newc` format (Linux: Documentation/driver-api/early-userspace/buffer-format.rst).

/// One regular file of the archive.
pub struct Entry<'a> {
    /// Path without a leading slash.
    pub name: &'a str,
    /// File type and permission bits.
    pub mode: u32,
    /// The file's bytes.
    pub content: &'a [u8],
}

/// The archive with its trailer, the same bytes for the same entries.
pub fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (inode, entry) in (1u32..).zip(entries) {
        append(&mut out, inode, entry);
    }
    append(&mut out, 0, &Entry { name: "TRAILER!!!", mode: 0, content: &[] });
    out
}

fn append(out: &mut Vec<u8>, inode: u32, entry: &Entry<'_>) {
    let size = u32::try_from(entry.content.len()).expect("an initramfs is smaller than 4 GiB");
    let name_size = u32::try_from(entry.name.len() + 1).expect("names are short");
    out.extend_from_slice(b"070701");
    // inode, mode, uid, gid, nlink, mtime, size, device and rdev numbers, name size, checksum
    for field in [inode, entry.mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(entry.name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(entry.content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}
