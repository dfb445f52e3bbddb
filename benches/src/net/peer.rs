//! The internet that the guests see: one server per kind of traffic.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;

/// Ports, the same as in `load.rs`.
pub mod port {
    pub const CONTROL: u16 = 9000;
    pub const SINK: u16 = 9001;
    pub const SOURCE: u16 = 9002;
    pub const ECHO: u16 = 9003;
    pub const HOLD: u16 = 9004;
}

/// Connections of one kind that are served at the same time.
const THREADS: usize = 24;
const CHUNK: usize = 256 << 10;

/// Connections that are only held.
pub type Held = Arc<Mutex<Vec<TcpStream>>>;

/// Serves all but the control port, for ever.
pub fn serve(address: IpAddr) -> anyhow::Result<Held> {
    pool(address, port::SINK, 4, sink)?;
    pool(address, port::SOURCE, 4, source)?;
    pool(address, port::ECHO, THREADS, echo)?;
    let hold = listen(address, port::HOLD)?;
    let held = Held::default();
    let keep = Arc::clone(&held);
    thread::spawn(move || {
        while let Ok((stream, _)) = hold.accept() {
            keep.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        }
    });
    Ok(held)
}

pub fn listen(address: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind(SocketAddr::new(address, port)).with_context(|| format!("port {port}"))
}

fn pool(address: IpAddr, port: u16, threads: usize, serve: fn(TcpStream)) -> anyhow::Result<()> {
    let listener = listen(address, port)?;
    for _ in 0..threads {
        let listener = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                serve(stream);
            }
        });
    }
    Ok(())
}

fn sink(mut stream: TcpStream) {
    let mut chunk = vec![0; CHUNK];
    while stream.read(&mut chunk).is_ok_and(|count| count > 0) {}
}

fn source(mut stream: TcpStream) {
    let chunk = vec![0x5a; CHUNK];
    while stream.write_all(&chunk).is_ok() {}
}

fn echo(mut stream: TcpStream) {
    // A peer that closed first is the normal end.
    let _ = stream.set_nodelay(true);
    let mut message = [0; 4096];
    while let Ok(count) = stream.read(&mut message)
        && count > 0
        && message.get(..count).is_some_and(|answer| stream.write_all(answer).is_ok())
    {}
}
