//! TCP as the guest's own stack would see it, segment by segment (RFC 9293).

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use super::guest::{ACK, FIN, RST, SYN};
use super::raw::{Answer, Raw, SCALED};
use super::*;
use crate::{Publish, Transport};

const SERVER: &str = "93.184.216.34:443";
/// What the gateway waits for an acknowledgment at first, and a bit.
const WAIT: Duration = Duration::from_millis(250);
/// How long nothing comes that is not due.
const SILENCE: Duration = Duration::from_millis(50);

struct Open {
    guest: Guest,
    raw: Raw,
    peer: TcpStream,
    listener: TcpListener,
    internet: Internet,
    handle: Handle,
    answer: Answer,
}

/// An open connection whose guest began at `first`.
fn open(first: u32, options: &[u8]) -> Open {
    open_with(Offloads::default(), first, options)
}

fn open_with(offloads: Offloads, first: u32, options: &[u8]) -> Open {
    let Bench { mut guest, internet, handle } = Setup { offloads, ..Setup::new(public()) }.start();
    let listener = internet.tcp(SERVER);
    let (raw, answer) = Raw::open(&mut guest, 5000, SERVER, first, options);
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    Open { guest, raw, peer, listener, internet, handle, answer }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

fn flows_are(handle: &Handle, count: usize) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while handle.report().unwrap().tcp_flows != count {
        assert!(std::time::Instant::now() < deadline, "still {} flows", handle.report().unwrap().tcp_flows);
    }
}

#[test]
fn the_gateway_offers_what_the_guest_can() {
    // MSS 65480; window scale 7 only for who has sent one.
    assert_eq!(open(1, SCALED).answer.options, [2, 4, 0xff, 0xc8, 1, 3, 3, 7]);
    assert_eq!(open(1, &[]).answer.options, [2, 4, 0xff, 0xc8, 1, 1, 1, 0]);
    assert_eq!(open(1, &[]).answer.window, u16::MAX);
}

#[test]
fn a_guest_whose_numbers_wrap_is_understood() {
    let Open { mut guest, mut raw, mut peer, handle: _handle, .. } = open(u32::MAX - 3, SCALED);
    for piece in pattern(100).chunks(7) {
        raw.write(&guest, piece);
    }
    let mut data = vec![0; 100];
    peer.read_exact(&mut data).unwrap();
    assert_eq!(data, pattern(100));
    peer.write_all(b"x").unwrap();
    assert_eq!(raw.expect_more(&mut guest).acknowledgment, raw.next);
}

#[test]
fn what_was_partly_acknowledged_is_sent_again_from_there() {
    // With offloads it goes into the guest's memory straight out of the socket.
    for offloads in [Offloads::default(), ALL_OFFLOADS] {
        let Open { mut guest, mut raw, mut peer, handle: _handle, .. } = open_with(offloads, 1, &[2, 4, 0xff, 0xc8]);
        peer.write_all(&pattern(100_000)).unwrap();
        let first = raw.expect(&mut guest);
        assert_eq!(first.data, pattern(first.data.len()));
        assert!(first.data.len() > 1000);

        let start = std::time::Instant::now();
        raw.expected = first.sequence.wrapping_add(1000);
        raw.send(&guest, ACK, &[]);
        let again = loop {
            let answer = raw.expect(&mut guest);
            if answer.sequence == raw.expected {
                break answer;
            }
        };
        assert!(start.elapsed() > WAIT);
        assert!(again.data.starts_with(&pattern(2000)[1000..]));
        raw.send(&guest, ACK, &[]);
        let rest = raw.read(&mut guest, 99_000);
        assert!(rest == pattern(100_000)[1000..], "bytes were changed on the way");
    }
}

