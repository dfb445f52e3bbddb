//! From names to nodes, and forgetting them.

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::belief::Belief;
use super::call::Call;
use super::export::{self, Export, device, kind, stat};
use super::reach::Parent;
use super::{Answer, MAX_IO, Server};
use crate::fs::name::{Name, Strings};
use crate::fs::wire::{self, BatchForgetIn, EntryOut, ForgetIn, ForgetOne, ROOT};

/// Nodes forgotten by one request: as many as fit into the largest one.
const MAX_FORGETS: u32 = MAX_IO / 16;

impl Server {
    pub(super) fn lookup(&self, call: &mut Call<'_>) -> Answer {
        call.check_room(size_of::<EntryOut>())?;
        let strings = Strings::read(&mut call.input)?;
        let name = strings.name()?;
        if call.header.nodeid == ROOT {
            let entry = self.share_entry(name)?;
            return call.put(&entry);
        }
        let parent = self.directory(call.header.nodeid)?;
        match self.find_entry(&parent, name) {
            Ok(entry) => self.tell(call, &entry),
            // Without a node, the answer still says for how long there is nothing.
            Err(Errno::NOENT) => call.put(&export::entry(0, wire::Attr::default(), self.belief_in_nothing(&parent))),
            Err(error) => Err(error),
        }
    }

    /// Answers with an entry of a directory, which the guest has to forget once.
    pub(super) fn tell_entry(&self, call: &mut Call<'_>, parent: &Parent<'_>, name: Name<'_>, stat: &Statx) -> Answer {
        let entry = self.remember(parent, name, stat)?;
        self.tell(call, &entry)
    }

    fn tell(&self, call: &mut Call<'_>, entry: &EntryOut) -> Answer {
        call.put(entry).inspect_err(|_| self.forget_node(entry.nodeid, 1))
    }

    /// The entry of a directory, which the guest has to forget once; there is none if it is hidden.
    pub(super) fn remember(&self, parent: &Parent<'_>, name: Name<'_>, stat: &Statx) -> Result<EntryOut, Errno> {
        let position = parent.position_of(name, stat);
        if position.is_hidden() {
            return Err(Errno::NOENT);
        }
        let identity = parent.export.identity(stat);
        let known = self.nodes.remember(identity, kind(stat), (parent.id, name.as_c_str()), position)?;
        let belief = self.belief_in_entry(parent, known, stat);
        let mut attr = self.attr(parent.export, stat, belief.attributes);
        if self.has_submounts() && kind(stat) == FileType::Directory && device(stat) != parent.identity.device {
            attr.flags |= wire::ATTR_SUBMOUNT;
        }
        Ok(export::entry(known.id, attr, belief))
    }

    /// The share that has this name in the tree's own root.
    pub(super) fn export_called(&self, name: Name<'_>) -> Result<&Export, Errno> {
        let text = name.as_c_str().to_str().map_err(|_| Errno::NOENT)?;
        let export = text.parse().ok().and_then(|index: usize| self.exports.get(index)).ok_or(Errno::NOENT)?;
        // `00` and `+0` are no names.
        if export.index.to_string() == text { Ok(export) } else { Err(Errno::NOENT) }
    }

    /// The root of the share that has this name.
    pub(super) fn share_entry(&self, name: Name<'_>) -> Result<EntryOut, Errno> {
        let export = self.export_called(name)?;
        let epoch = self.watcher.epoch();
        let stat = stat(&export.root)?;
        let found = self.nodes.find(share_node(export.index))?;
        let belief = Belief { attributes: self.belief_in_node(&found, &stat, epoch), ..Belief::LASTING };
        let mut attr = self.attr(export, &stat, belief.attributes);
        if self.has_submounts() && kind(&stat) == FileType::Directory {
            attr.flags |= wire::ATTR_SUBMOUNT;
        }
        Ok(export::entry(share_node(export.index), attr, belief))
    }

    pub(super) fn forget(&self, call: &mut Call<'_>) {
        if let Ok(ForgetIn { lookups }) = call.take() {
            self.forget_node(call.header.nodeid, lookups);
        }
    }

    pub(super) fn batch_forget(&self, call: &mut Call<'_>) {
        let Ok(BatchForgetIn { count, .. }) = call.take() else { return };
        for _ in 0..count.min(MAX_FORGETS) {
            let Ok(ForgetOne { nodeid, lookups }) = call.take() else { return };
            self.forget_node(nodeid, lookups);
        }
    }

    /// The guest forgets that it was told of a node so many times.
    pub(super) fn forget_node(&self, node: u64, lookups: u64) {
        if self.nodes.forget(node, lookups) {
            self.implicit.remove(node);
        }
    }
}

/// The node of a share's root: they are the first nodes there are.
fn share_node(index: u32) -> u64 {
    ROOT + 1 + u64::from(index)
}
