//! One virtio device plugged into the PCI bus: its registers, its doorbells, its worker.
//!
//! vCPU threads call in here at the guest's will. The worker owns the device; what both need is in [`Notifier`].

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio::{Activation, ConfigSpace, LocalRings, Ram, VirtioDevice, Worker};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::capability::{
    self, BAR_SIZE, COMMON, DEVICE, ISR, MAX_QUEUES, MSIX_PENDING, MSIX_TABLE, NOTIFY, NOTIFY_STRIDE, WINDOW_DATA,
    WINDOW_END, Window,
};
use super::notifier::Notifier;
use super::registers::{Action, Registers};
use crate::sandbox::Profile;
use crate::transport::Hypervisor;
use crate::transport::pci::{
    BAR0, COMMAND, CONFIG_SIZE, Config, Identity, MEMORY_SPACE, MSIX_CAPABILITY, PciFunction, Place, msix_capability,
};

/// PCI vendor id of all virtio devices; modern device ids are this plus the virtio device id (virtio 1.2, 4.1.2.1).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
const REVISION: u8 = 1;
/// Offset of message control's second byte in the MSI-X capability.
const MSIX_CONTROL: u16 = 3;
/// `bar_at` while memory space is disabled.
const NOWHERE: u64 = 0;

/// A device, plugged in.
#[derive(Debug)]
pub(crate) struct VirtioFunction {
    state: Mutex<State>,
    notifier: Arc<Notifier>,
    device_config: Arc<dyn ConfigSpace>,
    ram: Ram,
    hypervisor: Arc<dyn Hypervisor>,
    worker: Worker,
    /// Signalled by the doorbells, one per queue; the worker waits on clones.
    kicks: Vec<EventFd>,
    /// Where BAR 0 is, for the bus to find this function without the lock.
    bar_at: AtomicU64,
}

/// What vCPU threads change.
struct State {
    config: Config,
    msix_at: u16,
    window_at: u16,
    registers: Registers,
    /// Where the doorbells are registered now.
    doorbells: Option<u64>,
}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("State").field("registers", &self.registers).finish_non_exhaustive()
    }
}

impl VirtioFunction {
    /// Space that BAR 0 takes; it must be aligned to the same.
    pub(crate) const BAR_SIZE: u32 = BAR_SIZE;

