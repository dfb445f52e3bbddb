//! PID 1: boots the guest with the host on the control connection, then obeys it until the end.

use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use agent_protocol::bytes::Text;
use agent_protocol::control::{ToGuest, ToHost};
use agent_protocol::exec::User;
use agent_protocol::setup::{Network, Setup};
use agent_protocol::{CONTROL_PORT, EXEC_PORT, FrameReader, ProtocolError, encode};

use crate::boot::{self, Boot};
use crate::exec::reaper::Reaper;
use crate::exec::{self, Context, monotonic_ns, serve};
use crate::failure::{During, Failure};
use crate::ports::relay::Relays;
use crate::ports::watch;
use crate::{accept, log, notice, shutdown, vsock};

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
    let (host, mut words) = Host::connect()?;
    boot.mark("control connected");
    let asked = monotonic_ns();
    host.send(&ToHost::Hello { marks: std::mem::take(&mut boot.marks) })?;
    let setup = match words.receive() {
        Ok(Some(ToGuest::Setup(mut setup))) => {
            setup.unix_ns = on_arrival(setup.unix_ns, monotonic_ns().saturating_sub(asked));
            setup
        }
        Ok(_) => return Err(Failure::new("The host sent no setup", "it said something else")),
        Err(error) => {
            // The reason is of use to a host of another version, if it listens still.
            let _ = host.send(&ToHost::Failed { message: Text::new(error.to_string()) });
            return Err(Failure::new("Cannot read the host's setup", error));
        }
    };
    let reaper = match begin(&setup, boot, || settle_owner(&setup.owner, &host, &mut words)) {
        Ok(reaper) => reaper,
        Err(failure) => {
            host.send(&ToHost::Failed { message: Text::new(failure.to_string()) })?;
            // The host ends the guest, or hangs up.
            while let Ok(Some(_)) = words.receive() {}
            return Err(failure);
        }
    };
    boot.mark("ready");
    let (marks, warnings) = (std::mem::take(&mut boot.marks), std::mem::take(&mut boot.warnings));
    host.send(&ToHost::Ready { marks, warnings, takes_notices: boot.takes_notices })?;
    let grace = obey(&host, &mut words, setup.network.as_ref());
    shutdown::stop(grace, Some(&*reaper), boot.upper.as_ref());
    // A host that is gone does not want to know.
    let _ = host.send(&ToHost::Stopped);
    Ok(())
}

/// The time that it is when an answer arrives that was given at `unix_ns`, a question and `round_trip` later: as busy
/// as the machine may be, it is about as busy on either way.
fn on_arrival(unix_ns: u64, round_trip: u64) -> u64 {
    unix_ns.saturating_add(round_trip / 2)
}

/// Sets the guest up and begins to take commands.
fn begin(
    setup: &Setup,
    boot: &mut Boot,
    prepare_shares: impl FnOnce() -> Result<(), Failure>,
) -> Result<Arc<Reaper>, Failure> {
    boot.set_up(setup, prepare_shares)?;
    let notices = notice::start();
    boot.takes_notices = matches!(notices, Ok(true));
    boot.tolerate(notices);
    let reaper = Reaper::start().during(|| "Cannot start the reaper".into())?;
    let listener = vsock::listen_on(EXEC_PORT).during(|| "Cannot listen for commands".into())?;
    let context = Context {
        helper: PathBuf::from("/proc/self/exe"),
        reaper: reaper.clone(),
        environment: setup.environment.clone(),
    };
    let accepting = thread::Builder::new().name("accept".into()).stack_size(SESSION_STACK);
    accepting.spawn(move || take_commands(&listener, &Arc::new(context))).during(|| "Cannot start to accept".into())?;
    Ok(reaper)
}

