//! `net-load`: the guest's half of `benches/net`. Does what it is told over one connection, and answers in numbers.
//!
//! `net-load SERVER ARM` runs as the guest's only program. A command is a line, and so is its answer:
//! `up SECONDS`, `down SECONDS` (bytes per second), `rr COUNT` (microseconds: p50, p99), `connect THREADS SECONDS`
//! (connections per second), `open COUNT` (idle connections kept), `close`. An answer that begins with `!` is an error.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Ports of `bench net`; the same as in `peer.rs`.
mod port {
    pub const CONTROL: u16 = 9000;
    pub const SINK: u16 = 9001;
    pub const SOURCE: u16 = 9002;
    pub const ECHO: u16 = 9003;
    pub const HOLD: u16 = 9004;
}

/// One write or read of bulk data.
const CHUNK: usize = 256 << 10;
/// Threads that open idle connections.
const OPENERS: u64 = 8;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(server), Some(arm)) = (words.next(), words.next()) else {
        return Err(io::Error::other("usage: net-load SERVER ARM"));
    };
    let server: std::net::IpAddr = server.parse().map_err(io::Error::other)?;
    let mut control = reach(SocketAddr::new(server, port::CONTROL))?;
    control.set_nodelay(true)?;
    writeln!(control, "{arm}")?;
    let mut lines = BufReader::new(control.try_clone()?).lines();
    let mut load = Load { server, idle: Vec::new() };
    while let Some(line) = lines.next().transpose()? {
        let answer = match load.obey(&line) {
            Ok(numbers) => numbers.iter().map(f64::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => format!("!{line}: {error}"),
        };
        writeln!(control, "{answer}")?;
    }
    Ok(())
}

/// The stack may still be starting.
fn reach(address: SocketAddr) -> io::Result<TcpStream> {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

struct Load {
    server: std::net::IpAddr,
    idle: Vec<TcpStream>,
}

impl Load {
    fn obey(&mut self, line: &str) -> io::Result<Vec<f64>> {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let numbers = words.map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(io::Error::other)?;
        match (command, numbers.as_slice()) {
            ("up", &[seconds]) => Ok(vec![self.up(Duration::from_secs(seconds))?]),
            ("down", &[seconds]) => Ok(vec![self.down(Duration::from_secs(seconds))?]),
            ("rr", &[count]) => self.rr(count),
            ("connect", &[threads, seconds]) => Ok(vec![self.connect_rate(threads, Duration::from_secs(seconds))?]),
            ("open", &[count]) => {
                self.open(count)?;
                Ok(vec![])
            }
            ("close", []) => {
                self.idle.clear();
                Ok(vec![])
            }
            _ => Err(io::Error::other("unknown command")),
        }
    }

    /// Opens idle connections, a few at a time.
    fn open(&mut self, count: u64) -> io::Result<()> {
        let address = self.at(port::HOLD);
        let openers: Vec<_> = (0..OPENERS)
            .map(|index| (count + index) / OPENERS)
            .map(|share| {
                thread::spawn(move || {
                    (0..share).map(|_| TcpStream::connect_timeout(&address, PATIENCE)).collect::<io::Result<Vec<_>>>()
                })
            })
            .collect();
        for opener in openers {
            self.idle.extend(opener.join().map_err(|_| io::Error::other("a thread panicked"))??);
        }
        Ok(())
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.server, port)
    }

    /// A connection that is an error once nothing moves for a while.
    fn stream(&self, port: u16) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.at(port), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Bytes per second to the server, until it has read the last one.
    fn up(&self, time: Duration) -> io::Result<f64> {
        let mut stream = self.stream(port::SINK)?;
        let chunk = vec![0x5a; CHUNK];
        let (start, mut sent) = (Instant::now(), 0.0);
        while start.elapsed() < time {
            stream.write_all(&chunk)?;
            sent += 262_144.0;
        }
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(sent / start.elapsed().as_secs_f64())
    }

    /// Bytes per second from the server.
    fn down(&self, time: Duration) -> io::Result<f64> {
        let mut stream = self.stream(port::SOURCE)?;
        let mut chunk = vec![0; CHUNK];
        let (start, mut received) = (Instant::now(), 0u64);
        while start.elapsed() < time {
            let count = stream.read(&mut chunk)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            received += u64::try_from(count).unwrap_or(0);
        }
        Ok(to_f64(received) / start.elapsed().as_secs_f64())
    }

    /// Microseconds of a request and its answer, 64 bytes each: median and 99th percentile.
    fn rr(&self, count: u64) -> io::Result<Vec<f64>> {
        let mut stream = self.stream(port::ECHO)?;
        stream.set_nodelay(true)?;
        let mut message = [0x5a; 64];
        let mut times = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or(f64::NAN);
        Ok(vec![at(50), at(99)])
    }

    /// Connections per second, each with one request and its answer.
    fn connect_rate(&self, threads: u64, time: Duration) -> io::Result<f64> {
        let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let address = self.at(port::ECHO);
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        once(address)?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    io::Result::Ok(())
                })
            })
            .collect();
        let start = Instant::now();
        thread::sleep(time);
        let (count, took) = (done.load(Ordering::Relaxed), start.elapsed());
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().map_err(|_| io::Error::other("a thread panicked"))??;
        }
        Ok(to_f64(count) / took.as_secs_f64())
    }
}

fn once(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    let mut message = [0x5a; 1];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)
}

fn to_f64(count: u64) -> f64 {
    // Counts of bytes and connections in a few seconds: far below 2^53.
    Duration::from_micros(count).as_secs_f64() * 1e6
}
