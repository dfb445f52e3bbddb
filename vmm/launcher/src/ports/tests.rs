//! An agent that means harm: the host does a bounded amount for it, and others do not wait.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent_protocol::control::{MAX_PORTS, ToHost};
use agent_protocol::encode;
use netstack::{NetConfig, Netstack};
use policy::{Policy, Preset};
use virtio::frame::{DeviceEnd, FrameLink};

use super::{Board, Change, Mailbox, Mirror, Notice};
use crate::control::{Agent, Event, hear};

/// How long the agent flaps; within it every port may change a few times, were it not for the limits.
const FLAPPING: Duration = Duration::from_secs(3);
/// Changes at once, and a second later on.
const MOST: [u64; 2] = [16, 2];

/// A board whose agent is the test.
struct Bench {
    agent: UnixStream,
    board: Arc<Board>,
    mailbox: Arc<Mailbox>,
    hearing: JoinHandle<()>,
    _events: Receiver<Event>,
    _card: DeviceEnd,
}

fn bench() -> Bench {
    let FrameLink { device, stack } = FrameLink::new().unwrap();
    let network = Netstack::start(stack, NetConfig::new(Policy::new(Preset::None))).unwrap();
    let (agent, mailbox) = (Agent::default(), Arc::new(Mailbox::default()));
    let board = Arc::new(Board::new(network, agent.clone(), mailbox.clone()));
    let (host, guest) = UnixStream::pair().unwrap();
    let (sender, events) = sync_channel(8);
    let to = mailbox.clone();
    let hearing = thread::spawn(move || hear(&host, &agent, &to, &sender));
    Bench { agent: guest, board, mailbox, hearing, _events: events, _card: device }
}

/// Says that all ports are there, then that none is, as often as the host takes it. How often that was.
fn flap(mut agent: &UnixStream, until: Instant) -> u64 {
    let all: Vec<u16> = (0..).step_by(251).take(MAX_PORTS).collect();
    let reports = [all, Vec::new()].map(|ports| encode(&ToHost::Listening { ports }).unwrap());
    let mut count = 0;
    for report in reports.iter().cycle() {
        agent.write_all(report).unwrap();
        count += 1;
        if Instant::now() > until {
            break;
        }
    }
    count
}

#[test]
fn ports_that_flap_and_an_agent_that_does_not_answer_hold_nobody_up() {
    let bench = bench();
    let (tell, told) = channel::<Notice>();
    let tell = move |notice: &Notice| drop(tell.send(notice.clone()));
    let mirror = Mirror::start(bench.board.clone(), bench.mailbox.clone(), tell).unwrap();
    let begun = Instant::now();
    let flapping = {
        let agent = bench.agent.try_clone().unwrap();
        thread::spawn(move || flap(&agent, begun + FLAPPING))
    };

    // The user's own port is there all the same.
    let port = bench.board.publish("127.0.0.1:0:80".parse().unwrap()).unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port.host)).is_ok());
    assert!(flapping.join().unwrap() > 100 * FLAPPING.as_secs());
    let published = bench.board.network().report().unwrap().published;
    drop(mirror);

    let told: Vec<Notice> = told.iter().collect();
    let [burst, rate] = MOST;
    let most = burst + rate * (begun.elapsed().as_secs() + 1);
    let changes = told.iter().filter(|notice| notice.change != Change::Paused).count();
    assert!((1..=most).contains(&u64::try_from(changes).unwrap()), "{changes} changes, {most} at most");
    assert!(told.iter().any(|notice| notice.change == Change::Paused), "{told:?}");
    // Two addresses each, and the user's.
    assert!(published.len() <= 1 + 2 * 64, "{} addresses", published.len());
    let mirrored = published.iter().filter(|published| published.port.bind.port() != port.host);
    assert!(mirrored.clone().all(|published| published.port.bind.ip().is_loopback()));
    assert!(mirrored.clone().all(|published| published.port.bind.port() >= 1024), "{published:?}");
    drop(bench.agent);
    bench.hearing.join().unwrap();
}
