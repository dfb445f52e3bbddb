//! The socket of a running VM.

use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use super::line::{receive, send};
use super::message::{Call, MAX_REQUEST, Request, Response, VERSION};
use super::service::Service;

/// Clients at a time.
const MAX_CLIENTS: usize = 16;
/// How long a client may be silent, or not listen.
const PATIENCE: Duration = Duration::from_secs(30);
const STACK: usize = 256 << 10;

/// Serves a VM's socket; dropping it ends every conversation.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Arc<UnixListener>,
    clients: Arc<Clients>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Takes clients from now on.
    pub(crate) fn start(listener: UnixListener, service: Arc<Service>) -> io::Result<Self> {
        let (listener, clients) = (Arc::new(listener), Arc::new(Clients::default()));
        let (ours, theirs) = (listener.clone(), clients.clone());
        let thread = thread::Builder::new().name("vm-socket".into()).stack_size(STACK);
        let thread = thread.spawn(move || accept(&ours, &theirs, &service))?;
        Ok(Self { listener, clients, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both) {
            tracing::error!(%error, "The VM's socket cannot be closed");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("The VM's socket ended by a panic");
        }
        self.clients.end();
    }
}

/// The conversations, to be ended.
#[derive(Debug, Default)]
struct Clients(Mutex<Vec<(UnixStream, JoinHandle<()>)>>);

impl Clients {
    /// Serves a client on a thread of its own, unless there are too many.
    fn add(&self, stream: UnixStream, service: &Arc<Service>) -> io::Result<()> {
        let mut clients = self.lock();
        clients.retain(|(_, thread)| !thread.is_finished());
        if clients.len() >= MAX_CLIENTS {
            return Err(io::Error::other("Too many clients"));
        }
        let (ours, service) = (stream.try_clone()?, service.clone());
        let thread = thread::Builder::new().name("vm-client".into()).stack_size(STACK);
        let thread = thread.spawn(move || {
            if let Err(error) = converse(&stream, &service) {
                tracing::debug!(%error, "A client of the VM's socket is gone");
            }
            // The copy that is kept to end it would keep it open.
            let _ = stream.shutdown(Shutdown::Both);
        })?;
        clients.push((ours, thread));
        Ok(())
    }

    fn end(&self) {
        let clients = std::mem::take(&mut *self.lock());
        for (stream, thread) in clients {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
            if thread.join().is_err() {
                tracing::error!("A client of the VM's socket met a panic");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(UnixStream, JoinHandle<()>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &UnixListener, clients: &Clients, service: &Arc<Service>) {
    for stream in listener.incoming() {
        let added = match stream {
            Ok(stream) => is_ours(&stream).and_then(|()| clients.add(stream, service)),
            // The listener was shut down.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(error) => Err(error),
        };
        if let Err(error) = added {
            tracing::debug!(%error, "A client of the VM's socket is turned away");
        }
    }
}

/// The folder keeps others out already; this holds even where its permissions were changed.
fn is_ours(stream: &UnixStream) -> io::Result<()> {
    let is_same = socket_peercred(stream)?.uid == geteuid();
    if is_same { Ok(()) } else { Err(io::Error::other("It belongs to another user")) }
}

fn converse(stream: &UnixStream, service: &Service) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream);
    loop {
        let call = match receive::<Call<serde_json::Value>>(&mut lines, MAX_REQUEST) {
            Ok(Some(call)) => call,
            Ok(None) => return Ok(()),
            Err(error) => {
                let message = format!("The request is not understood: {error}");
                send(stream, &Response::Failed { message })?;
                return Err(error);
            }
        };
        send(stream, &answer(call, service))?;
    }
}

fn answer(call: Call<serde_json::Value>, service: &Service) -> Response {
    let failed = |message: String| Response::Failed { message };
    if call.version != VERSION {
        return failed(format!(
            "The VM was started by another version of vmm: it takes requests of version {VERSION}, not {}",
            call.version
        ));
    }
    match serde_json::from_value::<Request>(call.request) {
        Ok(request) => service.answer(request),
        Err(error) => failed(format!("The request is not understood: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::path::Path;

    use devices::fs::Fs;

    use super::*;
    use crate::dirs::Dirs;
    use crate::files::Files;
    use crate::instance::{Claim, connect};
    use crate::remote::{Client, Facts, Status};

    struct Bench {
        server: Option<Server>,
        claim: Claim,
        dirs: Dirs,
        _home: tempfile::TempDir,
        _device: Fs,
    }

    fn bench() -> Bench {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(home.path());
        let claim = Claim::new(&dirs, Path::new("/project")).unwrap();
        let status = Status {
            id: claim.card().id.clone(),
            project: "/project".into(),
            pid: 1,
            started: 2,
            engine: "qemu".into(),
            cpus: 1,
            memory_mib: 512,
            shares: Vec::new(),
            network: None,
        };
        let device = Fs::new(Vec::new()).unwrap();
        let files = Files::new(Vec::new(), device.monitor());
        let service = Service::new(Facts::of(status), files, None, Arc::default());
        let server = Server::start(claim.listen().unwrap(), Arc::new(service)).unwrap();
        Bench { server: Some(server), claim, dirs, _home: home, _device: device }
    }

    fn exchange(bench: &Bench, line: &[u8]) -> String {
        let mut stream = connect(&bench.dirs, &bench.claim.card().id).unwrap();
        // One that is turned away may be gone before it is done asking.
        let _ = stream.write_all(line).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn clients_get_answers_until_the_vm_ends() {
        let mut bench = bench();
        let mut client = Client::connect(&bench.dirs, &bench.claim.card().id).unwrap();
        assert_eq!(client.status().unwrap().engine, "qemu");
        assert_eq!(client.status().unwrap().id, bench.claim.card().id);
        let refusal = client.publish("8080:80".parse().unwrap()).unwrap_err().to_string();
        assert!(refusal.contains("--no-network"), "{refusal}");
        bench.server = None;
        assert!(client.status().is_err());
    }

    #[test]
    fn nonsense_gets_an_error_and_the_next_client_an_answer() {
        let bench = bench();
        for (line, words) in [
            (&b"what\n"[..], "not understood"),
            (b"{\"version\":1,\"request\":\"reboot\"}\n", "reboot"),
            (b"{\"version\":99,\"request\":{\"anything\":1}}\n", "another version"),
            (b"{\"version\":1", "not understood"),
        ] {
            let answer = exchange(&bench, line);
            assert!(answer.contains("failed") && answer.contains(words), "{answer}");
        }
        let good = b"{\"version\":1,\"request\":\"status\"}\n".repeat(2);
        assert_eq!(exchange(&bench, &good).matches("\"engine\":\"qemu\"").count(), 2);
    }

    #[test]
    fn a_crowd_is_turned_away() {
        let bench = bench();
        let silent: Vec<UnixStream> =
            (0..MAX_CLIENTS).map(|_| connect(&bench.dirs, &bench.claim.card().id).unwrap()).collect();
        assert_eq!(exchange(&bench, b"{\"version\":1,\"request\":\"status\"}\n"), "");
        drop(silent);
    }

    #[test]
    fn an_endless_line_ends_the_conversation() {
        let bench = bench();
        let mut stream = connect(&bench.dirs, &bench.claim.card().id).unwrap();
        let piece = [b' '; 64 << 10];
        let sent = (0..MAX_REQUEST).find(|_| stream.write_all(&piece).is_err());
        assert!(sent.is_some_and(|pieces| pieces < 4 * MAX_REQUEST / piece.len()), "{sent:?}");
    }
}
