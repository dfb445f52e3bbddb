//! From our devices to QEMU's: each becomes a front end there, and most keep their code here.

use std::io;
use std::sync::Arc;

use devices::console::Console;
use devices::net::Net;
use rustix::net::{SocketType, sockopt};
use vhost_user_server::Server;
use virtio::{Fault, Supervisor, ThreadKind, VirtioDevice};
use virtio_bindings::virtio_ids::{VIRTIO_ID_BLOCK, VIRTIO_ID_FS, VIRTIO_ID_RNG, VIRTIO_ID_VSOCK};

use super::launch::{Launch, escape};
use super::stop::{Cause, Stop};
use crate::sandbox::Profile;
use crate::{Device, Error};

/// The board has 24 virtio slots.
const MAX_DEVICES: usize = 24;
/// Gives back what the guest frees, and gives up what it holds when the guest runs short.
const BALLOON: &str = "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on";
/// `struct virtio_fs_config` (virtio 1.2, 5.11.4) begins with the tag, padded with zeros.
const FS_TAG_LEN: usize = 36;

/// Adds every device to the board; gives back the servers of those that stay with us.
pub(super) fn attach_all(launch: &mut Launch, devices: Vec<Device>, stop: &Arc<Stop>) -> Result<Vec<Server>, Error> {
    if devices.len() > MAX_DEVICES {
        let reason = format!("{} are more than the {MAX_DEVICES} the qemu engine's board has room for", devices.len());
        return Err(Error::Config { field: "devices", reason });
    }
    let mut servers = Vec::new();
    for (index, device) in devices.into_iter().enumerate() {
        match device {
            Device::Virtio(device) => servers.push(attach_virtio(launch, index, device, stop)?),
            Device::Net(net) => servers.push(attach_net(launch, *net, stop)?),
            Device::Console(console) => attach_console(launch, *console)?,
            // Its code stays unused: QEMU 7.2 has no vhost-user front end for it.
            Device::Balloon(_) => launch.option("-device", BALLOON),
        }
    }
    Ok(servers)
}

fn attach_virtio(
    launch: &mut Launch,
    index: usize,
    device: Box<dyn VirtioDevice>,
    stop: &Arc<Stop>,
) -> Result<Server, Error> {
    let properties = properties(&*device)?;
    let profile = Profile::of(&*device).map_err(|source| Error::Host { doing: "Confining a device", source })?;
    let watcher = Arc::new(Watcher { label: device.info().label.clone(), stop: stop.clone(), profile });
    let (server, socket) =
        Server::start(device, watcher).map_err(|source| Error::Host { doing: "Starting a device", source })?;
    let id = format!("device{index}");
    launch.connect(&id, socket);
    launch.option("-device", &format!("{properties},chardev={id}"));
    Ok(server)
}

/// Hears when a device fails. A guest that breaks the protocol loses the device; a host that fails ends the VM, before
/// the guest works on with a device that will never answer.
#[derive(Debug)]
struct Watcher {
    label: String,
    stop: Arc<Stop>,
    /// What the worker is left with.
    profile: Profile,
}

impl Supervisor for Watcher {
    fn confine(&self, thread: ThreadKind) -> io::Result<()> {
        self.profile.confine(thread)
    }

    fn faulted(&self, fault: &Fault) {
        if let Fault::Host(error) = fault {
            self.stop.request(Cause::Failure(format!("the device {:?} failed: {error}", self.label)));
        }
    }
}

/// QEMU's name for the front end of a device, with what it must know before it can ask us.
fn properties(device: &dyn VirtioDevice) -> Result<String, Error> {
    let info = device.info();
    let queue_size = info.queue_sizes.first().copied().unwrap_or(0);
    match info.kind {
        VIRTIO_ID_RNG => Ok("vhost-user-rng".into()),
        VIRTIO_ID_BLOCK => Ok(format!("vhost-user-blk,num-queues={},queue-size={queue_size}", info.queue_sizes.len())),
        VIRTIO_ID_FS => {
            let requests = info.queue_sizes.len().saturating_sub(1);
            let tag = escape(&fs_tag(device));
            Ok(format!("vhost-user-fs-device,num-request-queues={requests},queue-size={queue_size},tag={tag}"))
        }
        VIRTIO_ID_VSOCK => Ok("vhost-user-vsock-device".into()),
        kind => {
            let reason = format!("QEMU has no front end for {:?}, a virtio device of kind {kind}", info.label);
            Err(Error::Engine { engine: "qemu", reason })
        }
    }
}

