//! Which requests may take long, and which are about others that do.
//!
//! Looked at before a request is served; whatever it says is believed only so far as to choose who serves it.

use virtio::Request;

use super::Server;
use super::call::Call;
use super::export::Export;
use crate::fs::name::Strings;
use crate::fs::pool::Lane;
use crate::fs::wire::{InterruptIn, ROOT, ReadIn, opcode};

/// Reads and writes from this size on; below, most are a copy from memory that is over before another thread is awake.
const LARGE: u32 = 256 << 10;

/// How to deal with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) enum Treatment {
    /// Serve it at once.
    Quick,
    /// Serve it apart from others. By its number, if it has one here, it can be called off until that begins.
    Slow(Lane, Option<u64>),
    /// The request with this number is not wanted any more.
    CallOff(u64),
}

impl Server {
    /// How to deal with a request.
    pub(in crate::fs) fn treatment(&self, request: &Request) -> Treatment {
        let Some((mut call, _)) = Call::read(request.reader()) else { return Treatment::Quick };
        let number = match call.header.opcode {
            opcode::INTERRUPT => {
                return call.take().map_or(Treatment::Quick, |InterruptIn { unique }| Treatment::CallOff(unique));
            }
            // A file that is not closed when it should be stays open for ever.
            opcode::RELEASE | opcode::RELEASEDIR => None,
            _ => Some(call.header.unique),
        };
        self.lane(&mut call).map_or(Treatment::Quick, |lane| Treatment::Slow(lane, number))
    }

    /// A request is served by another thread.
    pub(in crate::fs) fn count_handed_over(&self) {
        self.tally.count_handed_over();
    }

    /// Who has to serve a request, if not whoever asks.
    fn lane(&self, call: &mut Call<'_>) -> Option<Lane> {
        let is_slow = match call.header.opcode {
            // These change what all others find, or are not answered.
            opcode::INIT | opcode::DESTROY | opcode::FORGET | opcode::BATCH_FORGET => return None,
            opcode::FSYNC | opcode::FSYNCDIR | opcode::SYNCFS | opcode::COPY_FILE_RANGE | opcode::FALLOCATE => true,
            opcode::READ | opcode::WRITE => call.take::<ReadIn>().is_ok_and(|asked| asked.size >= LARGE),
            _ => false,
        };
        if call.header.nodeid == ROOT {
            return self.lane_of_root(call);
        }
        let share = self.nodes.share(call.header.nodeid)?;
        let is_remote = self.exports.get(usize::try_from(share).ok()?)?.is_remote();
        if is_remote { Some(Lane::Remote(share)) } else { is_slow.then_some(Lane::Local) }
    }

    /// The tree's own root asks the share it is asked about, or all of them.
    fn lane_of_root(&self, call: &mut Call<'_>) -> Option<Lane> {
        match call.header.opcode {
            opcode::LOOKUP => {
                let strings = Strings::read(&mut call.input).ok()?;
                let export = self.export_called(strings.name().ok()?).ok()?;
                export.is_remote().then_some(Lane::Remote(export.index))
            }
            opcode::READDIRPLUS => self.exports.iter().any(Export::is_remote).then_some(Lane::All),
            opcode::SYNCFS => Some(Lane::All),
            _ => None,
        }
    }
}