/// Has the host show the shares' files as `owner`'s. The kernel has to see them as such from the first time on.
fn settle_owner(owner: &User, host: &Host, words: &mut Words) -> Result<(), Failure> {
    // Root is whose they are. A name that nobody has is refused with the command it is given for.
    let Some((uid, gid)) = exec::ids(owner).filter(|_| *owner != User::Root) else { return Ok(()) };
    host.send(&ToHost::Owner { uid, gid })?;
    match words.receive() {
        Ok(Some(ToGuest::Owned)) => Ok(()),
        Ok(_) => Err(Failure::new("The host did not settle whose the shares are", "it said something else")),
        Err(error) => Err(Failure::new("The host did not settle whose the shares are", error)),
    }
}

/// Takes commands for ever, each on a thread of its own.
fn take_commands(listener: &OwnedFd, context: &Arc<Context>) {
    while let Some(stream) = accept::next("a command", || vsock::accept(listener)) {
        let context = context.clone();
        let thread = thread::Builder::new().name("session".into()).stack_size(SESSION_STACK);
        if let Err(error) = thread.spawn(move || session(stream, &context)) {
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
fn obey(host: &Host, words: &mut Words, network: Option<&Network>) -> Duration {
    let mut relays =
        network.and_then(|network| network.ipv4).and_then(|link| Some(Relays::new(link.address, link.gateway?)));
    loop {
        match words.receive() {
            Ok(Some(ToGuest::SetClock { unix_ns })) => {
                if let Err(failure) = boot::set_clock(unix_ns) {
                    log::warn(&failure.to_string());
                }
            }
            Ok(Some(ToGuest::Ping { nonce })) => answer(host, &ToHost::Pong { nonce }),
            Ok(Some(ToGuest::Relay { ports })) => {
                let relays = relays.as_mut().map(|relays| relays.set(&ports)).unwrap_or_default();
                answer(host, &ToHost::Relays { relays });
            }
            Ok(Some(ToGuest::Watch)) => {
                let own = relays.as_ref().map(Relays::own).unwrap_or_default();
                if let Err(error) = watch::start(host.clone(), on_link(network), own) {
                    log::warn(&format!("listening ports are not reported: {error}"));
                }
            }
            Ok(Some(ToGuest::Shutdown { grace })) => return grace,
            Ok(Some(ToGuest::Setup(_) | ToGuest::Owned)) => log::warn("the host set the guest up twice"),
            Ok(None) => return DEFAULT_GRACE,
            Err(error) => {
                log::warn(&format!("the control connection failed: {error}"));
                return DEFAULT_GRACE;
            }
        }
    }
}

/// A host that is gone shows in the next receive.
fn answer(host: &Host, message: &ToHost) {
    if let Err(failure) = host.send(message) {
        log::warn(&failure.to_string());
    }
}

/// The guest's own addresses.
fn on_link(network: Option<&Network>) -> Vec<IpAddr> {
    let Some(network) = network else { return Vec::new() };
    let addresses = [network.ipv4.map(|link| link.address.into()), network.ipv6.map(|link| link.address.into())];
    addresses.into_iter().flatten().collect()
}

/// The way to the host; clones share the connection, and their messages do not mix.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    stream: Arc<Mutex<File>>,
}

/// What comes from the host.
struct Words {
    stream: File,
    frames: FrameReader<ToGuest>,
}

impl Host {
    fn connect() -> Result<(Self, Words), Failure> {
        let connect = || -> io::Result<(File, File)> {
            let stream = File::from(vsock::connect_to_host(CONTROL_PORT)?);
            Ok((stream.try_clone()?, stream))
        };
        let (ours, stream) = connect().during(|| "Cannot connect to the host".into())?;
        Ok((Self { stream: Arc::new(Mutex::new(ours)) }, Words { stream, frames: FrameReader::new() }))
    }

    /// Says something.
    pub(crate) fn send(&self, message: &ToHost) -> Result<(), Failure> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = encode(message).map_err(io::Error::other);
        frame.and_then(|frame| stream.write_all(&frame)).during(|| "Cannot talk to the host".into())
    }
}

impl Words {
    fn receive(&mut self) -> Result<Option<ToGuest>, ProtocolError> {
        self.frames.receive(&self.stream)
    }
}