fn fs_tag(device: &dyn VirtioDevice) -> String {
    let mut tag = [0; FS_TAG_LEN];
    device.config().read(0, &mut tag);
    let end = tag.iter().position(|byte| *byte == 0).unwrap_or(FS_TAG_LEN);
    String::from_utf8_lossy(tag.get(..end).unwrap_or_default()).into_owned()
}

/// The card's code stays with us, too. QEMU's network front end takes only a socket that it connected itself.
fn attach_net(launch: &mut Launch, net: Net, stop: &Arc<Stop>) -> Result<Server, Error> {
    let config = net.net_config();
    let mac = config.mac.map(|byte| format!("{byte:02x}")).join(":");
    let profile = Profile::Free;
    let watcher = Arc::new(Watcher { label: net.info().label.clone(), stop: stop.clone(), profile });
    let (server, name) = Server::start_listening(Box::new(net), watcher)
        .map_err(|source| Error::Host { doing: "Starting the network card", source })?;
    launch.option("-chardev", &format!("socket,id=card,path={name},abstract=on,tight=on"));
    launch.option("-netdev", "vhost-user,id=net,chardev=card");
    // Offloads stay as negotiated: QEMU would not tell us of a change.
    let properties = format!("mac={mac},host_mtu={},ctrl_guest_offloads=off", config.mtu);
    launch.option("-device", &format!("virtio-net-device,netdev=net,rx_queue_size=1024,{properties}"));
    Ok(server)
}

