//! What happens when the guest is silent.

use super::super::timer::Gone;
use super::*;

/// Lets the clock run until it wants something; gives how long that was.
fn next(tcb: &mut Tcb, now: &mut Instant) -> (Duration, Result<(), Gone>) {
    let at = tcb.clock.deadline().expect("a deadline");
    let waited = at.saturating_duration_since(*now);
    *now = (*now).max(at);
    (waited, tcb.tick(*now))
}

#[test]
fn what_is_not_acknowledged_is_sent_again_ever_more_slowly_until_the_guest_is_gone() {
    let mut now = Instant::now();
    let start = now;
    let mut tcb = established(now);
    tcb.data_sent(1000, false, now);
    let mut last = Duration::ZERO;
    loop {
        let (waited, result) = next(&mut tcb, &mut now);
        assert!(waited >= last && waited <= 60 * SECOND);
        last = waited;
        if result == Err(Gone) {
            break;
        }
        assert_eq!((tcb.nxt, tcb.sendable() > 0), (OURS.plus(1), true));
        tcb.data_sent(1000, false, now);
    }
    let patience = now - start;
    assert!(patience > 100 * SECOND && patience < 900 * SECOND, "{patience:?}");
}

#[test]
fn after_a_wait_only_one_frame_is_sent_until_the_guest_says_what_it_has() {
    let mut now = Instant::now();
    let mut tcb = established(now);
    tcb.data_sent(120_000, false, now);
    assert_eq!(next(&mut tcb, &mut now).1, Ok(()));
    assert_eq!(tcb.sendable(), 64 << 10);
    tcb.data_sent(64 << 10, false, now);
    assert_eq!(tcb.sendable(), 0);
    tcb.on_segment(&bare(1, 70_001), now);
    assert_eq!((tcb.nxt, tcb.sendable()), (OURS.plus(70_001), 64 << 10));
    tcb.on_segment(&bare(1, 120_001), now);
    assert_eq!((tcb.nxt, tcb.sendable()), (tcb.sent, 128_000));
}

#[test]
fn a_lost_end_is_sent_again() {
    let mut now = Instant::now();
    let mut tcb = established(now);
    tcb.data_sent(10, false, now);
    finish(&mut tcb, now);
    next(&mut tcb, &mut now).1.unwrap();
    assert_eq!((tcb.state, tcb.nxt, tcb.sendable()), (State::FinWait1, OURS.plus(1), 10));
    tcb.data_sent(10, true, now);
    next(&mut tcb, &mut now).1.unwrap();
    tcb.on_segment(&bare(1, 11), now);
    next(&mut tcb, &mut now).1.unwrap();
    assert_eq!((tcb.sendable(), tcb.fin_is_due()), (0, true));
    tcb.data_sent(0, true, now);
    tcb.on_segment(&bare(1, 12), now);
    assert_eq!(tcb.state, State::FinWait2);
}

#[test]
fn syns_are_sent_again_a_few_times() {
    for mut tcb in
        [Tcb::connecting(&tuple(), OURS, MTU, Instant::now()), Tcb::accepting(&syn(), OURS, MTU, Instant::now())]
    {
        let mut now = Instant::now();
        let start = now;
        tcb.syn_sent(now);
        let mut sent = 1;
        while next(&mut tcb, &mut now).1.is_ok() {
            assert!(tcb.syn_due);
            tcb.syn_sent(now);
            sent += 1;
        }
        assert_eq!(sent, 6);
        assert!(now - start < 30 * SECOND);
    }
}

#[test]
fn a_closed_window_is_asked_about_for_as_long_as_the_guest_answers() {
    let mut now = Instant::now();
    let mut tcb = established(now);
    tcb.on_segment(&Segment { window: 0, ..bare(1, 1) }, now);
    assert_eq!(tcb.sendable(), 0);
    tcb.wait_for_window(now);
    for _ in 0..100 {
        next(&mut tcb, &mut now).1.unwrap();
        assert!(std::mem::take(&mut tcb.probe_due));
        assert_eq!(tcb.probe().sequence, OURS);
        tcb.on_segment(&Segment { window: 0, ..bare(1, 1) }, now);
    }
    tcb.on_segment(&bare(1, 1), now);
    assert_eq!((tcb.sendable(), tcb.clock.deadline()), (128_000, None));

    // And one that does not answer is gone.
    tcb.on_segment(&Segment { window: 0, ..bare(1, 1) }, now);
    tcb.wait_for_window(now);
    let asked = std::iter::from_fn(|| next(&mut tcb, &mut now).1.ok()).count();
    assert_eq!(asked, 12);
}

#[test]
fn a_window_that_closes_on_what_is_in_flight_is_asked_about() {
    let mut now = Instant::now();
    let mut tcb = established(now);
    tcb.data_sent(1000, false, now);
    tcb.on_segment(&Segment { window: 0, ..bare(1, 1) }, now);
    next(&mut tcb, &mut now).1.unwrap();
    assert!(std::mem::take(&mut tcb.probe_due));
    tcb.on_segment(&bare(1, 1), now);
    next(&mut tcb, &mut now).1.unwrap();
    assert_eq!((tcb.probe_due, tcb.nxt), (false, OURS.plus(1)));
}

#[test]
fn a_silent_guest_is_asked_whether_it_lives_and_given_up_when_it_does_not() {
    let mut now = Instant::now();
    let mut tcb = established(now);
    assert_eq!(tcb.clock.deadline(), None, "an idle connection costs no timer");
    assert_eq!(tcb.keep_alive(now + 299 * SECOND), Ok(false));
    now += 300 * SECOND;
    assert_eq!((tcb.keep_alive(now), std::mem::take(&mut tcb.probe_due)), (Ok(true), true));
    // It lives.
    tcb.on_segment(&bare(1, 1), now);
    assert_eq!(tcb.keep_alive(now + 60 * SECOND), Ok(false));
    let mut rounds = 0;
    now += 300 * SECOND;
    while tcb.keep_alive(now).is_ok() {
        now += 60 * SECOND;
        rounds += 1;
    }
    assert_eq!(rounds, 12);
}

#[test]
fn an_acknowledgment_waits_a_moment_for_an_answer_and_not_again_when_none_came() {
    let mut now = Instant::now();
    let mut tcb = established(now);
    tcb.accept(10, false, now);
    assert!(!tcb.must_acknowledge());
    let (waited, result) = next(&mut tcb, &mut now);
    assert_eq!((waited, result, tcb.must_acknowledge()), (Duration::from_millis(1), Ok(()), true));
    tcb.acknowledged();
    assert_eq!(tcb.clock.deadline(), None);

    for _ in 0..8 {
        tcb.accept(10, false, now);
        assert!(tcb.must_acknowledge());
        tcb.acknowledged();
        tcb.data_sent(10, false, now);
    }
    // Eight answers in time are enough to wait for the next.
    tcb.accept(10, false, now);
    assert!(!tcb.must_acknowledge());
}
