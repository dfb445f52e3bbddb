//! From a plan to a guest that takes commands.

use std::sync::Arc;
use std::time::Duration;

use agent_protocol::CONTROL_PORT;
use agent_protocol::control::{ToGuest, ToHost};
use agent_protocol::notice::NOTICE_PORT;
use agent_protocol::setup::Setup;
use devices::fs::{Notifier, Owner, OwnerSeen};
use devices::vsock::VsockHost;
use netstack::Discard;
use vmm::Timeline;

use crate::attention::Attention;
use crate::control::Control;
use crate::dirs::Dirs;
use crate::egress::Log;
use crate::error::Error;
use crate::guest::Guest;
use crate::instance::{Claim, prune};
use crate::machine::Parts;
use crate::plan::Plan;
use crate::printable::printable;
use crate::remote::{Facts, Server, Service};
use crate::session::{CONNECT_PATIENCE, Network, Session};
use crate::setup;

/// How long a guest may take until its agent is ready; a loaded machine without KVM needs many seconds.
const BOOT_PATIENCE: Duration = Duration::from_secs(120);

impl Plan {
    /// Checks everything that can be checked without starting anything.
    pub fn check(&self, dirs: &Dirs) -> Result<(), Error> {
        Parts::assemble(self, dirs, Box::new(Discard))?.builder.engine(self.engine).build()?;
        Ok(())
    }

    /// Boots the VM and brings its agent up. A signal that `attention` receives meanwhile ends both.
    pub fn start(&self, dirs: &Dirs, timeline: &Timeline, attention: &Attention) -> Result<Session, Error> {
        let claim = Claim::new(dirs, &self.project.host)?;
        let (log, audit) = Log::start(claim.state(), &claim.card().id)
            .map_err(|source| Error::host("Starting the egress log", source))?;
        let Parts { builder, vsock, notifier, owner, files, network, setup } = Parts::assemble(self, dirs, audit)?;
        let listener =
            vsock.listen(CONTROL_PORT).map_err(|source| Error::host("Listening for the guest agent", source))?;
        let vm = builder.engine(self.engine).timeline(timeline.clone()).build()?;
        let facts = Facts::new(claim.card(), self, vm.engine());
        let running = vm.boot()?;
        // The guest is busy with itself now, and we are not.
        if let Err(error) = prune(dirs) {
            tracing::warn!(%error, "Logs of finished VMs stay");
        }
        let vm = running.handle();
        attention.guard_vm(vm.clone());
        let (agent, mailbox) = match &network {
            Some(network) => (network.agent.clone(), network.mailbox.clone()),
            None => Default::default(),
        };
        let control = Control::new(running, listener, agent, mailbox.clone())
            .map_err(|source| Error::host("Starting a thread", source))?;
        let mut guest = Guest::new(vm, control, attention.clone());
        if bring_up(&mut guest, setup, &owner, timeline)? {
            tell_of_changes(&vsock, &notifier);
        }
        let board = network.map(|network| network.board);
        if let Some(board) = &board {
            board.begin();
        }
        let service = Service::new(facts, files.clone(), board.clone(), log.lost());
        let server = claim.listen().and_then(|socket| Server::start(socket, Arc::new(service)));
        let server = server.map_err(|source| Error::host("Opening the VM's socket", source))?;
        let network = board.map(|board| Network { board, mailbox });
        Ok(Session {
            _server: server,
            mirror: None,
            guest,
            vsock,
            attention: attention.clone(),
            timeline: timeline.clone(),
            files,
            network,
            log,
            claim,
        })
    }
}

/// Boots the guest's user space; whether its kernel takes notices of changed files.
fn bring_up(guest: &mut Guest, setup: Setup, owner: &OwnerSeen, timeline: &Timeline) -> Result<bool, Error> {
    let unexpected = |message: &ToHost| Error::Guest {
        reason: format!("its agent spoke out of turn ({message:?})"),
        console: String::new(),
    };
    match guest.hear(BOOT_PATIENCE)? {
        ToHost::Hello { .. } => timeline.mark("agent up"),
        other => return Err(unexpected(&other)),
    }
    guest.say(&ToGuest::Setup(Box::new(setup::at_this_moment(setup))))?;
    let mut message = guest.hear(BOOT_PATIENCE)?;
    if let ToHost::Owner { uid, gid } = message {
        owner.set(Owner { uid, gid });
        guest.say(&ToGuest::Owned)?;
        message = guest.hear(BOOT_PATIENCE)?;
    }
    match message {
        ToHost::Ready { warnings, takes_notices, .. } => {
            timeline.mark("root mounted");
            for warning in warnings {
                tracing::warn!(warning = warning.as_str(), "The guest came up incompletely");
            }
            Ok(takes_notices)
        }
        ToHost::Failed { message } => {
            Err(Error::Guest { reason: printable(message.as_str()), console: guest.last_words() })
        }
        other => Err(unexpected(&other)),
    }
}

/// Has the guest told of what others change in its shares. Without that it asks again all the time.
fn tell_of_changes(vsock: &VsockHost, notifier: &Notifier) {
    let stream = vsock.connect(NOTICE_PORT, CONNECT_PATIENCE);
    if let Err(error) = stream.and_then(|stream| notifier.connect(stream)) {
        tracing::warn!(%error, "The guest is not told of changes on the host: it sees them late, and files are slower");
    }
}
