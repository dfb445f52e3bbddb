//! Bytes both ways, and what a guest may lie about on the way (RFC 9293, 3.8 and 3.10.7.4).

use proptest::prelude::*;

use super::*;

#[test]
fn bytes_are_taken_once_in_order_and_within_the_window() {
    let now = Instant::now();
    let window = i64::from(WINDOW);
    for (at, len, taken, due) in [
        (1, 10, 0..10, Due::Nothing),
        // The beginning is old.
        (-4, 10, 5..10, Due::Now),
        // The end is beyond what the guest was allowed.
        (1, WINDOW + 10, 0..100_000, Due::Now),
        // Old and beyond.
        (-4, WINDOW + 10, 5..100_005, Due::Now),
        // Something is missing before it.
        (2, 10, 0..0, Due::Now),
        (window, 10, 0..0, Due::Now),
    ] {
        let mut tcb = established(now);
        let arrival = tcb.on_segment(&segment(TcpControl::Psh, at, 1, len), now);
        assert_eq!((payload(&arrival), tcb.due), (taken, due), "{at} {len}");
        assert_eq!(matches!(arrival, Arrival::Valid { is_early: true, .. }), at > 1);
    }
    // All old, all beyond, or nowhere: no part of the connection, but the guest learns where we are.
    for (at, len) in [(-9, 10), (window + 1, 10), (1 << 31, 10), (-(1 << 30), 10), (0, 0), (window + 1, 0)] {
        let mut tcb = established(now);
        assert_eq!(tcb.on_segment(&segment(TcpControl::None, at, 1, len), now), Arrival::Nothing, "{at} {len}");
        assert_eq!((tcb.due, tcb.expected), (Due::Now, THEIRS.plus(1)));
    }
}

#[test]
fn acknowledgments_move_on_and_lies_do_not() {
    let now = Instant::now();
    let mut tcb = established(now);
    tcb.data_sent(1000, false, now);
    for lie in [1002, 1 << 30, -(1 << 30), -128_000] {
        assert_eq!(tcb.on_segment(&bare(1, lie), now), Arrival::Nothing, "{lie}");
        assert_eq!((tcb.in_flight(), tcb.due), (1000, Due::Now));
        tcb.acknowledged();
    }
    for (ack, count, left) in [(1, 0, 1000), (401, 400, 600), (101, 0, 600), (1001, 600, 0), (1001, 0, 0)] {
        assert_eq!(acknowledged(&tcb.on_segment(&bare(1, ack), now)), count, "{ack}");
        assert_eq!((tcb.in_flight(), tcb.due), (left, Due::Nothing));
    }
    assert_eq!(tcb.clock.deadline(), None);
}

#[test]
fn a_segment_without_an_acknowledgment_is_nothing() {
    let now = Instant::now();
    let mut tcb = established(now);
    let mute = Segment { acknowledgment: None, ..segment(TcpControl::None, 1, 0, 10) };
    assert_eq!(tcb.on_segment(&mute, now), Arrival::Nothing);
    assert_eq!(tcb.expected, THEIRS.plus(1));
}

#[test]
fn the_guests_window_bounds_what_is_sent() {
    let now = Instant::now();
    let mut tcb = established(now);
    assert_eq!(tcb.sendable(), 128_000);
    tcb.data_sent(127_500, false, now);
    // Less than a segment is not worth one, as long as something is in flight.
    assert_eq!(tcb.sendable(), 0);
    // A window that shrinks below what is in flight.
    tcb.on_segment(&Segment { window: 1, ..bare(1, 1) }, now);
    assert_eq!((tcb.window, tcb.sendable()), (128, 0));
    tcb.on_segment(&Segment { window: 1, ..bare(1, 127_501) }, now);
    assert_eq!(tcb.sendable(), 128);
    // The window of an older segment is none.
    tcb.on_segment(&Segment { window: 9, ..bare(1, 127_400) }, now);
    assert_eq!(tcb.window, 128);
    // The widest there is.
    tcb.on_segment(&Segment { window: u16::MAX, ..bare(1, 127_501) }, now);
    assert_eq!(tcb.sendable(), u32::from(u16::MAX) << 7);
}