/// QEMU's own console: QEMU 7.2 has no vhost-user front end for it.
fn attach_console(launch: &mut Launch, console: Console) -> Result<(), Error> {
    let host = console.into_host();
    if !sockopt::socket_type(&host).is_ok_and(|kind| kind == SocketType::STREAM) {
        let reason = "its console needs a stream socket on the host's side".to_owned();
        return Err(Error::Engine { engine: "qemu", reason });
    }
    launch.option("-device", "virtio-serial-device,max_ports=1");
    launch.connect("console", host);
    launch.option("-device", "virtconsole,chardev=console");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use devices::net::NetConfig;
    use devices::rng::Rng;
    use virtio::frame::FrameLink;
    use virtio::{ConfigSpace, DeviceInfo, Ram, Rings, Watch};

    use super::*;
    use crate::{Kernel, VmConfig};

    /// A device that is only looked at.
    #[derive(Debug)]
    struct Described {
        info: DeviceInfo,
        config: &'static [u8],
    }

    #[derive(Debug)]
    struct Bytes(&'static [u8]);

    impl ConfigSpace for Bytes {
        fn read(&self, _offset: u64, data: &mut [u8]) {
            data.iter_mut().zip(self.0).for_each(|(to, from)| *to = *from);
        }
    }

    impl VirtioDevice for Described {
        fn info(&self) -> &DeviceInfo {
            &self.info
        }
        fn config(&self) -> Arc<dyn ConfigSpace> {
            Arc::new(Bytes(self.config))
        }
        fn start(&mut self, _: u64, _: &Ram, _: &mut dyn Watch) -> Result<(), Fault> {
            Ok(())
        }
        fn on_queue(&mut self, _: u16, _: &mut dyn Rings, _: &mut dyn Watch) -> Result<(), Fault> {
            Ok(())
        }
        fn on_event(&mut self, _: u16, _: &mut dyn Rings, _: &mut dyn Watch) -> Result<(), Fault> {
            Ok(())
        }
        fn reset(&mut self, _: &mut dyn Watch) {}
    }

    fn described(kind: u32, queue_sizes: &[u16], config: &'static [u8]) -> Device {
        let info = DeviceInfo { kind, label: "it".into(), queue_sizes: queue_sizes.into(), features: 0 };
        Device::Virtio(Box::new(Described { info, config }))
    }

    fn attach(devices: Vec<Device>) -> Result<(String, usize), Error> {
        let mut launch = Launch::new(&VmConfig::new(Kernel::from_bytes(b"").unwrap()));
        let before = launch.arguments.len();
        let servers = attach_all(&mut launch, devices, &Arc::new(Stop::new().unwrap()))?.len();
        let words: Vec<_> = launch.arguments[before..].iter().map(|word| word.to_string_lossy()).collect();
        Ok((words.join(" "), servers))
    }

    #[test]
    fn device_keeps_its_code_here() {
        let (arguments, servers) = attach(vec![Rng::new().into()]).unwrap();
        assert!(arguments.ends_with("-device vhost-user-rng,chardev=device0"), "{arguments}");
        assert_eq!(servers, 1);
    }

    #[test]
    fn file_system_gets_its_tag_from_its_configuration_space() {
        let (arguments, _) = attach(vec![described(VIRTIO_ID_FS, &[128, 512], b"a,tag\0\0")]).unwrap();
        let expected = "-device vhost-user-fs-device,num-request-queues=1,queue-size=128,tag=a,,tag,chardev=device0";
        assert!(arguments.ends_with(expected), "{arguments}");
    }

    #[test]
    fn network_card_keeps_its_code_here_and_qemu_connects_to_it() {
        let link = FrameLink::new().unwrap();
        let (arguments, servers) = attach(vec![Net::new(link.device, NetConfig::default()).into()]).unwrap();
        assert!(arguments.contains("-chardev socket,id=card,path=vmm-"), "{arguments}");
        assert!(arguments.contains("-netdev vhost-user,id=net,chardev=card"), "{arguments}");
        assert!(arguments.contains("mac=02:76:6d:6d:00:02,host_mtu=65520"), "{arguments}");
        assert_eq!(servers, 1);
    }

    #[test]
    fn console_is_qemus_own_on_our_socket() {
        let (host, _far) = UnixStream::pair().unwrap();
        let (arguments, servers) = attach(vec![Console::new(host.into()).unwrap().0.into()]).unwrap();
        assert!(arguments.contains("-chardev socket,id=console,fd="), "{arguments}");
        assert!(arguments.ends_with("-device virtconsole,chardev=console"), "{arguments}");
        assert_eq!(servers, 0);
    }

    #[test]
    fn console_on_a_pipe_is_refused() {
        let (_reader, writer) = io::pipe().unwrap();
        let refusal = attach(vec![Console::new(writer.into()).unwrap().0.into()]).unwrap_err();
        assert!(refusal.to_string().contains("stream socket"));
    }

    #[test]
    fn failing_host_ends_the_vm_and_a_failing_guest_does_not() {
        let stop = Arc::new(Stop::new().unwrap());
        let watcher = Watcher { label: "disk".into(), stop: stop.clone(), profile: Profile::Free };
        watcher.faulted(&Fault::Guest { queue: 0, what: "nonsense" });
        assert_eq!(stop.cause(), None);
        watcher.faulted(&Fault::Host(io::Error::other("it broke")));
        assert_eq!(stop.cause(), Some(Cause::Failure(r#"the device "disk" failed: it broke"#.into())));
    }

    #[test]
    fn device_qemu_cannot_have_is_refused_by_name() {
        let error = attach(vec![described(99, &[8], b"")]).unwrap_err().to_string();
        assert!(error.contains(r#""it", a virtio device of kind 99"#), "{error}");
    }

    #[test]
    fn more_devices_than_slots_are_refused() {
        let devices = (0..25).map(|_| Rng::new().into()).collect();
        assert!(attach(devices).unwrap_err().to_string().contains("more than the 24"));
    }
}
