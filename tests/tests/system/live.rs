//! A policy that changes while the guest runs: what it takes away is cut, what it leaves goes on.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::{Stage, until};

/// How long a guest may take to start a command, and an exchange with it.
const PATIENCE: Duration = Duration::from_secs(150);

/// Connects to two open ports, to one that nobody accepts at and to a UDP port; when told to, tells what became of
/// them.
const CLIENT: &str = r#"
import errno, os, select, socket, sys, time
keep, cut, full, udp = (int(port) for port in sys.argv[1:])
def connect(port):
    s = socket.create_connection(("100.96.0.1", port), 60)
    s.sendall(b"hello")
    assert s.recv(5) == b"hello"
    return s
def outcome(what):
    try:
        return str(what())
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
kept, open_one = connect(keep), connect(cut)
pending = socket.socket()
pending.setblocking(False)
pending.connect_ex(("100.96.0.1", full))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.settimeout(60)
datagrams.connect(("100.96.0.1", udp))
datagrams.send(b"hello")
assert datagrams.recv(5) == b"hello"
time.sleep(1)
assert not select.select([], [pending], [], 0)[1], "the pending connection is not pending"
open("ready", "w").close()
while not os.path.exists("changed"):
    time.sleep(0.05)
print("open", outcome(lambda: open_one.recv(5)))
select.select([], [pending], [], 60)
print("pending", errno.errorcode.get(pending.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
print("new", outcome(lambda: socket.create_connection(("100.96.0.1", cut), 60)))
datagrams.send(b"again")
print("datagrams", outcome(lambda: datagrams.recv(5)))
kept.sendall(b"still")
print("kept", kept.recv(5).decode())
"#;

/// Says back what is said.
fn echo(mut stream: TcpStream) -> Result<()> {
    let mut word = [0; 5];
    stream.set_read_timeout(Some(PATIENCE))?;
    while stream.read_exact(&mut word).is_ok() {
        stream.write_all(&word)?;
    }
    Ok(())
}

fn listener() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

pub fn an_applied_policy_cuts_what_it_no_longer_allows(stage: &Stage) -> Result<()> {
    let [(kept, keep), (open, cut), (full, full_port)] = [listener()?, listener()?, listener()?];
    // Whoever connects there waits, as at a host that does not answer.
    rustix::net::listen(&full, 0)?;
    let _first = TcpStream::connect(full.local_addr()?)?;
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    datagrams.set_read_timeout(Some(PATIENCE))?;
    let udp = datagrams.local_addr()?.port();
    let ports = [keep, cut, full_port, udp].map(|port| port.to_string());
    let keeper = std::thread::spawn(move || echo(kept.accept()?.0));

    let mut run =
        stage.run_in(&stage.project(), ["python3", "-c", CLIENT].into_iter().chain(ports.iter().map(|p| p.as_str())));
    run.patience(2 * PATIENCE);
    for port in &ports {
        run.args(["--allow-host", port]);
    }
    let started = run.start()?;
    let (mut peer, _) = open.accept()?;
    peer.set_read_timeout(Some(PATIENCE))?;
    let mut word = [0; 5];
    peer.read_exact(&mut word)?;
    peer.write_all(&word)?;
    let (count, client) = datagrams.recv_from(&mut word)?;
    datagrams.send_to(&word[..count], client)?;
    wait_for(&stage.project().join("ready"))?;

    let applied = stage.vmm(["policy", "apply", "--allow-host", &ports[0]]).finish()?;
    applied.succeeded()?;
    ensure!(applied.stderr.contains(&format!("port {keep} of the host's loopback")), "{applied}");
    ensure!(!applied.stderr.contains(&format!("port {cut} ")), "{applied}");

    // The other side hears at once, whether or not the guest does anything.
    let heard = peer.read(&mut word).map_err(|error| error.kind());
    ensure!(heard == Err(ErrorKind::ConnectionReset), "{heard:?}");
    fs::write(stage.project().join("changed"), "")?;
    let text = started.finish()?.succeeded()?;
    let expected =
        ["open ECONNRESET", "pending ECONNREFUSED", "new ECONNREFUSED", "datagrams EHOSTUNREACH", "kept still"];
    ensure!(text.lines().eq(expected), "{text}");
    keeper.join().ok().context("the server that was kept panicked")??;
    datagrams.set_read_timeout(Some(Duration::from_millis(1)))?;
    ensure!(datagrams.recv(&mut word).is_err(), "a datagram came through");

    let log = stage.vmm(["log", "--egress", "project"]).finish()?.succeeded()?;
    let is_cut = |line: &str, protocol: &str, port: u16| {
        line.contains(&format!(" ended {protocol} 100.96.0.1:{port} by ")) && line.contains(": no longer allowed, ")
    };
    for (protocol, port) in [("tcp", cut), ("tcp", full_port), ("udp", udp)] {
        ensure!(log.lines().any(|line| is_cut(line, protocol, port)), "{protocol} {port}:\n{log}");
    }
    ensure!(!log.lines().any(|line| is_cut(line, "tcp", keep)), "{log}");
    ensure!(log.lines().any(|line| line.contains(&format!(" deny  tcp 100.96.0.1:{cut} by "))), "{log}");
    Ok(())
}

fn wait_for(file: &Path) -> Result<()> {
    until("the guest's word", PATIENCE, || Ok(file.exists().then_some(())))
}
