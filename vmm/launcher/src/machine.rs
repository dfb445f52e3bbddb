//! The VM's parts: disks, shares, network, and the agent's view of them, made together so that they agree.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use agent_protocol::setup::Setup;
use devices::balloon::Balloon;
use devices::blk::{Access as DiskAccess, Blk, Disk};
use devices::fs::{Access, Fs, Notifier, OwnerSeen, Share};
use devices::net::{Net, NetConfig as CardConfig};
use devices::rng::Rng;
use devices::vsock::{Vsock, VsockHost};
use netstack::{AuditSink, NetConfig, Netstack};
use virtio::frame::FrameLink;
use vmm::{Kernel, Vm, VmBuilder, VmConfig};

use crate::assets;
use crate::control::Agent;
use crate::dirs::Dirs;
use crate::error::Error;
use crate::files::Files;
use crate::image::Image;
use crate::plan::{Network as Link, Plan};
use crate::ports::{Board, Mailbox};
use crate::setup::{self, OVERLAY_DISK, ROOT_DISK};

/// The guest's address on its vsock; no other VM shares the link.
const GUEST_CID: u64 = 3;

/// Everything a start needs, not started. What is dropped leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) builder: VmBuilder,
    pub(crate) vsock: VsockHost,
    pub(crate) notifier: Notifier,
    pub(crate) owner: OwnerSeen,
    pub(crate) files: Files,
    pub(crate) network: Option<Network>,
    pub(crate) setup: Setup,
}

impl Parts {
    /// Opens what `plan` names. What the network stack decides is told to `audit`.
    pub(crate) fn assemble(plan: &Plan, dirs: &Dirs, audit: Box<dyn AuditSink>) -> Result<Self, Error> {
        let image = Image::open(plan.image.as_deref(), dirs)?;
        let overlay = image.scratch_disk(plan.disk, dirs.state()?)?;
        let (vsock, vsock_host) =
            Vsock::new(GUEST_CID).map_err(|source| Error::host("Creating the vsock device", source))?;
        // Nobody sets a target yet: the balloon is there for the free pages that the guest reports.
        let (balloon, _) = Balloon::new().map_err(|source| Error::host("Creating the balloon", source))?;
        let server = shares(plan)?;
        let (notifier, owner) = (server.notifier(), server.owner_seen());
        let files = Files::new(plan.shares().cloned().collect(), server.monitor());
        let mut builder = Vm::builder(config(plan, dirs)?)
            .device(Rng::new())
            .device(balloon)
            .device(disk(ROOT_DISK, image.into_root(), DiskAccess::ReadOnly)?)
            .device(disk(OVERLAY_DISK, overlay, DiskAccess::ReadWrite)?)
            .device(server)
            .device(vsock);
        let mut network = None;
        if let Link::Policy(policy) = &plan.network {
            let net = NetConfig { proxy: plan.proxy.clone(), audit, ..NetConfig::new(policy.clone()) };
            let (card, gateway) = connect(net).map_err(|source| Error::host("Starting the network", source))?;
            builder = builder.device(card);
            network = Some(Network::new(gateway, plan)?);
        }
        let setup = setup::setup(plan)?;
        Ok(Self { builder, vsock: vsock_host, notifier, owner, files, network, setup })
    }
}

/// The network stack, with the plan's ports bound, and the ways to the agent that it needs.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) board: Arc<Board>,
    pub(crate) agent: Agent,
    pub(crate) mailbox: Arc<Mailbox>,
}

impl Network {
    fn new(gateway: netstack::Handle, plan: &Plan) -> Result<Self, Error> {
        let (agent, mailbox) = (Agent::default(), Arc::new(Mailbox::default()));
        let board = Board::new(gateway, agent.clone(), mailbox.clone());
        for port in &plan.publish {
            board.publish(*port).map_err(|source| Error::Publish { port: port.to_string(), source })?;
        }
        Ok(Self { board: Arc::new(board), agent, mailbox })
    }
}

fn config(plan: &Plan, dirs: &Dirs) -> Result<VmConfig, Error> {
    let kernel = match &plan.kernel {
        Some(path) => Kernel::open(path)?,
        None => assets::kernel(dirs)?,
    };
    let mut config = VmConfig::new(kernel);
    config.cpus = plan.cpus;
    config.memory = plan.memory;
    config.initramfs = Some(assets::initramfs(dirs)?);
    if plan.shows_console {
        let copy = std::io::stderr().as_fd().try_clone_to_owned();
        config.serial = Some(File::from(copy.map_err(|source| Error::host("Copying standard error", source))?));
    }
    Ok(config)
}

fn disk(label: &str, file: File, access: DiskAccess) -> Result<Blk, Error> {
    let disk =
        Disk::new(file, access).map_err(|source| Error::host("Opening a disk", std::io::Error::other(source)))?;
    Ok(Blk::new(disk, label))
}

fn shares(plan: &Plan) -> Result<Fs, Error> {
    let open = |mount: &crate::project::Mount| {
        let access = if mount.is_read_only { Access::ReadOnly } else { Access::ReadWrite };
        let mut share = Share::open(&mount.host, access).map_err(|source| Error::path("share", &mount.host, source))?;
        share.guarded = plan.guards.of_share(&mount.host);
        Ok::<_, Error>(share)
    };
    let shares = plan.shares().map(open).collect::<Result<Vec<_>, _>>()?;
    Fs::new(shares).map_err(|source| Error::host("Creating the file server", source))
}

fn connect(net: NetConfig) -> std::io::Result<(Net, netstack::Handle)> {
    let card = CardConfig { mac: net.addresses.guest_mac, mtu: net.mtu };
    let FrameLink { device, stack } = FrameLink::new()?;
    Ok((Net::new(device, card), Netstack::start(stack, net)?))
}
