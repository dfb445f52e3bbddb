//! Names of host files that no rename changes: the kernel's notifications of changes carry them.
//!
//! Here because it takes a system call nobody wraps and the packages around have no unsafe code; used by the file
//! server.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `MAX_HANDLE_SZ` of Linux.
const MAX_HANDLE: usize = 128;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct Raw {
    bytes: libc::c_uint,
    kind: libc::c_int,
    handle: [u8; MAX_HANDLE],
}

/// The kernel's own name of what a descriptor (`O_PATH` is enough) stands for, as its notifications carry it: the kind
/// of handle and the handle.
pub fn file_handle(file: BorrowedFd<'_>) -> io::Result<(i32, Box<[u8]>)> {
    // Kernels before 6.5 do not know that the handle will not be opened; theirs are the same where they give one.
    match request(file, libc::AT_HANDLE_FID) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => request(file, 0),
        result => result,
    }
}

fn request(file: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<(i32, Box<[u8]>)> {
    let mut raw = Raw { bytes: 128, kind: 0, handle: [0; MAX_HANDLE] };
    let mut mount = 0;
    // SAFETY: the path is a C string; `raw` begins as a `file_handle` and has as many bytes behind that as it says;
    // both outlive the call, which keeps no pointer.
    let result = unsafe {
        libc::name_to_handle_at(
            file.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut raw).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH | flags,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::try_from(raw.bytes).unwrap_or(usize::MAX);
    let handle = raw.handle.get(..length).ok_or(io::ErrorKind::InvalidData)?;
    Ok((raw.kind, handle.into()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn handle_stays_with_the_file_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        let file = File::create(&one).unwrap();
        let before = file_handle(file.as_fd()).unwrap();
        std::fs::rename(&one, &two).unwrap();
        assert_eq!(file_handle(File::open(&two).unwrap().as_fd()).unwrap(), before);
        assert_ne!(file_handle(File::create(&one).unwrap().as_fd()).unwrap(), before);
    }
}
