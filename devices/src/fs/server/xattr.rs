//! Extended attributes: those that programs give their files (`user.*`), kept by the host's file system.
//!
//! The server itself stores none and believes none. All other namespaces are unsupported, whatever the file: nothing
//! that means rights on the host (`security.*`, `trusted.*`, access control lists) is written there, and the guest's
//! kernel, which asks for some of them on its own, has its answer without a system call. Even that is too much for a
//! kernel that asks before every write: see [`Server::has_attributes`].

use std::ffi::CStr;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, XattrFlags, fgetxattr, fgetxattr_query, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use super::call::Call;
use super::export::stat;
use super::{Answer, Server};
use crate::fs::wire::{GetxattrIn, GetxattrOut, ROOT, SetxattrIn};

/// The namespace that is served.
const SERVED: &[u8] = b"user.";
/// Longest name, longest value, longest list of names (Linux's `XATTR_NAME_MAX`, `XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 64 << 10;

/// By these, file servers and containers of other launchers believe a file to be of some owner and mode, set-id bits
/// included. The guest must not forge what they find in the user's folders.
const BELIEVED_ELSEWHERE: [&CStr; 3] =
    [c"user.containers.override_stat", c"user.msb.override_stat", c"user.rootlesscontainers"];

/// What an attribute is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Look,
    Change,
}

impl Server {
    pub(super) fn setxattr(&self, call: &mut Call<'_>) -> Answer {
        let asked: SetxattrIn = call.take()?;
        let strings = rest(call)?;
        let (name, value) = split(&strings)?;
        check_changeable(name)?;
        if value.len() > MAX_VALUE {
            return Err(Errno::TOOBIG);
        }
        if usize::try_from(asked.size) != Ok(value.len()) {
            return Err(Errno::INVAL);
        }
        let flags = XattrFlags::from_bits(asked.flags).ok_or(Errno::INVAL)?;
        fsetxattr(self.attributed(call.header.nodeid, Purpose::Change)?, name, value, flags)
    }

    pub(super) fn removexattr(&self, call: &mut Call<'_>) -> Answer {
        let strings = rest(call)?;
        let name = only(&strings)?;
        check_changeable(name)?;
        fremovexattr(self.attributed(call.header.nodeid, Purpose::Change)?, name)
    }

    pub(super) fn getxattr(&self, call: &mut Call<'_>) -> Answer {
        let asked: GetxattrIn = call.take()?;
        let strings = rest(call)?;
        let name = only(&strings)?;
        check_served(name)?;
        let file = self.attributed(call.header.nodeid, Purpose::Look)?;
        if asked.size == 0 {
            return tell_size(call, fgetxattr_query(file, name)?);
        }
        let mut value = vec![0; room(asked)];
        let length = fgetxattr(file, name, value.as_mut_slice())?;
        tell(call, value.get(..length))
    }

    pub(super) fn listxattr(&self, call: &mut Call<'_>) -> Answer {
        let asked: GetxattrIn = call.take()?;
        let names = match self.attributed(call.header.nodeid, Purpose::Look) {
            Ok(file) => served_names(&file)?,
            // Files that can have none; and files the host's user may not read, of which `ls` should have nothing to
            // say.
            Err(Errno::NODATA | Errno::ACCESS) => Vec::new(),
            Err(error) => return Err(error),
        };
        if asked.size == 0 {
            return tell_size(call, names.len());
        }
        if names.len() > room(asked) {
            return Err(Errno::RANGE);
        }
        tell(call, Some(&names))
    }

    /// The file of a node, opened for its attributes: what the host's kernel lets nobody open outside the shares, it
    /// lets nobody change by descriptor either.
    fn attributed(&self, node: u64, purpose: Purpose) -> Result<OwnedFd, Errno> {
        let is_change = purpose == Purpose::Change;
        if node == ROOT {
            return Err(if is_change { Errno::ROFS } else { Errno::NODATA });
        }
        let found = self.nodes.find(node)?;
        let export = self.export(&found.identity)?;
        if is_change {
            export.check_writable()?;
        }
        if !matches!(found.kind, FileType::RegularFile | FileType::Directory) {
            // As Linux has it for attributes of programs.
            return Err(if is_change { Errno::PERM } else { Errno::NODATA });
        }
        let path = self.path(node)?;
        if is_change && export.has_rules() {
            export.check_unguarded(found.position, &stat(&path)?)?;
        }
        // Whether it may be changed is looked at when it is: being able to read it suffices here.
        self.open_contents(found.kind, &path, OFlags::RDONLY)
    }
}

/// The names in the namespace that is served, each with its final zero.
fn served_names(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut names = vec![0; MAX_VALUE];
    let length = match flistxattr(file, names.as_mut_slice()) {
        // The host's file system has none at all.
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let names = names.get(..length).unwrap_or_default();
    let served = names.split_inclusive(|byte| *byte == 0).filter(|name| name.starts_with(SERVED));
    Ok(served.flatten().copied().collect())
}

/// The strings of a request.
fn rest(call: &mut Call<'_>) -> Result<Vec<u8>, Errno> {
    let length = call.input.available_bytes();
    if length > MAX_NAME + 1 + MAX_VALUE {
        return Err(Errno::TOOBIG);
    }
    let mut bytes = vec![0; length];
    call.input.read_exact(&mut bytes).map_err(|_| Errno::INVAL)?;
    Ok(bytes)
}

/// A name, and what follows it.
fn split(bytes: &[u8]) -> Result<(&CStr, &[u8]), Errno> {
    let name = CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::INVAL)?;
    if name.is_empty() || name.count_bytes() > MAX_NAME {
        return Err(Errno::RANGE);
    }
    Ok((name, bytes.get(name.count_bytes() + 1..).unwrap_or_default()))
}

fn only(bytes: &[u8]) -> Result<&CStr, Errno> {
    match split(bytes)? {
        (name, b"") => Ok(name),
        _ => Err(Errno::INVAL),
    }
}

fn check_served(name: &CStr) -> Answer {
    if name.to_bytes().starts_with(SERVED) { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}

fn check_changeable(name: &CStr) -> Answer {
    check_served(name)?;
    if BELIEVED_ELSEWHERE.contains(&name) { Err(Errno::PERM) } else { Ok(()) }
}

fn room(asked: GetxattrIn) -> usize {
    usize::try_from(asked.size).unwrap_or(usize::MAX).min(MAX_VALUE)
}

fn tell_size(call: &mut Call<'_>, length: usize) -> Answer {
    call.put(&GetxattrOut { size: u32::try_from(length).unwrap_or(u32::MAX), padding: 0 })
}

fn tell(call: &mut Call<'_>, bytes: Option<&[u8]>) -> Answer {
    call.out()?.write_all(bytes.unwrap_or_default()).map_err(|_| Errno::INVAL)
}
