//! The control block against a guest that says what the test wants, at times that the test makes up.

mod closing;
mod data;
mod opening;
mod timers;

use std::ops::Range;
use std::time::{Duration, Instant};

use smoltcp::wire::TcpControl;

use super::arrival::Arrival;
use super::segment::{FIN, Segment, Tuple};
use super::sequence::Seq;
use super::state::{Due, State, Tcb};

/// Both sides begin so close to the wrap that everything crosses it.
const OURS: Seq = Seq(u32::MAX - 2);
const THEIRS: Seq = Seq(u32::MAX - 5);
const MTU: u16 = 65_520;
const WINDOW: u32 = 100_000;
const SECOND: Duration = Duration::from_secs(1);

fn tuple() -> Tuple {
    Tuple { guest: "100.96.0.2:5000".parse().unwrap(), remote: "93.184.216.34:443".parse().unwrap() }
}

/// A segment that stands `sequence` behind the guest's SYN and acknowledges what is `acknowledgment` behind ours.
fn segment(control: TcpControl, sequence: i64, acknowledgment: i64, payload: u32) -> Segment {
    let behind = |base: Seq, offset: i64| {
        let count = u32::try_from(offset.unsigned_abs()).unwrap();
        if offset < 0 { base.minus(count) } else { base.plus(count) }
    };
    Segment {
        tuple: tuple(),
        control,
        sequence: behind(THEIRS, sequence),
        acknowledgment: Some(behind(OURS, acknowledgment)),
        window: 1000,
        scale: None,
        mss: None,
        payload,
    }
}

fn bare(sequence: i64, acknowledgment: i64) -> Segment {
    segment(TcpControl::None, sequence, acknowledgment, 0)
}

fn syn() -> Segment {
    let options = Segment { mss: Some(1460), scale: Some(7), ..segment(TcpControl::Syn, 0, 0, 0) };
    Segment { acknowledgment: None, window: 64_240, ..options }
}

/// A connection that the guest opened, in ESTABLISHED.
fn established(now: Instant) -> Tcb {
    let mut tcb = Tcb::accepting(&syn(), OURS, MTU, now);
    tcb.open_window(WINDOW);
    tcb.syn_sent(now);
    tcb.on_segment(&bare(1, 1), now);
    assert_eq!((tcb.state, tcb.window, tcb.in_flight()), (State::Established, 128_000, 0));
    tcb
}

/// What of a segment may be taken.
fn payload(arrival: &Arrival) -> Range<usize> {
    match arrival {
        Arrival::Valid { payload, .. } => payload.clone(),
        other => panic!("{other:?}"),
    }
}

fn acknowledged(arrival: &Arrival) -> u32 {
    match arrival {
        Arrival::Valid { acknowledged, .. } => *acknowledged,
        other => panic!("{other:?}"),
    }
}

/// Sends the end of the stream.
fn finish(tcb: &mut Tcb, now: Instant) {
    tcb.fin = Some(tcb.nxt);
    assert!(tcb.fin_is_due());
    assert_eq!(tcb.header(FIN).sequence, tcb.nxt);
    tcb.data_sent(0, true, now);
}
