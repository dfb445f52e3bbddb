//! Regular files: opening, and moving data between the host's file and guest memory without a copy in between.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    FallocateFlags, FileType, OFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fsync, openat, seek,
};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use virtio::Request;

use super::belief::{Belief, MOMENT};
use super::call::Call;
use super::export::{self, kind, stat, stat_at};
use super::tree::access_mode;
use super::{Answer, MAX_IO, Server};
use crate::fs::handle::{OpenFile, UNOPENED};
use crate::fs::name::{Name, Strings};
use crate::fs::node::Version;
use crate::fs::wire::{
    self, CopyFileRangeIn, CreateIn, EntryOut, FSYNC_FDATASYNC, FallocateIn, FsyncIn, LseekIn, LseekOut, OpenIn,
    OpenOut, OutHeader, ROOT, ReadIn, ReleaseIn, WriteIn, WriteOut,
};

/// Most bytes copied by one COPY_FILE_RANGE; the guest asks again for the rest. Bounds the time it takes.
const MAX_COPY: u64 = 64 << 20;

/// Flags that mean something to the host's file as well. Left out: O_DIRECT and O_NOATIME (the host's cache and time
/// stamps are the host's affair), O_APPEND (see [`Server::write`]), O_NONBLOCK and the like (nothing for regular
/// files).
const PASSED_ON: OFlags = OFlags::SYNC.union(OFlags::DSYNC).union(OFlags::TRUNC);

/// `SEEK_DATA` and `SEEK_HOLE`; the guest's kernel does the other ways itself.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

impl Server {
    pub(super) fn open(&self, call: &mut Call<'_>) -> Answer {
        let asked: OpenIn = call.take()?;
        call.check_room(size_of::<OpenOut>())?;
        if call.header.nodeid == ROOT {
            return Err(Errno::ISDIR);
        }
        let opened = self.open_node(call.header.nodeid, &asked)?;
        call.put(&opened)
    }

    fn open_node(&self, node: u64, asked: &OpenIn) -> Result<OpenOut, Errno> {
        let found = self.nodes.find(node)?;
        let flags = access_mode(asked.flags)? | OFlags::from_bits_retain(asked.flags) & PASSED_ON;
        let export = self.export(&found.identity)?;
        let is_change = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
        if is_change {
            export.check_writable()?;
        }
        if found.kind == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        // Before the look at the file: what it tells must have been settled by then.
        let now = clock_gettime(ClockId::Realtime);
        let (file, before) = match self.path_and_stat(node) {
            // What is held to be read may be opened to be read.
            Err(Errno::STALE) if !is_change => {
                let held = self.implicit.file(node).ok_or(Errno::STALE)?;
                (self.open_contents(found.kind, &held.file, flags)?, stat(&held.file)?)
            }
            reached => {
                let (path, before) = reached?;
                if is_change && export.has_rules() {
                    export.check_unguarded(found.position, &before)?;
                }
                (self.open_contents(found.kind, &path, flags)?, before)
            }
        };
        if asked.open_flags & wire::OPEN_KILL_SUIDGID != 0 && flags.contains(OFlags::TRUNC) {
            self.drop_set_id_on_write(&file)?;
        }
        // Truncation alone changes the file, and leaves nothing to keep.
        let is_kept = !flags.contains(OFlags::TRUNC);
        let now = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
        self.hand_out(node, file, export::settled_version(&before, now).filter(|_| is_kept))
    }

    /// A handle of an open file. What the guest has cached of it stays good if the file is as it was the last time.
    fn hand_out(&self, node: u64, file: OwnedFd, version: Option<Version>) -> Result<OpenOut, Errno> {
        let is_same = self.nodes.opened(node, version);
        let fh = self.handles.add_file(node, file)?;
        Ok(OpenOut { fh, open_flags: if is_same { wire::OPENED_KEEP_CACHE } else { 0 }, backing_id: 0 })
    }

    pub(super) fn create(&self, call: &mut Call<'_>) -> Answer {
        let asked: CreateIn = call.take()?;
        call.check_room(size_of::<EntryOut>() + size_of::<OpenOut>())?;
        let strings = Strings::read(&mut call.input)?;
        let name = strings.name()?;
        let parent = self.directory_to_change(call.header.nodeid)?;
        parent.check_new(name, FileType::RegularFile)?;
        let flags = access_mode(asked.flags)? | OFlags::from_bits_retain(asked.flags) & PASSED_ON;
        let mode = super::attr::new_mode(asked.mode);
        let (entry, opened) = match self.create_entry(&parent.fd, name.as_c_str(), flags, mode) {
            Ok(file) => {
                let stat = self.adopt(&parent, &file, asked.mode)?;
                let entry = self.remember(&parent, name, &stat)?;
                (entry, self.hand_out(entry.nodeid, file, None))
            }
            Err(Errno::EXIST) if asked.flags & OFlags::EXCL.bits() == 0 => self.open_existing(&parent, name, &asked)?,
            Err(error) => return Err(error),
        };
        let forget = |_: &Errno| self.forget_node(entry.nodeid, 1);
        let opened = opened.inspect_err(forget)?;
        call.put(&entry).inspect_err(forget)?;
        call.put(&opened)
    }