#[test]
fn a_guest_that_misses_something_gets_it_at_once() {
    let Open { mut guest, raw, mut peer, handle: _handle, .. } = open(1, SCALED);
    peer.write_all(b"lost").unwrap();
    let lost = raw.expect(&mut guest);
    peer.write_all(b"kept").unwrap();
    let kept = raw.expect(&mut guest);
    assert_eq!((lost.data.as_slice(), kept.data.as_slice()), (&b"lost"[..], &b"kept"[..]));
    for _ in 0..3 {
        raw.send(&guest, ACK, &[]);
    }
    let again = raw.receive(&mut guest, WAIT).expect("something before the timer");
    assert_eq!((again.sequence, again.data.as_slice()), (lost.sequence, &b"lostkept"[..]));
}

#[test]
fn lies_about_positions_are_answered_with_the_truth_and_change_nothing() {
    let Open { mut guest, mut raw, mut peer, handle, .. } = open(1, SCALED);
    let truth = raw.clone();
    let is_truth = |answer: Answer| {
        assert_eq!((answer.flags, answer.sequence, answer.acknowledgment), (ACK, truth.expected, truth.next));
    };
    // Far beyond the window, far before it, behind a gap.
    for at in [1 << 30, 1u32.wrapping_neg() << 30, 1000] {
        raw.send_with(&guest, ACK, truth.next.wrapping_add(at), &[], b"forged");
        is_truth(raw.expect(&mut guest));
    }
    // An acknowledgment of what was never sent.
    for ahead in [1, 1 << 30] {
        raw.expected = truth.expected.wrapping_add(ahead);
        raw.send(&guest, ACK, b"forged");
        is_truth(raw.expect(&mut guest));
    }
    raw.expected = truth.expected;
    raw.write(&guest, b"genuine");
    let mut words = [0; 7];
    peer.read_exact(&mut words).unwrap();
    assert_eq!((&words, handle.report().unwrap().tcp_flows), (b"genuine", 1));
}

#[test]
fn a_guest_that_ignores_its_window_loses_what_is_beyond() {
    let Open { mut guest, mut raw, mut peer, handle: _handle, .. } = open(1, SCALED);
    // Nobody reads at the other end: in the end the window is shut, and the guest goes on.
    let chunk = vec![0x55; 60_000];
    let (mut shut, mut beyond) = (false, 0);
    while beyond < 50 {
        raw.send(&guest, ACK, &chunk);
        while let Some(answer) = raw.receive(&mut guest, Duration::from_millis(1)) {
            raw.next = answer.acknowledgment;
            shut = answer.window == 0;
        }
        beyond += usize::from(shut);
    }
    let taken = usize::try_from(raw.next.wrapping_sub(2)).unwrap();
    // All that was acknowledged arrives, and not a byte more, and the guest is told that there is room again.
    let mut data = vec![0; taken];
    peer.read_exact(&mut data).unwrap();
    let news = loop {
        let answer = raw.expect(&mut guest);
        if answer.window > 0 {
            break answer;
        }
    };
    assert_eq!(news.acknowledgment, raw.next);
    raw.write(&guest, b"end");
    let mut end = [0; 3];
    peer.read_exact(&mut end).unwrap();
    assert_eq!(&end, b"end");
}

#[test]
fn a_shut_window_is_probed_and_data_goes_on_when_it_opens() {
    let Open { mut guest, mut raw, mut peer, handle: _handle, .. } = open(1, SCALED);
    raw.window = 0;
    raw.send(&guest, ACK, &[]);
    flows_are(&_handle, 1);
    peer.write_all(b"patience").unwrap();
    for _ in 0..2 {
        let probe = raw.expect(&mut guest);
        assert_eq!((probe.data.len(), probe.sequence), (0, raw.expected.wrapping_sub(1)));
        raw.send(&guest, ACK, &[]);
    }
    raw.window = 1;
    raw.send(&guest, ACK, &[]);
    assert_eq!(raw.read(&mut guest, 8), b"patience");
}

