//! Guests that use up what they can: the host's memory and descriptors stay bounded, and a connection beside them goes
//! on.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use system_tests::{Engine, Stage, until};

use crate::network::in_front_of_fake_internet;

/// An emulated guest of an emulated machine takes its time.
const PATIENCE: Duration = Duration::from_secs(900);
const HOSTILE: &str = include_str!("hostile.py");
/// SYNs that the guest sends, and connections that it then has open at once. An emulated guest of an emulated machine
/// would be at it for a quarter of an hour; its flood is as much larger than what may be open as it needs to be.
fn sizes(engine: Engine) -> (usize, usize) {
    match engine {
        Engine::Qemu => (100_000, 5000),
        Engine::Kvm => (20_000, 1500),
    }
}
/// Of this program and of `vmm`, one end each.
const DESCRIPTORS: u64 = 20_000;
/// What `vmm` may use besides the guest's memory, with all of them open: 16 KiB for each, and as much for everything
/// else.
const MOST_KIB: u64 = 2 * 16 * 5000;

/// Takes connections until the receiver is gone.
fn serve(listener: TcpListener) -> Receiver<TcpStream> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            if sender.send(stream?).is_err() {
                break;
            }
        }
        Ok::<(), std::io::Error>(())
    });
    receiver
}

/// Lets this program have as many descriptors as the case takes, and `vmm`, which inherits that.
fn raise_descriptor_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < DESCRIPTORS) {
        let raised = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
        return setrlimit(Resource::Nofile, raised).context("raising the limit of descriptors; run the tests as root");
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

fn echo(mut stream: &TcpStream) {
    let mut word = [0; 4];
    while stream.read_exact(&mut word).is_ok() && stream.write_all(&word).is_ok() {}
}

fn port_of(listener: &TcpListener) -> Result<String> {
    Ok(listener.local_addr()?.port().to_string())
}

/// Descriptors and anonymous memory in KiB of a process.
fn usage(pid: &str) -> Result<(usize, u64)> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok((descriptors, line.trim().trim_end_matches(" kB").parse()?))
}

fn wait_for(stage: &Stage, name: &str) -> Result<()> {
    let file = stage.project().join(name);
    until(name, PATIENCE, || Ok(file.exists().then_some(())))
}

fn tell(stage: &Stage, name: &str) -> Result<()> {
    Ok(fs::write(stage.project().join(name), "")?)
}

pub fn floods_and_crowds_are_bounded_and_others_go_on(stage: &Stage) -> Result<()> {
    raise_descriptor_limit()?;
    fs::write(stage.project().join("hostile.py"), HOSTILE)?;
    let (steady, crowd) = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    rustix::net::listen(&crowd, 4096)?;
    let ports = [port_of(&steady)?, port_of(&crowd)?];
    let steady = serve(steady);
    let crowd = serve(crowd);

    let (syns, crowd_size) = sizes(stage.engine());
    let mut run = stage.run(&format!("exec python3 hostile.py {} {} {syns} {crowd_size}", ports[0], ports[1]));
    run.args(["--egress", "none", "--auto-publish", "--allow-host", &ports[0], "--allow-host", &ports[1]])
        .patience(PATIENCE);
    let started = run.start()?;
    let beside = steady.recv_timeout(PATIENCE).context("the guest does not connect")?;
    let beside = thread::spawn(move || echo(&beside));
    wait_for(stage, "flooded")?;
    // What the flood opened and broke off.
    while crowd.try_recv().is_ok() {}
    let pid = started.id().to_string();
    let (descriptors, kib) = usage(&pid)?;
    ensure!(descriptors < 2500 && kib < MOST_KIB, "after the flood: {descriptors} descriptors, {kib} KiB");

    tell(stage, "go on")?;
    wait_for(stage, "crowded")?;
    let kept: Vec<TcpStream> = (0..crowd_size).map(|_| crowd.recv_timeout(PATIENCE)).collect::<Result<_, _>>()?;
    let (many, kib) = usage(&pid)?;
    ensure!(many < crowd_size + 2500 && kib < MOST_KIB, "with {crowd_size} connections: {many} descriptors, {kib} KiB");
    let status = stage.vmm(["status"]).finish()?.succeeded()?;
    ensure!(status.contains(" TCP, "), "{status}");
    drop(kept);

    tell(stage, "go on more")?;
    wait_for(stage, "flapped")?;
    let asked = Instant::now();
    stage.vmm(["status"]).finish()?.succeeded()?;
    stage.vmm(["port", "add", "0:4000"]).finish()?.succeeded()?;
    ensure!(asked.elapsed() < Duration::from_secs(30), "other commands wait for the flapping guest");
    tell(stage, "end")?;
    let finished = started.finish()?;
    let text = finished.succeeded()?;
    ensure!(text.lines().last() == Some("reached the end"), "{finished}");
    drop((steady, crowd));
    // Wakes up the threads that accept.
    ports
        .iter()
        .try_for_each(|port| TcpStream::connect(("127.0.0.1", port.parse()?)).map(drop).context("connecting"))?;
    beside.join().ok().context("the connection beside panicked")?;

    let told = finished.stderr.lines().filter(|line| line.contains(" of the guest is ")).count();
    let slow = finished.stderr.lines().filter(|line| line.contains("come and go too fast")).count();
    ensure!((1..=4).contains(&slow) && told < 200, "{told} changes of ports, {slow} complaints:\n{finished}");
    let crowded = finished.stderr.lines().filter(|line| line.contains("as many as it may")).count();
    ensure!((1..=20).contains(&crowded), "{crowded} lines about limits:\n{finished}");
    let log = stage.vmm(["log", "--egress", "project"]).finish()?.succeeded()?;
    for words in ["limit reached: UDP mappings", " more lines about denials that second"] {
        ensure!(log.contains(words), "{words:?} is not in the log");
    }
    Ok(())
}

pub fn trickled_requests_reach_nobody_and_cost_nobody_else(stage: &Stage) -> Result<()> {
    fs::write(stage.project().join("hostile.py"), HOSTILE)?;
    let log = stage.folder().join("log");
    fs::write(&log, "")?;
    let mut run = stage.run("exec python3 hostile.py trickle");
    run.args(["--egress", "none", "--allow-egress", "v4.test:80"]).patience(PATIENCE);
    let finished = in_front_of_fake_internet(&mut run, Path::new(&log)).finish()?;
    let text = finished.succeeded()?;
    ensure!(text.lines().any(|line| line == "200 of 200 cut"), "{finished}");
    ensure!(text.lines().filter(|line| *line == "another answered").count() >= 3, "{finished}");
    let seen = fs::read_to_string(&log)?;
    ensure!(seen.contains("/another ") && !seen.contains("slow"), "{seen}");
    let log = stage.vmm(["log", "--egress", "project"]).finish()?.succeeded()?;
    ensure!(log.contains("took too long to say what it is for"), "{log}");
    Ok(())
}