    /// Somebody was faster to create the file.
    fn open_existing(
        &self,
        parent: &super::reach::Parent<'_>,
        name: Name<'_>,
        asked: &CreateIn,
    ) -> Result<(EntryOut, Result<OpenOut, Errno>), Errno> {
        let stat = stat_at(&parent.fd, name.as_c_str())?;
        if kind(&stat) != FileType::RegularFile {
            // The guest's kernel looks again and finds out what it is.
            return Err(Errno::EXIST);
        }
        let entry = self.remember(parent, name, &stat)?;
        let asked = OpenIn { flags: asked.flags, open_flags: asked.open_flags };
        Ok((entry, self.open_node(entry.nodeid, &asked)))
    }

    pub(super) fn tmpfile(&self, call: &mut Call<'_>) -> Answer {
        let asked: CreateIn = call.take()?;
        call.check_room(size_of::<EntryOut>() + size_of::<OpenOut>())?;
        let parent = self.directory_to_change(call.header.nodeid)?;
        let access = access_mode(asked.flags)?;
        let flags = access | OFlags::TMPFILE | OFlags::CLOEXEC | OFlags::from_bits_retain(asked.flags) & OFlags::EXCL;
        let mode = super::attr::new_mode(asked.mode);
        let file = self.spare(|| openat(&*parent.fd, c".", flags, mode))?;
        let stat = self.adopt(&parent, &file, asked.mode)?;
        // The file has no name to be found by: the node holds on to it.
        let hold = self.spare(|| rustix::io::fcntl_dupfd_cloexec(&file, 0))?;
        let nodeid = self.nodes.remember_nameless(parent.export.identity(&stat), kind(&stat), hold)?;
        let forget = |_: &Errno| self.forget_node(nodeid, 1);
        let opened = self.hand_out(nodeid, file, None).inspect_err(forget)?;
        call.put(&export::entry(nodeid, self.attr(parent.export, &stat, MOMENT), Belief::FLEETING))
            .inspect_err(forget)?;
        call.put(&opened)
    }

    pub(super) fn release(&self, call: &mut Call<'_>) -> Answer {
        let asked: ReleaseIn = call.take()?;
        if asked.fh == UNOPENED && self.has_no_open() {
            return Ok(());
        }
        self.handles.remove(asked.fh, call.header.nodeid)
    }

    /// The file open as `fh`; if the guest has not opened it, that is done now, for reading.
    pub(super) fn open_file(&self, fh: u64, node: u64) -> Result<Arc<OpenFile>, Errno> {
        if fh != UNOPENED || !self.has_no_open() {
            return self.handles.file(fh, node);
        }
        if let Some(open) = self.implicit.file(node) {
            return Ok(open);
        }
        if self.nodes.find(node)?.kind != FileType::RegularFile {
            return Err(Errno::BADF);
        }
        let file = self.open_contents(FileType::RegularFile, &*self.path(node)?, OFlags::RDONLY)?;
        Ok(self.implicit.add_file(node, file))
    }

    pub(super) fn read(&self, call: &mut Call<'_>) -> Answer {
        let asked: ReadIn = call.take()?;
        let open = self.open_file(asked.fh, call.header.nodeid)?;
        let out = call.out()?;
        let count = length(asked.size.min(MAX_IO)).min(out.available_bytes());
        out.write_from_at(open.file.as_fd(), count, asked.offset).map_err(|error| errno(&error))?;
        Ok(())
    }

    /// Serves a READ of what the host has in memory; nothing if it has not all of it, or if it is any other request.
    /// Nothing has to be waited for, so that handing the request over would cost more than serving it.
    pub(in crate::fs) fn serve_from_memory(&self, request: &Request) -> Option<u32> {
        let (mut call, is_whole) = Call::read(request.reader())?;
        if call.header.opcode != wire::opcode::READ || !is_whole || !self.is_in_session() {
            return None;
        }
        let asked: ReadIn = call.take().ok()?;
        let node = call.header.nodeid;
        let open = if asked.fh == UNOPENED && self.has_no_open() {
            self.implicit.file(node)?
        } else {
            self.handles.file(asked.fh, node).ok()?
        };
        let mut head = request.writer();
        let mut out = head.split_at(size_of::<OutHeader>())?;
        let count = length(asked.size.min(MAX_IO)).min(out.available_bytes());
        let came = out.write_cached_from_at(open.file.as_fd(), count, asked.offset).ok()?;
        let end = asked.offset.checked_add(u64::try_from(came).ok()?)?;
        // To the guest, less than it asked for means the end of the file.
        if came < count && end < stat(&open.file).ok()?.stx_size {
            return None;
        }
        self.tally.count(call.header.opcode);
        let len = u32::try_from(size_of::<OutHeader>() + came).ok()?;
        let header = OutHeader { len, error: 0, unique: call.header.unique };
        super::call::put(&mut head, &header).ok().map(|()| len)
    }

