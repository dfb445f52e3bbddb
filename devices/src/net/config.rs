//! What the guest reads about its network card.

use std::sync::atomic::{AtomicU16, Ordering};

use virtio::ConfigSpace;
use virtio_bindings::virtio_net::VIRTIO_NET_S_LINK_UP;

/// Address and packet size of the guest's network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetConfig {
    /// MAC address of the guest's end.
    pub mac: [u8; 6],
    /// Longest IP packet on the link.
    pub mtu: u16,
}

impl Default for NetConfig {
    /// The address and size the network stack uses by default.
    fn default() -> Self {
        Self { mac: [0x02, 0x76, 0x6d, 0x6d, 0x00, 0x02], mtu: 65_520 }
    }
}

/// `struct virtio_net_config` (virtio 1.2, 5.1.4), as far as our features go.
#[derive(Debug)]
pub(super) struct Space {
    config: NetConfig,
    status: AtomicU16,
}

impl Space {
    pub(super) fn new(config: NetConfig) -> Self {
        Self { config, status: AtomicU16::new(link_up()) }
    }

    /// Tells the guest that nobody is at the other end any more. True the first time.
    pub(super) fn take_down(&self) -> bool {
        self.status.swap(0, Ordering::AcqRel) != 0
    }

    fn bytes(&self) -> [u8; 12] {
        let [m0, m1, m2, m3, m4, m5] = self.config.mac;
        let [s0, s1] = self.status.load(Ordering::Acquire).to_le_bytes();
        let [pairs0, pairs1] = 1u16.to_le_bytes();
        let [mtu0, mtu1] = self.config.mtu.to_le_bytes();
        [m0, m1, m2, m3, m4, m5, s0, s1, pairs0, pairs1, mtu0, mtu1]
    }
}

impl ConfigSpace for Space {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let bytes = self.bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let rest = bytes.iter().skip(start).copied().chain(std::iter::repeat(0));
        data.iter_mut().zip(rest).for_each(|(to, from)| *to = from);
    }
}

fn link_up() -> u16 {
    u16::try_from(VIRTIO_NET_S_LINK_UP).unwrap_or(1)
}