#[test]
fn a_reset_must_be_exact_and_the_guest_may_prove_that_it_is() {
    let Open { mut guest, mut raw, mut peer, handle, .. } = open(1, SCALED);
    raw.send_with(&guest, RST, raw.next.wrapping_sub(1), &[], &[]);
    raw.send_with(&guest, RST, raw.next.wrapping_add(1 << 30), &[], &[]);
    assert_eq!(raw.receive(&mut guest, SILENCE), None);
    raw.send_with(&guest, RST, raw.next.wrapping_add(100), &[], &[]);
    let challenge = raw.expect(&mut guest);
    assert_eq!((challenge.flags, challenge.acknowledgment), (ACK, raw.next));
    assert_eq!(handle.report().unwrap().tcp_flows, 1);
    raw.next = challenge.acknowledgment;
    raw.send(&guest, RST, &[]);
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    flows_are(&handle, 0);
}

#[test]
fn a_guest_that_started_over_ends_the_old_connection_and_gets_a_new_one() {
    let Open { mut guest, raw, mut peer, listener, internet, handle, .. } = open(1, SCALED);
    // It reboots and happens to take the same port.
    let restarted = Raw::new(&guest, 5000, SERVER, 0xdead_beef);
    restarted.send_with(&guest, SYN, restarted.next, SCALED, &[]);
    let challenge = restarted.expect(&mut guest);
    assert_eq!((challenge.flags, challenge.acknowledgment), (ACK, raw.next));
    // It knows nothing of that, and says so (RFC 9293, 3.5.2).
    restarted.send_with(&guest, RST, challenge.acknowledgment, &[], &[]);
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (mut raw, _) = Raw::open(&mut guest, 5000, SERVER, 0xdead_beef, SCALED);
    let (mut peer, _) = listener.accept().unwrap();
    raw.write(&guest, b"anew");
    let mut words = [0; 4];
    peer.read_exact(&mut words).unwrap();
    assert_eq!((&words, internet.dialed().len(), handle.report().unwrap().tcp_flows), (b"anew", 2, 1));
}

#[test]
fn an_answer_that_the_guest_has_not_heard_is_repeated() {
    let Bench { mut guest, internet, handle: _handle } = bench(public());
    let _listener = internet.tcp(SERVER);
    let raw = Raw::new(&guest, 5000, SERVER, 7);
    raw.send_with(&guest, SYN, 7, SCALED, &[]);
    let first = raw.expect(&mut guest);
    assert!(first.has(SYN | ACK));
    // By itself, and when asked.
    assert_eq!(raw.expect(&mut guest), first);
    raw.send_with(&guest, SYN, 7, SCALED, &[]);
    assert_eq!(raw.expect(&mut guest), first);
    assert_eq!(internet.dialed().len(), 1);
}

#[test]
fn last_bytes_and_ends_travel_together() {
    let Open { mut guest, mut raw, mut peer, handle, internet, .. } = open(1, SCALED);
    raw.send(&guest, FIN | ACK, b"question");
    raw.next = raw.next.wrapping_add(9);
    let mut words = Vec::new();
    peer.read_to_end(&mut words).unwrap();
    assert_eq!(words, b"question");
    peer.write_all(b"answer").unwrap();
    drop(peer);
    let mut data = Vec::new();
    loop {
        let answer = raw.expect_more(&mut guest);
        assert_eq!(answer.acknowledgment, raw.next);
        data.extend_from_slice(&answer.data);
        raw.expected = answer.sequence.wrapping_add(u32::try_from(answer.data.len()).unwrap());
        if answer.has(FIN) {
            raw.expected = raw.expected.wrapping_add(1);
            break;
        }
    }
    assert_eq!(data, b"answer");
    raw.send(&guest, ACK, &[]);
    flows_are(&handle, 0);
    assert!(internet.events().iter().any(|event| event.contains("outcome: Finished, sent: 8, received: 6")));
    // Whatever comes after that is of no connection.
    raw.send(&guest, ACK, b"late");
    while !raw.expect(&mut guest).has(RST) {}
}

