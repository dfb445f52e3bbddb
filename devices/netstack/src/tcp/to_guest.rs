//! Bytes of the host on their way to the guest: looked at in place, behind the headers of the frame that takes them
//! there.

use std::cell::Cell;

use virtio::Writer;
use virtio::frame::Unsent;

use super::flow::{Flow, Stage, to_u32, to_usize};
use super::segment::{FIN, Tuple};
use super::state::Tcb;
use super::upstream::{Peeked, Upstream};
use crate::audit::Outcome;
use crate::context::Context;
use crate::uplink::Uplink;

/// Frames to the guest before other flows get their turn.
const MAX_FRAMES: usize = 16;

impl Flow {
    /// Host to guest. True when its share was not enough.
    pub(super) fn pump_in(&mut self, context: &mut Context) -> Result<bool, Outcome> {
        for _ in 0..MAX_FRAMES {
            let Stage::Open(tcb) = &mut self.stage else { return Ok(false) };
            if context.uplink.is_blocked() {
                return Ok(false);
            }
            if tcb.syn_due {
                let header = tcb.syn_header(self.tuple.payload_within(context.mtu.into()));
                self.tuple.send(&mut context.uplink, &header);
                tcb.syn_sent(context.now);
                return Ok(false);
            }
            if tcb.fin_is_due() {
                self.tuple.send(&mut context.uplink, &tcb.header(FIN));
                tcb.data_sent(0, true, context.now);
                return Ok(false);
            }
            let offset = to_usize(tcb.nxt.since(tcb.una));
            let is_new = tcb.nxt == tcb.sent;
            // Who takes a flow over takes it from a place that both sides agree on.
            let is_asking = self.gate.as_ref().is_some_and(|gate| gate.question().is_some());
            let has_more = !self.upstream_done && !is_asking && self.upstream.has_more(offset, self.told_upstream);
            if is_new && !has_more {
                return Ok(false);
            }
            let room = to_usize(tcb.sendable()).min(self.upstream.reach(&context.scratch).saturating_sub(offset));
            if room == 0 {
                tcb.wait_for_window(context.now);
                return Ok(false);
            }
            if !self.send_data(context, offset, room, is_new)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends one frame of what the host has for the guest; false when there was nothing.
    fn send_data(&mut self, context: &mut Context, offset: usize, room: usize, is_new: bool) -> Result<bool, Outcome> {
        let Stage::Open(tcb) = &mut self.stage else { return Ok(false) };
        let Context { uplink, scratch, now, .. } = context;
        let offloads = uplink.offloads();
        let takes_large = if self.tuple.guest.is_ipv4() { offloads.tcp4_segments } else { offloads.tcp6_segments };
        let mss = usize::from(tcb.mss);
        let most = match usize::from(self.tuple.payload_within(usize::MAX)) {
            longest if takes_large => longest - longest % mss,
            _ => mss,
        };
        let room = room.min(most);
        let peeked = if offloads.checksum && self.upstream.is_direct() {
            send_direct(&mut self.upstream, &self.tuple, tcb, uplink, offset, room)?
        } else {
            let (upstream, told, mut peeked) = (&mut self.upstream, self.told_upstream, Ok(Peeked::Nothing));
            self.tuple.send_with(uplink, room, tcb.mss, |space| {
                peeked = upstream.peek(offset, space, told, scratch);
                let Ok(Peeked::Bytes { count, drained, ends }) = peeked else { return None };
                Some((count, tcb.data_header(to_u32(count), drained, ends)))
            });
            peeked?
        };
        match peeked {
            Peeked::Bytes { count, ends, .. } => {
                let ends = ends || tcb.ends_behind(to_u32(count));
                let before = tcb.sent;
                tcb.data_sent(to_u32(count), ends, *now);
                self.upstream_done |= ends;
                self.to_guest += u64::from(tcb.sent.since(before).saturating_sub(ends.into()));
                Ok(true)
            }
            _ if uplink.is_blocked() => Ok(false),
            // What the guest has not acknowledged must still be there.
            _ if !is_new => Err(Outcome::RemoteReset),
            Peeked::Nothing => Ok(false),
            Peeked::End => {
                self.upstream_done = true;
                tcb.fin = Some(tcb.nxt);
                Ok(true)
            }
        }
    }
}

/// Sends one frame of what a socket has for the guest without a stop on the way.
fn send_direct(
    upstream: &mut Upstream,
    tuple: &Tuple,
    tcb: &Tcb,
    uplink: &mut Uplink,
    offset: usize,
    room: usize,
) -> Result<Peeked, Outcome> {
    let peeked = Cell::new(Ok(Peeked::Nothing));
    let fill = |space: &mut Writer<'_>| {
        peeked.set(upstream.peek_into(offset, space));
        Ok(())
    };
    let sent = tuple.send_filled(uplink, room, tcb.mss, fill, |count| {
        let (drained, ends) = match peeked.get() {
            Ok(Peeked::Bytes { drained, ends, .. }) => (drained, ends),
            _ => (false, false),
        };
        tcb.data_header(to_u32(count), drained, ends)
    });
    match sent {
        Ok(_) => Ok(peeked.get()?),
        // The flow gets another turn when the guest offers buffers.
        Err(Unsent::Blocked) => Ok(Peeked::Nothing),
        Err(Unsent::Never | Unsent::Failed(_)) => Err(Outcome::Failed),
    }
}
