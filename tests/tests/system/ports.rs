//! Ports of the guest on the host, the status of a VM that runs, and the log of what it tried.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::{Stage, Started, until};

/// How long a guest may take to start a command.
const START: Duration = Duration::from_secs(120);
/// How long an exchange with a service of the guest may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers each TCP client with the name of its own address, and each datagram with itself; ends with the file `done`.
const SERVICES: &str = r#"
import os, socket, threading, time
def tcp(family, address, port):
    server = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((address, port))
    server.listen()
    while True:
        client, _ = server.accept()
        client.sendall(address.encode())
        client.close()
def udp(port):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", port))
    while True:
        data, peer = server.recvfrom(2000)
        server.sendto(data, peer)
for family, address, port in [(socket.AF_INET, "0.0.0.0", 3000), (socket.AF_INET, "127.0.0.1", 3002), (socket.AF_INET6, "::1", 3003)]:
    threading.Thread(target=tcp, args=(family, address, port), daemon=True).start()
threading.Thread(target=udp, args=(3004,), daemon=True).start()
for host, port in [("100.96.0.1", int(os.environ["HOST_PORT"])), ("10.0.0.5", 80)]:
    try:
        socket.create_connection((host, port), 10).close()
    except OSError:
        pass
time.sleep(0.5)
open("ready", "w").close()
while not os.path.exists("done"):
    time.sleep(0.1)
"#;

/// A port that is free in both families now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn loopbacks(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

/// What the service behind a port of the host says.
fn hear(at: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut words = String::new();
    stream.read_to_string(&mut words)?;
    Ok(words)
}

fn wait_for_guest(stage: &Stage) -> Result<()> {
    let ready = stage.project().join("ready");
    until("the command", START, || Ok(ready.exists().then_some(())))
}

fn end(stage: &Stage, started: Started) -> Result<String> {
    fs::write(stage.project().join("done"), "")?;
    let finished = started.finish()?;
    finished.succeeded()?;
    Ok(finished.stderr)
}

