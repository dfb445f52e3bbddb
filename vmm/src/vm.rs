//! A VM before, while and after it runs.

use std::fmt;
use std::sync::Arc;

use crate::engine::{Choice, Control, Machine, Running, kvm, qemu};
use crate::{ConsoleLog, Engine, Error, VmBuilder, VmConfig};

/// Where the kernel's word on a panic is looked for: a backtrace and two register dumps are shorter.
const PANIC_LINES: usize = 200;
/// Longer than any message of the kernel.
const MAX_MESSAGE: usize = 300;

/// A VM that was validated and not started.
#[derive(Debug)]
pub struct Vm {
    pub(crate) choice: Choice,
    pub(crate) machine: Machine,
}

impl Vm {
    /// Starts describing a VM.
    pub fn builder(config: VmConfig) -> VmBuilder {
        VmBuilder::new(config)
    }

    /// The engine it will run on: never [`Engine::Auto`].
    pub fn engine(&self) -> Engine {
        self.choice.engine()
    }

    /// Starts the VM.
    pub fn boot(self) -> Result<RunningVm, Error> {
        let Self { choice, machine } = self;
        let console = machine.console.clone();
        let running = match choice {
            Choice::Kvm => kvm::boot(machine)?,
            Choice::Qemu(program) => qemu::boot(&program, machine)?,
        };
        Ok(RunningVm { running, console })
    }
}

/// A started VM. Dropping it kills the VM and joins its threads and children.
#[derive(Debug)]
pub struct RunningVm {
    running: Box<dyn Running>,
    console: ConsoleLog,
}

impl RunningVm {
    /// Blocks until the VM ends.
    pub fn wait(mut self) -> Result<Exit, Error> {
        let exit = self.running.wait()?;
        // Kernels end a panic with a reset (`panic=-1`); what it was about stands on the console.
        match (exit, panic_message(&self.console)) {
            (Exit::Reset, Some(message)) => Ok(Exit::Panicked { message }),
            (exit, _) => Ok(exit),
        }
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        Handle { control: self.running.control(), console: self.console.clone() }
    }
}

/// Ends or looks at a running VM from another thread; clones are equal.
///
/// ```no_run
/// # fn main() -> Result<(), vmm::Error> {
/// # let config = vmm::VmConfig::new(vmm::Kernel::open("vmlinux")?);
/// let running = vmm::Vm::builder(config).build()?.boot()?;
/// let handle = running.handle();
/// std::thread::spawn(move || {
///     std::thread::sleep(std::time::Duration::from_secs(60));
///     handle.kill();
/// });
/// println!("{}", running.wait()?);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Handle {
    control: Arc<dyn Control>,
    console: ConsoleLog,
}

impl Handle {
    /// Ends the VM at once. Does nothing if it has ended already.
    pub fn kill(&self) {
        self.control.kill();
    }

    /// The end of what the guest wrote to its serial console; stays readable after the VM ended.
    pub fn console(&self) -> &ConsoleLog {
        &self.console
    }

    /// How often the guest left for user space so far; `None` where the engine cannot tell.
    pub fn counts(&self) -> Option<Counts> {
        self.control.counts()
    }
}

/// Exits of all vCPUs to user space, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Port reads.
    pub port_reads: u64,
    /// Port writes.
    pub port_writes: u64,
    /// Reads of device registers in memory.
    pub memory_reads: u64,
    /// Writes of device registers in memory.
    pub memory_writes: u64,
    /// Everything else.
    pub others: u64,
}

impl Counts {
    /// All of them together.
    pub fn total(&self) -> u64 {
        self.port_reads + self.port_writes + self.memory_reads + self.memory_writes + self.others
    }
}

/// How a VM ended; its `Display` says it to the user.
///
/// ```no_run
/// # fn main() -> Result<(), vmm::Error> {
/// # let config = vmm::VmConfig::new(vmm::Kernel::open("vmlinux")?);
/// let running = vmm::Vm::builder(config).build()?.boot()?;
/// let console = running.handle().console().clone();
/// match running.wait()? {
///     vmm::Exit::Shutdown => println!("done"),
///     exit => eprintln!("{exit}\n{}", console.last_lines(20).join("\n")),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// The guest powered off.
    Shutdown,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel gave up, and [`Handle::console`] has its last lines.
    Panicked {
        /// What the kernel said, made printable.
        message: String,
    },
    /// [`Handle::kill`] or a drop ended it.
    Killed,
    /// The engine met something it cannot run on from.
    Crashed {
        /// What happened, for the user.
        reason: String,
    },
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => write!(f, "The guest powered off"),
            Self::Reset => write!(f, "The guest asked for a reset"),
            Self::Panicked { message } => write!(f, "The guest's kernel panicked: {message}"),
            Self::Killed => write!(f, "The VM was killed"),
            Self::Crashed { reason } => write!(f, "The VM crashed: {reason}"),
        }
    }
}

/// What a panicking kernel said last; the guest could write it itself, which deceives nobody but its user.
fn panic_message(console: &ConsoleLog) -> Option<String> {
    const MARK: &str = "Kernel panic - not syncing: ";
    let lines = console.last_lines(PANIC_LINES);
    let message = lines.iter().rev().find_map(|line| line.split_once(MARK))?.1;
    Some(message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_found_before_its_backtrace() {
        let console = ConsoleLog::default();
        console.push(b"[    0.6] Kernel panic - not syncing: No working init found.\r\n[    0.6] CPU: 0 PID: 1\r\n");
        assert_eq!(panic_message(&console).as_deref(), Some("No working init found."));
    }

    #[test]
    fn ordinary_reset_has_no_message() {
        let console = ConsoleLog::default();
        console.push(b"[    9.1] reboot: Restarting system\r\n");
        assert_eq!(panic_message(&console), None);
    }

    #[test]
    fn message_is_bounded_and_printable() {
        let console = ConsoleLog::default();
        console.push(&[&b"Kernel panic - not syncing: \x1b[31m"[..], &[b'x'; 9000]].concat());
        let message = panic_message(&console).unwrap();
        assert_eq!(message.chars().count(), MAX_MESSAGE);
        assert!(!message.contains('\x1b'));
    }
}
