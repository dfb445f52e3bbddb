//! The monitor's messages, checked and passed on to the device.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio::eventfd_from;
use vmm_sys_util::eventfd::EventFd;

use crate::ring::invalid;
use crate::served::Served;

/// Longest piece of configuration space in one message (vhost-user specification, "Virtio device config space").
const MAX_CONFIG: u32 = 256;

/// One monitor's connection to one device.
#[derive(Debug)]
pub(crate) struct Session(pub(crate) Served);

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.0.reset().map_err(refused)
    }

    fn reset_device(&mut self) -> Result<()> {
        self.0.reset().map_err(refused)
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.0.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.0.set_features(features).map_err(refused)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.0.set_memory(regions, files).map_err(refused)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.0.ring(ring_index(index)?).and_then(|ring| ring.set_size(num)).map_err(refused)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.0.set_addresses(ring_index(index)?, [descriptor, available, used]).map_err(refused)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| refused(invalid("ring position")))?;
        self.0.ring(ring_index(index)?).map_err(refused)?.base = base;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        // The monitor waits for this answer: an error must end the connection, which `InvalidParam` does.
        let base = self.0.take_position(ring_index(index)?).map_err(|_| Error::InvalidParam)?;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        // Without a descriptor the ring would have to be polled all the time (bit 8, "invalid FD flag").
        let kick = eventfd(file).ok_or_else(|| refused(invalid("ring without kick descriptor")))?;
        self.0.set_kick(index.into(), Some(kick)).map_err(refused)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.0.notifier.set_call(index.into(), eventfd(file));
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.0.notifier.set_error(index.into(), eventfd(file));
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        let always = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        Ok(if self.0.has_config() { always | VhostUserProtocolFeatures::CONFIG } else { always })
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        // The `vhost` crate keeps them, and refuses messages that were not negotiated.
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.0.ring_count().into())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.0.set_enabled(ring_index(index)?, enable).map_err(refused)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let size = usize::try_from(size.min(MAX_CONFIG)).map_err(|_| Error::InvalidParam)?;
        let mut data = vec![0; size];
        self.0.config.read(offset.into(), &mut data);
        Ok(data)
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.0.config.write(offset.into(), data);
        Ok(())
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        unsupported()
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unsupported()
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unsupported()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        unsupported()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        unsupported()
    }
}

/// A message the device cannot follow: the monitor is told if it asked for a reply, and the connection goes on.
fn refused(error: io::Error) -> Error {
    Error::ReqHandlerError(error)
}

fn ring_index(index: u32) -> Result<u16> {
    u16::try_from(index).map_err(|_| Error::InvalidParam)
}

fn eventfd(file: Option<File>) -> Option<EventFd> {
    file.map(|file| eventfd_from(OwnedFd::from(file)))
}

/// Protocol features that were not offered; the monitor has no business sending these.
fn unsupported<T>() -> Result<T> {
    Err(refused(io::ErrorKind::Unsupported.into()))
}