#[test]
fn each_side_may_finish_long_before_the_other() {
    let Open { mut guest, mut raw, mut peer, handle, .. } = open(1, SCALED);
    peer.shutdown(Shutdown::Write).unwrap();
    let end = raw.expect_more(&mut guest);
    assert!(end.has(FIN) && end.data.is_empty());
    raw.expected = raw.expected.wrapping_add(1);
    raw.write(&guest, b"still ");
    raw.write(&guest, b"talking");
    let mut words = [0; 13];
    peer.read_exact(&mut words).unwrap();
    assert_eq!((&words, handle.report().unwrap().tcp_flows), (b"still talking", 1));
    raw.send(&guest, FIN | ACK, &[]);
    assert_eq!(peer.read(&mut words).unwrap(), 0);
    flows_are(&handle, 0);
}

#[test]
fn a_guest_that_takes_no_frames_gets_everything_once_it_does() {
    const LEN: usize = 12 << 20;
    let Open { mut guest, mut raw, mut peer, handle, .. } = open(1, SCALED);
    let mut out = peer.try_clone().unwrap();
    let sender = std::thread::spawn(move || out.write_all(&pattern(LEN)).unwrap());
    // The largest window there is, and then nothing is read for longer than the gateway waits: the link fills up, and
    // the rest stays with the host.
    raw.send(&guest, ACK, &[]);
    std::thread::sleep(2 * WAIT);
    assert!(!sender.is_finished());
    let data = raw.read(&mut guest, LEN);
    sender.join().unwrap();
    assert!(data == pattern(LEN), "bytes were changed on the way");
    raw.write(&guest, b"done");
    let mut words = [0; 4];
    peer.read_exact(&mut words).unwrap();
    assert_eq!((&words, handle.report().unwrap().tcp_flows), (b"done", 1));
}

#[test]
fn a_client_of_a_published_port_waits_for_a_guest_that_is_slow_to_answer() {
    let publish = Publish { bind: "127.0.0.1:0".parse().unwrap(), guest_port: 3000, transport: Transport::Tcp };
    let Bench { mut guest, internet: _internet, handle } =
        Setup::new(nothing()).start_with(|config| config.publish = vec![publish]);
    let mut client = TcpStream::connect(handle.report().unwrap().published[0].port.bind).unwrap();
    client.write_all(b"GET").unwrap();
    let own: std::net::SocketAddr = "100.96.0.2:3000".parse().unwrap();
    let (from, port) = match guest.expect() {
        guest::Received::Tcp { from, to: 3000, syn: true, ack: false, .. } => (from, from.port()),
        other => panic!("{other:?}"),
    };
    let mut raw = Raw { from: own, to: from, next: 77, expected: 0, window: u16::MAX };
    // It repeats itself, and the guest opens on its own at the same time (RFC 9293, 3.5, figure 7).
    let again = raw.expect(&mut guest);
    assert_eq!((again.flags, raw.to.port()), (SYN, port));
    raw.send_with(&guest, SYN, 77, SCALED, &[]);
    let met = raw.expect(&mut guest);
    assert_eq!((met.flags, met.sequence, met.acknowledgment), (SYN | ACK, again.sequence, 78));
    raw.next = 78;
    raw.expected = again.sequence.wrapping_add(1);
    raw.send(&guest, ACK, &[]);
    assert_eq!(raw.read(&mut guest, 3), b"GET");
    raw.write(&guest, b"200");
    let mut words = [0; 3];
    client.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"200");
}

#[test]
fn a_client_that_is_gone_before_the_guest_answers_leaves_nothing() {
    let publish = Publish { bind: "127.0.0.1:0".parse().unwrap(), guest_port: 3000, transport: Transport::Tcp };
    let Bench { mut guest, internet: _internet, handle } =
        Setup::new(nothing()).start_with(|config| config.publish = vec![publish]);
    let client = TcpStream::connect(handle.report().unwrap().published[0].port.bind).unwrap();
    assert!(matches!(guest.expect(), guest::Received::Tcp { syn: true, .. }));
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    while !guest.expect().is_reset() {}
    flows_are(&handle, 0);
}