    /// Writes at the offset given; or, if the file is open for appending, at its end, wherever the host's user has
    /// moved that meanwhile. Pages the guest's kernel writes back on its own always have their place.
    pub(super) fn write(&self, call: &mut Call<'_>) -> Answer {
        let asked: WriteIn = call.take()?;
        call.check_room(size_of::<WriteOut>())?;
        let open = self.open_file(asked.fh, call.header.nodeid)?;
        let count = length(asked.size);
        if asked.size > MAX_IO || count > call.input.available_bytes() {
            return Err(Errno::INVAL);
        }
        if asked.write_flags & wire::WRITE_KILL_SUIDGID != 0 {
            self.drop_set_id_on_write(&open.file)?;
        }
        let is_append = asked.flags & OFlags::APPEND.bits() != 0 && asked.write_flags & wire::WRITE_CACHE == 0;
        let written = if is_append {
            call.input.read_to(self.append_file(&open)?.as_fd(), count)
        } else {
            call.input.read_to_at(open.file.as_fd(), count, asked.offset)
        };
        let written = written.map_err(|error| errno(&error))?;
        call.put(&WriteOut { size: u32::try_from(written).unwrap_or(u32::MAX), padding: 0 })
    }

    fn append_file<'a>(&self, open: &'a OpenFile) -> Result<&'a OwnedFd, Errno> {
        if let Some(file) = open.append.get() {
            return Ok(file);
        }
        // Only what is open for writing may be opened for appending.
        let access = rustix::fs::fcntl_getfl(&open.file)?;
        if !access.intersects(OFlags::WRONLY | OFlags::RDWR) {
            return Err(Errno::BADF);
        }
        let flags = OFlags::WRONLY | OFlags::APPEND | access & (OFlags::SYNC | OFlags::DSYNC);
        let file = self.open_contents(FileType::RegularFile, &open.file, flags)?;
        Ok(open.append.get_or_init(|| file))
    }

    pub(super) fn fsync(&self, call: &mut Call<'_>) -> Answer {
        let asked: FsyncIn = call.take()?;
        let open = self.open_file(asked.fh, call.header.nodeid)?;
        if asked.flags & FSYNC_FDATASYNC != 0 { fdatasync(&open.file) } else { fsync(&open.file) }
    }

    pub(super) fn lseek(&self, call: &mut Call<'_>) -> Answer {
        let asked: LseekIn = call.take()?;
        let open = self.open_file(asked.fh, call.header.nodeid)?;
        // Reads and writes carry offsets of their own; nobody minds where the file's position is.
        let offset = match asked.whence {
            SEEK_DATA => seek(&open.file, SeekFrom::Data(asked.offset))?,
            SEEK_HOLE => seek(&open.file, SeekFrom::Hole(asked.offset))?,
            _ => return Err(Errno::INVAL),
        };
        call.put(&LseekOut { offset })
    }

    pub(super) fn fallocate(&self, call: &mut Call<'_>) -> Answer {
        let asked: FallocateIn = call.take()?;
        let open = self.open_file(asked.fh, call.header.nodeid)?;
        let mode = FallocateFlags::from_bits_retain(asked.mode);
        let served = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !served.contains(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        fallocate(&open.file, mode, asked.offset, asked.length)
    }

    pub(super) fn copy_file_range(&self, call: &mut Call<'_>) -> Answer {
        let asked: CopyFileRangeIn = call.take()?;
        call.check_room(size_of::<WriteOut>())?;
        let from = self.open_file(asked.fh_in, call.header.nodeid)?;
        let to = self.open_file(asked.fh_out, asked.nodeid_out)?;
        if asked.flags != 0 {
            return Err(Errno::INVAL);
        }
        let (mut off_in, mut off_out) = (asked.off_in, asked.off_out);
        let count = usize::try_from(asked.len.min(MAX_COPY)).unwrap_or(usize::MAX);
        let copied = copy_file_range(&from.file, Some(&mut off_in), &to.file, Some(&mut off_out), count)?;
        call.put(&WriteOut { size: u32::try_from(copied).unwrap_or(u32::MAX), padding: 0 })
    }
}

/// The system's error number; errors of our own are about numbers the guest gave.
fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::INVAL)
}

fn length(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
