//! Bytes of the guest on their way to the host's socket, the resolver, or the gate before them.

use super::flow::{Flow, Stage, to_u64};
use super::upstream::Upstream;
use crate::audit::Outcome;
use crate::context::Context;

impl Flow {
    /// Takes bytes of the guest, in order; gives how many.
    pub(super) fn take(&mut self, context: &mut Context, bytes: &[u8]) -> Result<usize, Outcome> {
        let mut sent = 0;
        if let (Upstream::Socket(socket), None, true) = (&mut self.upstream, &self.gate, self.held.is_empty()) {
            sent = socket.write(bytes)?;
            self.from_guest += to_u64(sent);
        }
        let rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() { Ok(sent) } else { Ok(sent + self.held.push(rest, &mut context.stalled)) }
    }

    /// Guest to host.
    pub(super) fn pump_out(&mut self, context: &mut Context, questions: &mut Vec<Vec<u8>>) -> Result<(), Outcome> {
        match &mut self.upstream {
            Upstream::Socket(socket) if self.gate.is_none() => {
                if !self.held.is_empty() {
                    let sent = socket.write(self.held.bytes())?;
                    self.held.take(sent, &mut context.stalled);
                    self.from_guest += to_u64(sent);
                }
            }
            Upstream::Socket(_) => self.pump_gate(context)?,
            Upstream::Resolver(stream) => {
                while !self.held.is_empty() && stream.room() > 0 {
                    let bytes = self.held.bytes();
                    let bytes = bytes.get(..stream.room()).unwrap_or(bytes);
                    let count = bytes.len();
                    let Ok(question) = stream.push(bytes) else {
                        context.limit("bytes of DNS over TCP");
                        return Err(Outcome::Evicted);
                    };
                    questions.extend(question);
                    self.held.take(count, &mut context.stalled);
                    self.from_guest += to_u64(count);
                }
            }
        }
        let is_done = matches!(&self.stage, Stage::Open(tcb) if tcb.guest_is_done());
        if !is_done || self.told_upstream || !self.held.is_empty() {
            return Ok(());
        }
        if let Some(gate) = &mut self.gate {
            gate.finish().map_err(|_| Outcome::Denied)?;
            self.pump_gate(context)?;
            if self.gate.as_ref().is_some_and(|gate| gate.question().is_some() || !gate.released().is_empty()) {
                return Ok(());
            }
        }
        self.told_upstream = true;
        // Where the guest's end is the last thing to happen, closing the socket tells it.
        let is_last = matches!(&self.stage, Stage::Open(tcb) if tcb.is_over());
        if is_last { Ok(()) } else { Ok(self.upstream.finish()?) }
    }

    /// Guest to host by way of the gate.
    fn pump_gate(&mut self, context: &mut Context) -> Result<(), Outcome> {
        let (Some(gate), Upstream::Socket(socket)) = (&mut self.gate, &mut self.upstream) else { return Ok(()) };
        loop {
            let sent = socket.write(gate.released())?;
            gate.sent(sent);
            self.from_guest += to_u64(sent);
            let bytes = self.held.bytes();
            let bytes = bytes.get(..gate.room()).unwrap_or(bytes);
            if bytes.is_empty() {
                return Ok(());
            }
            let count = bytes.len();
            gate.push(bytes, context.now).map_err(|_| Outcome::Denied)?;
            self.held.take(count, &mut context.stalled);
        }
    }
}
