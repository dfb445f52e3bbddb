//! Reading directories.

use std::ffi::CStr;
use std::io::Write;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, fsync};
use rustix::io::Errno;
use virtio::Writer;

use super::call::{Call, put};
use super::export::{kind, stat_at};
use super::reach::Parent;
use super::{Answer, MAX_IO, Server};
use crate::fs::handle::{OpenDirectory, UNOPENED};
use crate::fs::name::Name;
use crate::fs::stream::{Entry, Stream};
use crate::fs::wire::{Attr, Dirent, EntryOut, FsyncIn, OPENED_CACHE_DIR, OpenOut, ROOT, ReadIn};

/// Records in a directory's listing begin at multiples of this.
const ALIGN: usize = 8;

/// Where the entries of a directory are looked up.
enum Place<'a> {
    Root,
    Host(Parent<'a>),
}

impl Server {
    pub(super) fn opendir(&self, call: &mut Call<'_>) -> Answer {
        call.check_room(size_of::<OpenOut>())?;
        let node = call.header.nodeid;
        let fh = self.handles.add_directory(node, self.stream(node)?)?;
        call.put(&OpenOut { fh, open_flags: OPENED_CACHE_DIR, backing_id: 0 })
    }

    fn stream(&self, node: u64) -> Result<Stream, Errno> {
        if node == ROOT {
            return Ok(Stream::of_root(u64::try_from(self.exports.len()).unwrap_or(u64::MAX)));
        }
        let parent = self.directory(node)?;
        Ok(Stream::of_host(self.open_contents(FileType::Directory, &parent.fd, OFlags::RDONLY)?))
    }

    /// The directory open as `fh`; if the guest has not opened it, that is done now.
    fn open_directory(&self, fh: u64, node: u64) -> Result<Arc<OpenDirectory>, Errno> {
        if fh != UNOPENED || !self.has_no_open() {
            return self.handles.directory(fh, node);
        }
        match self.implicit.directory(node) {
            Some(open) => Ok(open),
            None => Ok(self.implicit.add_directory(node, self.stream(node)?)),
        }
    }

    pub(super) fn readdir(&self, call: &mut Call<'_>) -> Answer {
        self.list(call, 0, put_dirent)
    }

    pub(super) fn readdirplus(&self, call: &mut Call<'_>) -> Answer {
        let node = call.header.nodeid;
        let place = if node == ROOT { Place::Root } else { Place::Host(self.directory(node)?) };
        let put_entry = |out: &mut Writer<'_>, entry: &Entry| {
            let known = self.look_up(&place, entry);
            put(out, &known).and_then(|()| put_dirent(out, entry)).inspect_err(|_| self.forget_node(known.nodeid, 1))
        };
        self.list(call, size_of::<EntryOut>(), put_entry)
    }

    /// Answers with as many entries as fit, each with `extra` bytes in front of it.
    fn list(&self, call: &mut Call<'_>, extra: usize, put_entry: impl Fn(&mut Writer<'_>, &Entry) -> Answer) -> Answer {
        let asked: ReadIn = call.take()?;
        let node = call.header.nodeid;
        let open = self.open_directory(asked.fh, node)?;
        let position = if call.header.nodeid == ROOT { None } else { Some(self.nodes.find(call.header.nodeid)?) };
        let rules = position.map(|found| Ok((self.export(&found.identity)?, found.position))).transpose()?;
        let is_hidden = |name: &CStr| rules.is_some_and(|(export, at)| export.named(at, name).is_hidden());
        let out = call.out()?;
        let room = usize::try_from(asked.size.min(MAX_IO)).unwrap_or(usize::MAX).min(out.available_bytes());
        let mut stream = open.stream();
        if asked.fh == UNOPENED && asked.offset == 0 {
            // Somebody else may have begun here before.
            stream.restart()?;
        }
        stream.go_to(asked.offset)?;
        while let Some(entry) = stream.peek()? {
            if is_hidden(&entry.name) {
                stream.advance();
                continue;
            }
            let length = extra + size_of::<Dirent>() + entry.name.count_bytes().next_multiple_of(ALIGN);
            if out.bytes_written() + length > room {
                // Nothing at all would mean the end.
                return if out.bytes_written() == 0 { Err(Errno::INVAL) } else { Ok(()) };
            }
            put_entry(out, entry)?;
            stream.advance();
        }
        if asked.fh == UNOPENED {
            // Read to the end: whoever comes next begins anew.
            self.implicit.remove(node);
        }
        Ok(())
    }

    /// The node and attributes of an entry. What cannot be had now is looked up when it is needed: an entry without a node
    /// is an entry all the same.
    fn look_up(&self, place: &Place<'_>, entry: &Entry) -> EntryOut {
        let unknown = EntryOut { attr: Attr { ino: entry.inode, ..Attr::default() }, ..EntryOut::default() };
        let Ok(name) = Name::new(&entry.name) else { return unknown };
        let known = match place {
            Place::Root => self.share_entry(name),
            Place::Host(parent) => stat_at(&parent.fd, name.as_c_str())
                // The type is told by the listing, too; the two must agree.
                .and_then(|stat| {
                    if agrees(entry.kind, kind(&stat)) { self.remember(parent, name, &stat) } else { Err(Errno::STALE) }
                }),
        };
        known.unwrap_or(unknown)
    }

    pub(super) fn fsyncdir(&self, call: &mut Call<'_>) -> Answer {
        let asked: FsyncIn = call.take()?;
        let open = self.open_directory(asked.fh, call.header.nodeid)?;
        let stream = open.stream();
        stream.directory().map_or(Ok(()), fsync)
    }
}

fn agrees(listed: FileType, found: FileType) -> bool {
    listed == FileType::Unknown || listed == found
}

fn put_dirent(out: &mut Writer<'_>, entry: &Entry) -> Answer {
    let name = entry.name.to_bytes();
    let namelen = u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
    let kind = entry.kind.as_raw_mode() >> 12 & 0xf;
    put(out, &Dirent { ino: entry.inode, off: entry.next, namelen, kind })?;
    let padding = name.len().next_multiple_of(ALIGN) - name.len();
    let zeroes = [0; ALIGN];
    out.write_all(name)
        .and_then(|()| out.write_all(zeroes.get(..padding).unwrap_or_default()))
        .map_err(|_| Errno::INVAL)
}
