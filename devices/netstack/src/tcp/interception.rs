//! What the launcher has a say in: flows that it takes over, and hellos that it is shown first.

use super::flow::Flow;
use super::segment::Segment;
use super::table::TcpTable;
use super::upstream::{Kind, Upstream};
use crate::audit::{Event, Outcome, Subject};
use crate::context::{Context, Grant};
use crate::intercept::{Handover, OnHello, handover_pair};
use crate::poller::Owner;
use crate::slab::Key;

impl TcpTable {
    /// Brings a flow to the launcher, which wants it.
    pub(super) fn open_taken(&mut self, context: &mut Context, segment: &Segment, grant: Grant, subject: Box<Subject>) {
        let Grant { facts, gate, .. } = grant;
        let (ours, stream) = match handover_pair() {
            Ok(pair) => pair,
            Err(error) => return tracing::warn!(%error, "Connection of the guest cannot be handed over"),
        };
        let mut flow = Flow::opened(
            segment.tuple,
            self.accepting(context, segment),
            Upstream::socket(ours, Kind::Pair),
            context.now,
        );
        flow.gate = gate;
        flow.facts = Some(Box::new(facts.clone()));
        flow.subject = Some(subject);
        self.insert(context, flow);
        if let Some(interceptor) = &mut context.interceptor {
            interceptor.take(Handover { facts, stream, hello: None, upstream: None });
        }
    }

    /// Tells what the gate of a flow found out, asks who wants to be asked, and takes the gate down once it is open.
    pub(super) fn attend(&mut self, context: &mut Context, key: Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        let is_in_flight = flow.is_in_flight();
        let (Some(gate), Some(facts)) = (&mut flow.gate, &mut flow.facts) else { return };
        if let (Some(finding), Some(flow)) = (gate.take_finding(), &mut flow.subject) {
            let why = finding.denial.as_ref().map(ToString::to_string).unwrap_or_default();
            let (host, allow) = (finding.host.as_ref(), finding.denial.is_none());
            context.audit.record(context.now, &Event::Stream { flow, host, allow, why: &why });
            if facts.rests_on_names {
                facts.names = gate.names().to_vec();
                flow.names.clone_from(&facts.names);
            }
        }
        if let (Some(hello), Some(interceptor)) = (gate.question().cloned(), &mut context.interceptor) {
            // Whoever takes the connection over must not be shown what the guest has seen of it.
            if is_in_flight {
                return;
            }
            if interceptor.on_tls_client_hello(facts, &hello) == OnHello::Take {
                let handed = handover_pair()
                    .and_then(|(ours, stream)| context.poller.add(&ours, Owner::Tcp(key)).map(|()| (ours, stream)));
                let (ours, stream) = match handed {
                    Ok(pair) => pair,
                    Err(error) => {
                        tracing::warn!(%error, "Connection of the guest cannot be handed over");
                        return self.end(context, key, Outcome::Failed);
                    }
                };
                let mut ours = Upstream::socket(ours, Kind::Pair);
                ours.open();
                let Upstream::Socket(mut upstream) = std::mem::replace(&mut flow.upstream, ours) else { return };
                // Should that fail, the connection is broken, as whoever has it now will find.
                let _ = upstream.settle(&mut context.scratch);
                if let Err(error) = context.poller.remove(upstream.fd()) {
                    tracing::debug!(%error, "Connection that was handed over is still watched");
                }
                let (facts, hello, upstream) = (facts.as_ref().clone(), Some(hello), Some(upstream.into_fd()));
                interceptor.take(Handover { facts, stream, hello, upstream });
            }
            if let Some(gate) = &mut flow.gate {
                gate.open();
            }
            return self.mark(key);
        }
        if gate.is_open() {
            flow.gate = None;
        }
    }
}
