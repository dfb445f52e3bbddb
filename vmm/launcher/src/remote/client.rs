//! The other end of a VM's socket.

use std::io::{self, BufReader};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use netstack::Transport;

use super::line::{receive, send};
use super::message::{Call, MAX_RESPONSE, Request, Response, Status, VERSION};
use crate::dirs::Dirs;
use crate::error::Error;
use crate::instance::{VmId, connect};
use crate::ports::PortSpec;

/// How long a VM may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A conversation with a running VM.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to a VM that [`crate::running`] named.
    pub fn connect(dirs: &Dirs, id: &VmId) -> Result<Self, Error> {
        let stream = connect(dirs, id)?;
        let timeouts = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        timeouts.map_err(|source| Error::host("Preparing the conversation with the VM", source))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks once.
    pub fn ask(&mut self, request: Request) -> Result<Response, Error> {
        let lost = |source: io::Error| Error::host("Talking to the VM", source);
        send(self.stream.get_ref(), &Call { version: VERSION, request }).map_err(lost)?;
        match receive(&mut self.stream, MAX_RESPONSE).map_err(lost)? {
            Some(Response::Failed { message }) => Err(Error::Refused { message }),
            Some(response) => Ok(response),
            None => Err(lost(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    /// Everything there is to know about the VM.
    pub fn status(&mut self) -> Result<Status, Error> {
        match self.ask(Request::Status)? {
            Response::Status(status) => Ok(*status),
            _ => Err(out_of_turn()),
        }
    }

    /// Publishes a port; gives it with the host port that is bound.
    pub fn publish(&mut self, port: PortSpec) -> Result<PortSpec, Error> {
        match self.ask(Request::Publish { port })? {
            Response::Published { port } => Ok(port),
            _ => Err(out_of_turn()),
        }
    }

    /// Frees a published port. `address` is the one it was published at, if that matters.
    pub fn unpublish(&mut self, address: Option<IpAddr>, port: u16, transport: Transport) -> Result<(), Error> {
        self.ask(Request::Unpublish { address, port, udp: transport == Transport::Udp }).map(drop)
    }

    /// Replaces the policy. When this returns it is in force, and flows that it does not allow are cut.
    pub fn set_policy(&mut self, policy: policy::Table) -> Result<(), Error> {
        self.ask(Request::SetPolicy { policy }).map(drop)
    }
}

fn out_of_turn() -> Error {
    Error::host("Talking to the VM", io::Error::other("it answered something else"))
}