    /// Makes a function of `device` with its BAR at `bar`, and the worker that serves it.
    pub(crate) fn new(
        device: Box<dyn VirtioDevice>,
        bar: u32,
        ram: Ram,
        hypervisor: Arc<dyn Hypervisor>,
    ) -> io::Result<Self> {
        let info = device.info().clone();
        let queues = info.queue_sizes.len();
        let vectors = u16::try_from(queues + 1).map_err(io::Error::other)?;
        if queues > MAX_QUEUES {
            return Err(io::Error::other(format!("{} has {queues} queues", info.label)));
        }
        let mut config = Config::new(&identity(info.kind), bar, BAR_SIZE);
        let place = Place { table: MSIX_TABLE.start, pending: MSIX_PENDING.start };
        let (body, writable) = msix_capability(vectors, place);
        let msix_at = config.add_capability(MSIX_CAPABILITY, &body, &writable);
        let window_at = capability::add_all(&mut config);
        let registers = Registers::new(info.features, &info.queue_sizes, vectors);
        let notifier = Arc::new(Notifier::new(info.label, queues, hypervisor.clone(), Profile::of(&*device)?)?);
        let new_kick = |_| EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
        Ok(Self {
            state: Mutex::new(State { config, msix_at, window_at, registers, doorbells: None }),
            device_config: device.config(),
            ram,
            hypervisor,
            worker: Worker::spawn(device, notifier.clone())?,
            notifier,
            kicks: (0..queues).map(new_kick).collect::<io::Result<_>>()?,
            bar_at: AtomicU64::new(NOWHERE),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker's way to the driver.
    #[cfg(test)]
    pub(super) fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Kicks that wait to be served.
    #[cfg(test)]
    pub(super) fn kick_count(&self, queue: usize) -> u64 {
        self.kicks[queue].read().unwrap_or_default()
    }

    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::None => {}
            Action::Start => {
                if let Err(error) = self.start(state) {
                    tracing::warn!(%error, "Device not started: the guest must reset it");
                    self.notifier.fail();
                }
            }
            Action::Reset => {
                // A worker that has ended holds nothing of the guest's either.
                let _ = self.worker.reset();
                state.registers.reset();
                self.notifier.clear();
                // A kick of before must not wake the device of after.
                self.kicks.iter().for_each(|kick| drop(kick.read()));
            }
        }
        self.place_doorbells(state);
    }

    fn start(&self, state: &State) -> io::Result<()> {
        let queues = state.registers.build_queues(&self.ram.memory()).map_err(io::Error::other)?;
        self.notifier.set_queue_vectors(&state.registers.queue_vectors());
        self.worker.start(Activation {
            features: state.registers.features(),
            rings: LocalRings::new(self.ram.clone(), queues, self.notifier.clone()),
            kicks: self.kicks.iter().map(EventFd::try_clone).collect::<io::Result<_>>()?,
        })
    }

    /// Registers the doorbells where the BAR is while the device runs, and nowhere else.
    fn place_doorbells(&self, state: &mut State) {
        let bar = state.bar();
        let wanted = bar.filter(|_| state.registers.is_running());
        if wanted == state.doorbells {
            return;
        }
        let address = |bar: u64, queue: usize| bar + u64::from(NOTIFY.start) + queue as u64 * u64::from(NOTIFY_STRIDE);
        if let Some(bar) = state.doorbells.take() {
            for (queue, kick) in self.kicks.iter().enumerate() {
                if let Err(error) = self.hypervisor.remove_doorbell(address(bar, queue), kick) {
                    tracing::warn!(%error, "Cannot remove a doorbell");
                }
            }
        }
        let Some(bar) = wanted else { return };
        state.doorbells = Some(bar);
        for (queue, kick) in self.kicks.iter().enumerate() {
            // Without it kicks arrive as ordinary writes: slower, but they arrive.
            if let Err(error) = self.hypervisor.add_doorbell(address(bar, queue), kick) {
                tracing::warn!(%error, "Cannot add a doorbell");
            }
        }
    }

    /// The configuration access capability: the driver wrote an address or data into it.
    ///
    /// The guest reads configuration space without us, so the data is fetched when it is asked for by a write, not
    /// when it is read: a driver that polls a register this way has to write the address again each time.
    fn use_window(&self, state: &mut State, offset: u16, data: &[u8]) {
        let Some(window) = Window::read(&state.config, state.window_at) else { return };
        if offset == state.window_at + WINDOW_DATA && data.len() == window.width {
            self.access_bar_write(state, window.offset, data);
        }
        let mut value = [0; 4];
        if let Some(value) = value.get_mut(..window.width) {
            self.access_bar_read(state, window.offset, value);
        }
        state.config.set(state.window_at + WINDOW_DATA, &value);
    }

    fn access_bar_read(&self, state: &State, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = COMMON.offset(offset) {
            state.registers.read(at, data, self.notifier.live());
        } else if let Some(at) = DEVICE.offset(offset) {
            self.device_config.read(at, data);
        } else if ISR.offset(offset).is_some() {
            data.iter_mut().take(1).for_each(|byte| *byte = self.notifier.take_isr());
        } else if let Some(at) = MSIX_TABLE.offset(offset) {
            self.notifier.msix().read_table(at, data);
        } else if let Some(at) = MSIX_PENDING.offset(offset) {
            self.notifier.msix().read_pending(at, data);
        }
    }

    fn access_bar_write(&self, state: &mut State, offset: u64, data: &[u8]) {
        if let Some(at) = COMMON.offset(offset) {
            let action = state.registers.write(at, data);
            self.notifier.set_config_vector(state.registers.config_vector());
            self.act(state, action);
        } else if let Some(at) = DEVICE.offset(offset) {
            self.device_config.write(at, data);
        } else if let Some(at) = NOTIFY.offset(offset) {
            let queue = usize::try_from(at / u64::from(NOTIFY_STRIDE)).unwrap_or(usize::MAX);
            if let Some(kick) = self.kicks.get(queue).filter(|_| state.registers.is_running()) {
                // Only a counter that is full already refuses: then the worker is about to look.
                let _ = kick.write(1);
            }
        } else if let Some(at) = MSIX_TABLE.offset(offset) {
            self.notifier.msix().write_table(at, data);
        }
    }
}

impl State {
    /// Where BAR 0 is, if memory space is enabled.
    fn bar(&self) -> Option<u64> {
        let enabled = self.config.byte(COMMAND) & MEMORY_SPACE != 0;
        let address = u64::from(self.config.word(BAR0) & !(BAR_SIZE - 1));
        (enabled && address != NOWHERE).then_some(address)
    }
}

impl PciFunction for VirtioFunction {
    fn config(&self) -> [u8; CONFIG_SIZE] {
        self.state().config.bytes()
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let state = &mut *self.state();
        let msix_control = state.config.byte(state.msix_at + MSIX_CONTROL);
        state.config.write(offset, data);
        if (state.window_at..state.window_at + WINDOW_END).contains(&offset) {
            self.use_window(state, offset, data);
        }
        let control = state.config.byte(state.msix_at + MSIX_CONTROL);
        if control != msix_control {
            self.notifier.msix().set_control(control);
        }
        self.bar_at.store(state.bar().unwrap_or(NOWHERE), SeqCst);
        self.place_doorbells(state);
    }

    fn bar(&self) -> Option<(u64, u64)> {
        let address = self.bar_at.load(SeqCst);
        (address != NOWHERE).then_some((address, u64::from(BAR_SIZE)))
    }

    fn read_bar(&self, offset: u64, data: &mut [u8]) {
        self.access_bar_read(&self.state(), offset, data);
    }

    fn write_bar(&self, offset: u64, data: &[u8]) {
        self.access_bar_write(&mut self.state(), offset, data);
    }
}

/// Class codes help people and tools; Linux's driver goes by the device id.
fn identity(kind: u32) -> Identity {
    const NETWORK: u32 = 1;
    const BLOCK: u32 = 2;
    let class = match kind {
        NETWORK => 0x02_0000,
        BLOCK => 0x01_8000,
        _ => 0x08_8000,
    };
    let kind = u16::try_from(kind).unwrap_or_default();
    Identity {
        vendor: VENDOR,
        device: FIRST_DEVICE.wrapping_add(kind),
        revision: REVISION,
        class,
        subsystem: 0x40 | kind,
    }
}
