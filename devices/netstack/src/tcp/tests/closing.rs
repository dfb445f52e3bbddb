//! How connections end (RFC 9293, 3.6), and how they do not.

use super::*;

fn fin(sequence: i64, acknowledgment: i64) -> Segment {
    segment(TcpControl::Fin, sequence, acknowledgment, 0)
}

/// Takes all that a segment brings.
fn feed(tcb: &mut Tcb, segment: &Segment, now: Instant) {
    if let Arrival::Valid { payload, ends, .. } = tcb.on_segment(segment, now) {
        tcb.accept(u32::try_from(payload.len()).unwrap(), ends, now);
    }
}

#[test]
fn the_host_finishes_first() {
    let now = Instant::now();
    let mut tcb = established(now);
    finish(&mut tcb, now);
    assert_eq!(tcb.state, State::FinWait1);
    feed(&mut tcb, &bare(1, 2), now);
    assert_eq!((tcb.state, tcb.in_flight()), (State::FinWait2, 0));
    // The guest still sends.
    feed(&mut tcb, &segment(TcpControl::None, 1, 2, 10), now);
    feed(&mut tcb, &fin(11, 2), now);
    assert_eq!((tcb.state, tcb.is_over(), tcb.due), (State::TimeWait, true, Due::Now));
    assert_eq!(tcb.header(0).acknowledgment, THEIRS.plus(12));
}

#[test]
fn the_guest_finishes_first_with_its_last_bytes() {
    let now = Instant::now();
    let mut tcb = established(now);
    feed(&mut tcb, &segment(TcpControl::Fin, 1, 1, 10), now);
    assert_eq!((tcb.state, tcb.guest_is_done(), tcb.due), (State::CloseWait, true, Due::Soon));
    assert_eq!(tcb.header(0).acknowledgment, THEIRS.plus(12));
    // The host still sends.
    assert!(tcb.sendable() > 0);
    tcb.data_sent(10, false, now);
    finish(&mut tcb, now);
    assert_eq!(tcb.state, State::LastAck);
    let arrival = tcb.on_segment(&bare(12, 12), now);
    assert_eq!((acknowledged(&arrival), tcb.state, tcb.is_over()), (10, State::Closed, true));
}

#[test]
fn both_sides_finish_at_the_same_time() {
    let now = Instant::now();
    let mut tcb = established(now);
    finish(&mut tcb, now);
    feed(&mut tcb, &fin(1, 1), now);
    assert_eq!((tcb.state, tcb.is_over()), (State::Closing, false));
    feed(&mut tcb, &bare(2, 2), now);
    assert_eq!(tcb.state, State::TimeWait);

    // An end that acknowledges ours skips a state.
    let mut tcb = established(now);
    finish(&mut tcb, now);
    feed(&mut tcb, &fin(1, 2), now);
    assert_eq!(tcb.state, State::TimeWait);
}

#[test]
fn a_repeated_end_is_acknowledged_again() {
    let now = Instant::now();
    let mut tcb = established(now);
    feed(&mut tcb, &fin(1, 1), now);
    tcb.acknowledged();
    feed(&mut tcb, &fin(1, 1), now);
    assert_eq!((tcb.state, tcb.due), (State::CloseWait, Due::Now));
    finish(&mut tcb, now);
    feed(&mut tcb, &bare(2, 2), now);
    feed(&mut tcb, &fin(1, 1), now);
    assert_eq!((tcb.state, tcb.due), (State::Closed, Due::Now));
}

#[test]
fn an_end_behind_a_gap_is_none() {
    let now = Instant::now();
    let mut tcb = established(now);
    feed(&mut tcb, &segment(TcpControl::Fin, 11, 1, 5), now);
    assert_eq!((tcb.state, tcb.due), (State::Established, Due::Now));
    // Nor is one behind bytes that were not taken.
    let Arrival::Valid { payload, ends, .. } = tcb.on_segment(&segment(TcpControl::Fin, 1, 1, 10), now) else {
        panic!("it is valid");
    };
    assert_eq!((payload, ends), (0..10, true));
    tcb.accept(4, false, now);
    assert_eq!((tcb.state, tcb.expected), (State::Established, THEIRS.plus(5)));
}

#[test]
fn an_end_fits_into_a_closed_window() {
    let now = Instant::now();
    let mut tcb = established(now);
    tcb.accept(WINDOW, false, now);
    assert_eq!(tcb.header(0).window, 0);
    let at = i64::from(WINDOW) + 1;
    feed(&mut tcb, &segment(TcpControl::Fin, at, 1, 10), now);
    assert_eq!(tcb.state, State::Established);
    feed(&mut tcb, &fin(at, 1), now);
    assert_eq!(tcb.state, State::CloseWait);
}

#[test]
fn only_a_reset_exactly_where_the_guest_is_ends_it() {
    let now = Instant::now();
    for (at, expected, due) in [
        (1, Arrival::Reset, Due::Nothing),
        // In the window: to be confirmed (RFC 5961, 3.2).
        (2, Arrival::Nothing, Due::Now),
        (i64::from(WINDOW), Arrival::Nothing, Due::Now),
        // Outside: nothing at all.
        (0, Arrival::Nothing, Due::Nothing),
        (i64::from(WINDOW) + 1, Arrival::Nothing, Due::Nothing),
        (-(1 << 30), Arrival::Nothing, Due::Nothing),
        (1 << 30, Arrival::Nothing, Due::Nothing),
    ] {
        let mut tcb = established(now);
        let arrival = tcb.on_segment(&segment(TcpControl::Rst, at, 0, 0), now);
        assert_eq!((arrival, tcb.due), (expected, due), "{at}");
    }
}

#[test]
fn a_syn_within_a_connection_is_challenged() {
    let now = Instant::now();
    for at in [0, 1, 500, 1 << 30, -(1 << 30)] {
        let mut tcb = established(now);
        let restarted = Segment { acknowledgment: None, ..segment(TcpControl::Syn, at, 0, 0) };
        assert_eq!(tcb.on_segment(&restarted, now), Arrival::Nothing);
        let header = tcb.ack_header();
        assert_eq!((tcb.state, tcb.due), (State::Established, Due::Now), "{at}");
        assert_eq!((header.sequence, header.acknowledgment), (OURS.plus(1), THEIRS.plus(1)));
    }
}
