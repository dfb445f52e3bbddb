//! How connections begin (RFC 9293, 3.5).

use super::super::segment::{ACK, SYN};
use super::*;

#[test]
fn the_guests_syn_is_answered_and_its_acknowledgment_opens() {
    let now = Instant::now();
    let mut tcb = Tcb::accepting(&syn(), OURS, MTU, now);
    tcb.open_window(WINDOW);
    let header = tcb.syn_header(65_480);
    assert_eq!((header.flags, header.sequence, header.acknowledgment), (SYN | ACK, OURS, THEIRS.plus(1)));
    assert_eq!((header.window, header.options.unwrap().scale), (u16::MAX, Some(7)));
    tcb.syn_sent(now);
    assert_eq!((tcb.state, tcb.in_flight()), (State::SynReceived, 1));

    // With data at once.
    let arrival = tcb.on_segment(&segment(TcpControl::None, 1, 1, 10), now);
    assert_eq!((acknowledged(&arrival), payload(&arrival)), (0, 0..10));
    assert_eq!((tcb.state, tcb.in_flight(), tcb.mss), (State::Established, 0, 1460));
}

#[test]
fn who_does_not_scale_is_not_scaled_for() {
    let now = Instant::now();
    let mut tcb = Tcb::accepting(&Segment { scale: None, mss: None, ..syn() }, OURS, MTU, now);
    tcb.open_window(WINDOW);
    assert_eq!(tcb.syn_header(65_480).options.unwrap().scale, None);
    tcb.syn_sent(now);
    tcb.on_segment(&bare(1, 1), now);
    assert_eq!((tcb.window, tcb.mss, tcb.header(0).window), (1000, 536, u16::MAX));
}

#[test]
fn a_repeated_syn_is_answered_again() {
    let now = Instant::now();
    let mut tcb = Tcb::accepting(&syn(), OURS, MTU, now);
    tcb.syn_sent(now);
    assert_eq!(tcb.on_segment(&syn(), now), Arrival::Nothing);
    assert!(tcb.syn_due);
    assert_eq!(tcb.syn_header(65_480).sequence, OURS);
}

#[test]
fn an_acknowledgment_of_what_was_never_sent_does_not_open() {
    let now = Instant::now();
    for wrong in [-1, 0, 2, 1 << 30, -(1 << 30)] {
        let mut tcb = Tcb::accepting(&syn(), OURS, MTU, now);
        tcb.syn_sent(now);
        assert_eq!(tcb.on_segment(&bare(1, wrong), now), Arrival::Stray, "{wrong}");
        assert_eq!(tcb.state, State::SynReceived);
    }
}

#[test]
fn a_syn_to_the_guest_is_answered_refused_or_met_by_another() {
    let now = Instant::now();
    let connecting = || {
        let mut tcb = Tcb::connecting(&tuple(), OURS, MTU, now);
        assert_eq!((tcb.syn_header(1460).flags, tcb.syn_header(1460).sequence), (SYN, OURS));
        tcb.syn_sent(now);
        tcb
    };
    let answer = Segment { acknowledgment: Some(OURS.plus(1)), ..syn() };

    let mut answered = connecting();
    assert_eq!(answered.on_segment(&answer, now), Arrival::Nothing);
    assert_eq!((answered.state, answered.due, answered.window), (State::Established, Due::Now, 64_240));

    let mut refused = connecting();
    assert_eq!(refused.on_segment(&segment(TcpControl::Rst, 0, 1, 0), now), Arrival::Reset);

    // A reset of nothing that we sent, and an answer to nothing.
    let mut lied_to = connecting();
    assert_eq!(lied_to.on_segment(&segment(TcpControl::Rst, 0, 7, 0), now), Arrival::Nothing);
    assert_eq!(lied_to.on_segment(&Segment { acknowledgment: Some(OURS), ..syn() }, now), Arrival::Stray);
    assert_eq!(lied_to.on_segment(&bare(1, 1), now), Arrival::Nothing);
    assert_eq!(lied_to.state, State::SynSent);

    // Figure 7: both sides open at the same time.
    let mut met = connecting();
    assert_eq!(met.on_segment(&syn(), now), Arrival::Nothing);
    assert_eq!((met.state, met.syn_due, met.syn_header(1460).flags), (State::SynReceived, true, SYN | ACK));
    met.syn_sent(now);
    assert_eq!(met.on_segment(&answer, now), Arrival::Nothing);
    assert_eq!((met.state, met.in_flight()), (State::Established, 0));
}