#[test]
fn a_window_once_given_is_never_taken_back_and_news_of_it_are_told() {
    let now = Instant::now();
    let mut tcb = established(now);
    tcb.open_window(10);
    assert_eq!(tcb.edge, THEIRS.plus(1).plus(WINDOW));
    tcb.accept(WINDOW, false, now);
    assert_eq!(tcb.header(0).window, 0);
    tcb.acknowledged();
    // What was held is gone.
    tcb.open_window(WINDOW);
    assert_eq!((tcb.due, tcb.header(0).window), (Due::Now, 781));
}

#[test]
fn three_repeated_acknowledgments_send_the_oldest_again_and_the_rest_once_asked_for() {
    let now = Instant::now();
    let mut tcb = established(now);
    tcb.data_sent(60_000, false, now);
    tcb.data_sent(60_000, false, now);
    let repeated = bare(1, 1);
    tcb.on_segment(&repeated, now);
    tcb.on_segment(&repeated, now);
    assert_eq!(tcb.nxt, tcb.sent);
    tcb.on_segment(&repeated, now);
    assert_eq!((tcb.nxt, tcb.sendable()), (OURS.plus(1), 64 << 10));
    tcb.data_sent(60_000, false, now);
    assert_eq!((tcb.nxt, tcb.sent, tcb.sendable()), (OURS.plus(60_001), OURS.plus(120_001), (64 << 10) - 60_000));
    // The guest had the other one.
    assert_eq!(acknowledged(&tcb.on_segment(&bare(1, 120_001), now)), 120_000);
    assert_eq!((tcb.nxt, tcb.in_flight(), tcb.recovery), (tcb.sent, 0, None));
}

#[test]
fn small_requests_are_acknowledged_by_their_answers_and_large_ones_at_once() {
    let now = Instant::now();
    let mut tcb = established(now);
    tcb.accept(64, false, now);
    assert!(!tcb.must_acknowledge() && tcb.clock.deadline().is_some());
    tcb.data_sent(64, false, now);
    assert_eq!(tcb.due, Due::Nothing);
    tcb.accept(4000, false, now);
    assert!(tcb.must_acknowledge());
}

proptest! {
    /// Whatever a guest says, positions stay in order and nothing outside the window is taken.
    #[test]
    fn no_segment_breaks_the_order(
        script in proptest::collection::vec((0..6u8, any::<u32>(), any::<u32>(), 0..70_000u32, any::<u16>(), any::<bool>()), 1..60),
    ) {
        let mut now = Instant::now();
        let mut tcb = established(now);
        for (kind, sequence, ack, len, window, near) in script {
            let control = match kind {
                0 => TcpControl::Fin,
                1 => TcpControl::Syn,
                2 => TcpControl::Rst,
                _ => TcpControl::None,
            };
            // Half of them are about where the connection is.
            let sequence = if near { tcb.expected.plus(sequence % 2000).minus(1000) } else { Seq(sequence) };
            let ack = if near { tcb.sent.minus(ack % 3000) } else { Seq(ack) };
            let segment = Segment {
                sequence, acknowledgment: (kind != 5).then_some(ack), window, ..segment(control, 0, 0, len)
            };
            let (edge, expected, una) = (tcb.edge, tcb.expected, tcb.una);
            if let Arrival::Valid { payload, ends, acknowledged, .. } = tcb.on_segment(&segment, now) {
                prop_assert!(payload.start <= payload.end && payload.end <= usize::try_from(len).unwrap());
                prop_assert!(u32::try_from(payload.len()).unwrap() <= edge.since(expected));
                prop_assert!(acknowledged <= tcb.una.since(una));
                tcb.accept(u32::try_from(payload.len()).unwrap(), ends, now);
            }
            prop_assert!(tcb.expected.offset(expected) >= 0 && tcb.edge.offset(tcb.expected) >= 0);
            prop_assert!(tcb.una.offset(una) >= 0 && tcb.nxt.offset(tcb.una) >= 0 && tcb.sent.offset(tcb.nxt) >= 0);
            tcb.open_window(WINDOW);
            let room = tcb.sendable();
            prop_assert!(room <= u32::from(u16::MAX) << 7);
            if room > 0 {
                tcb.data_sent(room.min(len + 1), false, now);
            }
            now += Duration::from_millis(u64::from(window % 400));
            let _gone = tcb.tick(now);
        }
    }
}
