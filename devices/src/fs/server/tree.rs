//! Operations that change which names there are, and symbolic links.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Statx, Uid, chownat, linkat, mkdirat, mknodat, readlinkat_raw,
    renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::attr::{SET_ID, new_mode};
use super::call::Call;
use super::export::{self, kind, stat, stat_at};
use super::reach::Parent;
use super::{Answer, Server};
use crate::fs::name::{self, Name, Strings};
use crate::fs::share::Owner;
use crate::fs::wire::{EntryOut, LinkIn, MkdirIn, MknodIn, ROOT, Rename2In, RenameIn};

impl Server {
    pub(super) fn mkdir(&self, call: &mut Call<'_>) -> Answer {
        let asked: MkdirIn = call.take()?;
        self.make(call, FileType::Directory, |parent, name| {
            mkdirat(&parent.fd, name, new_mode(asked.mode)).map(|()| Some(asked.mode))
        })
    }

    /// Regular files, FIFOs and sockets; devices of the host are out of the guest's reach.
    pub(super) fn mknod(&self, call: &mut Call<'_>) -> Answer {
        let asked: MknodIn = call.take()?;
        let kind = FileType::from_raw_mode(asked.mode);
        self.make(call, kind, |parent, name| match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => {
                mknodat(&parent.fd, name, kind, new_mode(asked.mode), 0).map(|()| Some(asked.mode))
            }
            FileType::CharacterDevice | FileType::BlockDevice => Err(Errno::PERM),
            _ => Err(Errno::INVAL),
        })
    }

    pub(super) fn symlink(&self, call: &mut Call<'_>) -> Answer {
        call.check_room(size_of::<EntryOut>())?;
        let strings = Strings::read(&mut call.input)?;
        let (name, target) = strings.name_and_target()?;
        let parent = self.directory_to_change(call.header.nodeid)?;
        parent.check_new(name, FileType::Symlink)?;
        symlinkat(target, &parent.fd, name.as_c_str())?;
        self.tell_new(call, &parent, name, None)
    }

    /// Creates a named something and answers with its entry.
    fn make(
        &self,
        call: &mut Call<'_>,
        kind: FileType,
        create: impl Fn(&Parent<'_>, &CStr) -> Result<Option<u32>, Errno>,
    ) -> Answer {
        call.check_room(size_of::<EntryOut>())?;
        let strings = Strings::read(&mut call.input)?;
        let name = strings.name()?;
        let parent = self.directory_to_change(call.header.nodeid)?;
        parent.check_new(name, kind)?;
        let mode = create(&parent, name.as_c_str())?;
        self.tell_new(call, &parent, name, mode)
    }

    /// Answers with the entry of what was just made, once owner and mode are as they should be.
    fn tell_new(&self, call: &mut Call<'_>, parent: &Parent<'_>, name: Name<'_>, mode: Option<u32>) -> Answer {
        let mut stat = stat_at(&parent.fd, name.as_c_str())?;
        let needs_mode = mode.filter(|mode| !has_mode(&stat, *mode));
        if parent.export.give_to().is_some() || needs_mode.is_some() {
            let (file, found) = self.open_entry(&parent.fd, name.as_c_str(), &parent.export.identity(&stat))?;
            if let Some(owner) = parent.export.give_to() {
                give(&file, &found, owner)?;
            }
            if let Some(mode) = needs_mode {
                self.correct_mode(&file, &found, mode)?;
            }
            stat = export::stat(&file)?;
        }
        self.tell_entry(call, parent, name, &stat)
    }

    /// Undoes what this process's own umask did to a new file: the guest has applied its own.
    pub(super) fn correct_mode(&self, file: &OwnedFd, stat: &Statx, mode: u32) -> Answer {
        if has_mode(stat, mode) {
            return Ok(());
        }
        let inherited = u32::from(stat.stx_mode) & SET_ID;
        self.set_mode(file, kind(stat), new_mode(mode).as_raw_mode() | inherited)
    }

    pub(super) fn link(&self, call: &mut Call<'_>) -> Answer {
        let LinkIn { oldnodeid } = call.take()?;
        call.check_room(size_of::<EntryOut>())?;
        let strings = Strings::read(&mut call.input)?;
        let name = strings.name()?;
        let parent = self.directory_to_change(call.header.nodeid)?;
        let old = if oldnodeid == ROOT { None } else { Some(self.nodes.find(oldnodeid)?) };
        let old = old.filter(|old| old.identity.share == parent.identity.share).ok_or(Errno::XDEV)?;
        parent.check_new(name, old.kind)?;
        let file = self.path(oldnodeid)?;
        if parent.export.has_rules() {
            // By the new name it could be changed.
            parent.export.check_unguarded(old.position, &export::stat(&file)?)?;
        }
        let (descriptors, number) = self.by_number(&file);
        // The only link followed is the one in /proc, which leads to the file itself.
        linkat(descriptors, number.as_c_str(), &parent.fd, name.as_c_str(), AtFlags::SYMLINK_FOLLOW)?;
        let stat = stat(&file)?;
        self.tell_entry(call, &parent, name, &stat)
    }

    pub(super) fn unlink(&self, call: &mut Call<'_>) -> Answer {
        self.remove(call, AtFlags::empty())
    }

    pub(super) fn rmdir(&self, call: &mut Call<'_>) -> Answer {
        self.remove(call, AtFlags::REMOVEDIR)
    }

    fn remove(&self, call: &mut Call<'_>, how: AtFlags) -> Answer {
        let strings = Strings::read(&mut call.input)?;
        let name = strings.name()?;
        let parent = self.directory_to_change(call.header.nodeid)?;
        parent.check_movable(name)?;
        let pinned = self.pin_entry(&parent, name);
        unlinkat(&parent.fd, name.as_c_str(), how).inspect_err(|_| self.unpin(pinned))
    }

    pub(super) fn rename(&self, call: &mut Call<'_>) -> Answer {
        let RenameIn { newdir } = call.take()?;
        self.rename_to(call, newdir, RenameFlags::empty())
    }

    pub(super) fn rename2(&self, call: &mut Call<'_>) -> Answer {
        let asked: Rename2In = call.take()?;
        let flags = RenameFlags::from_bits_retain(asked.flags);
        // What is left is WHITEOUT, which would make a device node.
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            return Err(Errno::INVAL);
        }
        self.rename_to(call, asked.newdir, flags)
    }

    fn rename_to(&self, call: &mut Call<'_>, newdir: u64, flags: RenameFlags) -> Answer {
        let strings = Strings::read(&mut call.input)?;
        let (old, new) = strings.two_names()?;
        let from = self.directory_to_change(call.header.nodeid)?;
        let to = self.directory_to_change(newdir)?;
        if from.identity.share != to.identity.share {
            return Err(Errno::XDEV);
        }
        from.check_movable(old)?;
        to.check_movable(new)?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let replaced = if exchange { None } else { self.pin_entry(&to, new) };
        renameat_with(&from.fd, old.as_c_str(), &to.fd, new.as_c_str(), flags).inspect_err(|_| self.unpin(replaced))?;
        self.note_place(&to, new);
        if exchange {
            self.note_place(&from, old);
        }
        Ok(())
    }

    /// The entry may have got here from elsewhere. Whoever moves it away again at the same time will be noted, too.
    fn note_place(&self, parent: &Parent<'_>, name: Name<'_>) {
        if let Ok(stat) = stat_at(&parent.fd, name.as_c_str()) {
            let position = parent.position_of(name, &stat);
            self.nodes.moved(&parent.export.identity(&stat), (parent.id, name.as_c_str()), position);
        }
    }

    /// Keeps hold of a file that is about to lose a name, if the guest knows it: it may have it open. Without a
    /// descriptor to spare the guest merely finds the file gone.
    fn pin_entry(&self, parent: &Parent<'_>, name: Name<'_>) -> Option<u64> {
        let stat = stat_at(&parent.fd, name.as_c_str()).ok()?;
        let identity = parent.export.identity(&stat);
        let id = self.nodes.needs_pin(&identity)?;
        let (file, _) = self.open_entry(&parent.fd, name.as_c_str(), &identity).ok()?;
        self.nodes.pin(id, file.into());
        Some(id)
    }

    fn unpin(&self, id: Option<u64>) {
        if let Some(id) = id {
            self.nodes.unpin(id);
        }
    }

    pub(super) fn readlink(&self, call: &mut Call<'_>) -> Answer {
        let mut buffer = [0; name::MAX_TARGET];
        let path = self.path(call.header.nodeid)?;
        let length = readlinkat_raw(&*path, c"", &mut buffer)?;
        let target = buffer.get(..length).unwrap_or_default();
        call.out()?.write_all(target).map_err(|_| Errno::INVAL)
    }

    /// Gives a new file to the share's owner and corrects its mode; returns its attributes after that.
    pub(super) fn adopt(&self, parent: &Parent<'_>, file: &OwnedFd, mode: u32) -> Result<Statx, Errno> {
        let born = stat(file)?;
        if parent.export.give_to().is_none() && has_mode(&born, mode) {
            return Ok(born);
        }
        if let Some(owner) = parent.export.give_to() {
            give(file, &born, owner)?;
        }
        self.correct_mode(file, &born, mode)?;
        stat(file)
    }
}

/// Gives a file this process (root) has just made to its owner. A file somebody put in its place meanwhile is not given
/// to anybody: it has another owner, or a further name.
fn give(file: &OwnedFd, found: &Statx, owner: Owner) -> Answer {
    let is_new = found.stx_uid == 0 && (kind(found) == FileType::Directory || found.stx_nlink <= 1);
    if !is_new {
        return Err(Errno::STALE);
    }
    chownat(file, c"", Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)), AtFlags::EMPTY_PATH)
}

fn has_mode(stat: &Statx, mode: u32) -> bool {
    Mode::from_raw_mode(u32::from(stat.stx_mode)) & new_mode(0o7777) == new_mode(mode)
}

/// How a new regular file is opened when the guest asks for one that is open at once.
pub(super) fn access_mode(flags: u32) -> Result<OFlags, Errno> {
    match flags & 3 {
        0 => Ok(OFlags::RDONLY),
        1 => Ok(OFlags::WRONLY),
        2 => Ok(OFlags::RDWR),
        _ => Err(Errno::INVAL),
    }
}
