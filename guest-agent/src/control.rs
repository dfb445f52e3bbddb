//! PID 1: boots the guest with the host on the control connection, then obeys it until the end.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use agent_protocol::bytes::Text;
use agent_protocol::control::{ToGuest, ToHost};
use agent_protocol::setup::Setup;
use agent_protocol::{CONTROL_PORT, EXEC_PORT, FrameReader, ProtocolError, encode};

use crate::boot::{self, Boot};
use crate::exec::reaper::Reaper;
use crate::exec::{Context, serve};
use crate::failure::{During, Failure};
use crate::{log, shutdown, vsock};

/// What processes get when the host goes away without a word.
const DEFAULT_GRACE: Duration = Duration::from_secs(2);
/// Stack of a session's thread: a poll loop and no recursion.
const SESSION_STACK: usize = 128 << 10;

/// Runs the guest. Returns only when it could not even be turned off, which ends PID 1 and so the guest.
pub fn run() -> ExitCode {
    let mut boot = Boot::default();
    boot.mark("agent started");
    let ended = boot::kernel_filesystems().and_then(|()| {
        log::report_panics();
        talk(&mut boot)
    });
    if let Err(failure) = ended {
        log::emergency(&failure.to_string());
    }
    shutdown::power_off();
    ExitCode::FAILURE
}

/// The whole conversation with the host.
fn talk(boot: &mut Boot) -> Result<(), Failure> {
    let mut host = Host::connect()?;
    boot.mark("control connected");
    host.send(&ToHost::Hello { marks: std::mem::take(&mut boot.marks) })?;
    let setup = match host.receive() {
        Ok(Some(ToGuest::Setup(setup))) => setup,
        Ok(_) => return Err(Failure::new("The host sent no setup", "it said something else")),
        Err(error) => {
            // The reason is of use to a host of another version, if it listens still.
            let _ = host.send(&ToHost::Failed { message: Text::new(error.to_string()) });
            return Err(Failure::new("Cannot read the host's setup", error));
        }
    };
    let reaper = match begin(&setup, boot) {
        Ok(reaper) => reaper,
        Err(failure) => {
            host.send(&ToHost::Failed { message: Text::new(failure.to_string()) })?;
            // The host ends the guest, or hangs up.
            while let Ok(Some(_)) = host.receive() {}
            return Err(failure);
        }
    };
    boot.mark("ready");
    let (marks, warnings) = (std::mem::take(&mut boot.marks), std::mem::take(&mut boot.warnings));
    host.send(&ToHost::Ready { marks, warnings })?;
    let grace = obey(&mut host);
    shutdown::stop(grace, Some(&*reaper), boot.upper.as_ref());
    // A host that is gone does not want to know.
    let _ = host.send(&ToHost::Stopped);
    Ok(())
}

/// Sets the guest up and begins to take commands.
fn begin(setup: &Setup, boot: &mut Boot) -> Result<Arc<Reaper>, Failure> {
    boot.set_up(setup)?;
    let reaper = Reaper::start().during(|| "Cannot start the reaper".into())?;
    let listener = vsock::listen_on(EXEC_PORT).during(|| "Cannot listen for commands".into())?;
    let context = Context {
        helper: PathBuf::from("/proc/self/exe"),
        reaper: reaper.clone(),
        environment: setup.environment.clone(),
    };
    let accepting = thread::Builder::new().name("accept".into()).stack_size(SESSION_STACK);
    accepting.spawn(move || accept(&listener, &Arc::new(context))).during(|| "Cannot start to accept".into())?;
    Ok(reaper)
}

/// Takes commands for ever, each on a thread of its own.
fn accept(listener: &OwnedFd, context: &Arc<Context>) {
    loop {
        let session = vsock::accept(listener).and_then(|stream| {
            let context = context.clone();
            let thread = thread::Builder::new().name("session".into()).stack_size(SESSION_STACK);
            thread.spawn(move || session(stream, &context))
        });
        if let Err(error) = session {
            log::warn(&format!("a command is not taken: {error}"));
        }
    }
}

fn session(stream: OwnedFd, context: &Context) {
    match serve(stream, context) {
        Ok(()) | Err(ProtocolError::Io(_) | ProtocolError::Closed) => {}
        Err(error) => log::warn(&format!("a session ended: {error}")),
    }
}

/// Does what the host says until it says to stop, or is gone; how long processes get then.
fn obey(host: &mut Host) -> Duration {
    loop {
        match host.receive() {
            Ok(Some(ToGuest::SetClock { unix_ns })) => {
                if let Err(failure) = boot::set_clock(unix_ns) {
                    log::warn(&failure.to_string());
                }
            }
            Ok(Some(ToGuest::Ping { nonce })) => {
                // A host that is gone shows in the next receive.
                let _ = host.send(&ToHost::Pong { nonce });
            }
            Ok(Some(ToGuest::Shutdown { grace })) => return grace,
            Ok(Some(ToGuest::Setup(_))) => log::warn("the host set the guest up twice"),
            Ok(None) => return DEFAULT_GRACE,
            Err(error) => {
                log::warn(&format!("the control connection failed: {error}"));
                return DEFAULT_GRACE;
            }
        }
    }
}

/// The control connection.
struct Host {
    stream: File,
    frames: FrameReader<ToGuest>,
}

impl Host {
    fn connect() -> Result<Self, Failure> {
        let stream = vsock::connect_to_host(CONTROL_PORT).during(|| "Cannot connect to the host".into())?;
        Ok(Self { stream: stream.into(), frames: FrameReader::new() })
    }

    fn receive(&mut self) -> Result<Option<ToGuest>, ProtocolError> {
        self.frames.receive(&self.stream)
    }

    fn send(&mut self, message: &ToHost) -> Result<(), Failure> {
        let frame = encode(message).map_err(io::Error::other);
        frame.and_then(|frame| self.stream.write_all(&frame)).during(|| "Cannot talk to the host".into())
    }
}