pub fn published_ports_status_and_log(stage: &Stage) -> Result<()> {
    let host_service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let host_port = host_service.local_addr()?.port().to_string();
    let [any, v4, v6, udp] = [free_port()?, free_port()?, free_port()?, free_port()?];
    let mut run = stage.run_in(&stage.project(), ["python3", "-c", SERVICES]);
    run.args(["--allow-host", &host_port, "--env", &format!("HOST_PORT={host_port}")]);
    for spec in [format!("{any}:3000"), format!("{v4}:3002"), format!("{udp}:3004/udp")] {
        run.args(["--publish", &spec]);
    }
    let started = run.start()?;
    wait_for_guest(stage)?;

    // Services on every address and on loopback only, from both loopbacks of the host.
    for at in loopbacks(any) {
        ensure!(hear(at)? == "0.0.0.0", "{at}");
    }
    for at in loopbacks(v4) {
        ensure!(hear(at)? == "127.0.0.1", "{at}");
    }
    for at in loopbacks(udp) {
        let socket = UdpSocket::bind(SocketAddr::new(at.ip(), 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"question", at)?;
        let mut answer = [0; 16];
        let (count, _) = socket.recv_from(&mut answer)?;
        ensure!(&answer[..count] == b"question", "{at}");
    }

    // Live: a further port, a taken one, one less.
    let vmm = |words: &[&str]| stage.vmm(words).finish();
    vmm(&["port", "add", &format!("{v6}:3003")])?.succeeded()?;
    for at in loopbacks(v6) {
        ensure!(hear(at)? == "::1", "{at}");
    }
    let taken = vmm(&["port", "add", &format!("{v6}:3000")])?;
    taken.ended_with(125)?;
    ensure!(taken.stderr.contains(&format!(":{v6}")) && taken.stderr.contains("has it already"), "{taken}");
    let status = vmm(&["status"])?.succeeded()?;
    ensure!(status.contains(&stage.engine().to_string()), "{status}");
    ensure!(status.contains(&format!("127.0.0.1:{v6} [::1]:{v6} -> 3003/tcp")), "{status}");
    ensure!(status.contains(&stage.project().display().to_string()), "{status}");
    vmm(&["port", "rm", &v6.to_string()])?.succeeded()?;
    for at in loopbacks(v6) {
        ensure!(TcpStream::connect(at).is_err(), "{at} is still open");
    }

    let banner = end(stage, started)?;
    ensure!(banner.contains(&format!("127.0.0.1:{any} [::1]:{any} -> 3000/tcp")), "{banner}");
    let log = vmm(&["log", "--egress", "project"])?.succeeded()?;
    ensure!(log.lines().any(|line| line.contains(" allow ") && line.contains(&format!(":{host_port}"))), "{log}");
    ensure!(log.lines().any(|line| line.contains(" deny  tcp 10.0.0.5:80 by ")), "{log}");
    ensure!(log.lines().any(|line| line.contains(" ended tcp ")), "{log}");
    // Who came in by a published port, when, and how that ended: each flow by its number.
    for (transport, port, guest_port) in [("tcp", any, 3000), ("tcp", v4, 3002), ("udp", udp, 3004)] {
        for at in loopbacks(port) {
            let client = if at.is_ipv4() { "127.0.0.1:" } else { "[::1]:" };
            let of = |word: &str| {
                let (begin, end) =
                    (format!(" {word} {transport} {client}"), format!(" -> {at} -> {guest_port} by published port"));
                let lines = log.lines().filter(|line| line.contains(&begin) && line.contains(&end));
                lines.filter_map(|line| line.split(' ').find(|word| word.starts_with('#'))).collect::<Vec<_>>()
            };
            let (admitted, ended) = (of("allow"), of("ended"));
            ensure!(!admitted.is_empty() && admitted == ended, "{transport} {at}: {admitted:?}, {ended:?}\n{log}");
        }
    }
    let json = vmm(&["log", "--egress", "--json", "project"])?.succeeded()?;
    ensure!(json.lines().count() == log.lines().count() && json.contains(r#""verdict":"deny""#), "{json}");
    Ok(())
}

pub fn automatic_ports_come_and_go(stage: &Stage) -> Result<()> {
    let port = free_port()?;
    let script = format!(
        "python3 -m http.server --bind 127.0.0.1 {port} >/dev/null 2>&1 & server=$!
         echo >ready; while [ ! -e stop ]; do sleep 0.1; done; kill $server; while [ ! -e done ]; do sleep 0.1; done"
    );
    let mut run = stage.run(&script);
    let started = run.args(["--auto-publish"]).start()?;
    wait_for_guest(stage)?;
    for at in loopbacks(port) {
        let answer = until("the published port", PATIENCE, || Ok(get(at).ok().filter(|answer| !answer.is_empty())))?;
        ensure!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
    fs::write(stage.project().join("stop"), "")?;
    until("the port to close", PATIENCE, || Ok(TcpStream::connect(loopbacks(port)[0]).is_err().then_some(())))?;
    let said = end(stage, started)?;
    ensure!(said.contains(&format!("port {port} of the guest is published: ")), "{said}");
    ensure!(said.contains(&format!("port {port} of the guest is published no longer")), "{said}");
    Ok(())
}

fn get(at: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub fn bad_and_taken_ports_are_refused_before_the_start(stage: &Stage) -> Result<()> {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = taken.local_addr()?.port();
    let run = |spec: &str| stage.run("true").args(["--publish", spec]).finish();
    let finished = run(&format!("{port}:80"))?;
    finished.ended_with(125)?;
    ensure!(finished.stderr.contains(&port.to_string()) && finished.stderr.contains("(process "), "{finished}");
    let finished = run("8080:http")?;
    finished.ended_with(125)?;
    ensure!(finished.stderr.contains("guest port \"http\"") && finished.stderr.contains("for example"), "{finished}");
    Ok(())
}
