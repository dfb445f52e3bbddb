//! What the agent is told: the plan in the agent's words.

use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_protocol::ProtocolError;
use agent_protocol::bytes::{EntryName, GuestPath, Hostname, Invalid, Serial};
use agent_protocol::setup::{Address, Network as Link, Setup, Share, ShareKind, Upper};
use netstack::Addresses;

use crate::error::Error;
use crate::plan::{Network, Plan};
use crate::user;

/// Serial of the disk with the root image.
pub(crate) const ROOT_DISK: &str = "root";
/// Serial of the disk with everything the guest changes.
pub(crate) const OVERLAY_DISK: &str = "overlay";

/// The agent's instructions for `plan`.
pub(crate) fn setup(plan: &Plan) -> Result<Setup, Error> {
    describe(plan).map_err(|invalid| Error::Protocol(ProtocolError::from(invalid)))
}

/// The same with the clock as it is now: the last thing before they are sent.
pub(crate) fn at_this_moment(mut setup: Setup) -> Setup {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    setup.unix_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    setup
}

fn describe(plan: &Plan) -> Result<Setup, Invalid> {
    let upper = Upper::Disk(Serial::new(OVERLAY_DISK)?);
    let mut setup = Setup::new(Hostname::new(plan.hostname())?, 0, Serial::new(ROOT_DISK)?, upper);
    for (index, mount) in plan.shares().enumerate() {
        setup.shares.push(Share {
            entry: EntryName::new(index.to_string())?,
            path: GuestPath::new(mount.guest.as_os_str().as_bytes())?,
            kind: if mount.host.is_dir() { ShareKind::Directory } else { ShareKind::File },
            read_only: mount.is_read_only,
        });
    }
    setup.owner = user::parse(plan.user.clone())?;
    if let Network::Policy(_) = plan.network {
        setup.network = Some(link(&Addresses::default()));
    }
    Ok(setup)
}

fn link(on_link: &Addresses) -> Link {
    Link {
        mac: Some(on_link.guest_mac),
        mtu: 65_520,
        ipv4: Some(Address { address: on_link.guest_v4, prefix: on_link.prefix_v4, gateway: Some(on_link.gateway_v4) }),
        ipv6: Some(Address { address: on_link.guest_v6, prefix: on_link.prefix_v6, gateway: Some(on_link.gateway_v6) }),
        dns: vec![on_link.gateway_v4.into()],
        search: Vec::new(),
        hosts: Vec::new(),
    }
}
