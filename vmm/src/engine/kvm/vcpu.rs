//! One vCPU: made, then run on its own thread until the VM stops.

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::board::Next;
use super::cpuid::Template;
use super::explain;
use super::kick::Registration;
use super::registers;
use super::running::Shared;
use super::system::{System, host};
use crate::boot::{Entry, GuestRam};
use crate::{Error, Exit};

/// Makes `count` vCPUs, the first of which stands at the kernel's entry point.
pub(super) fn create(system: &System, ram: &GuestRam, count: u8, entry: &Entry) -> Result<Vec<VcpuFd>, Error> {
    let max = system.max_cpus();
    if count == 0 || usize::from(count) > max {
        return Err(Error::Config { field: "cpus", reason: format!("{count} is not between 1 and {max}") });
    }
    let template = Template::new(system, count)?;
    let mut vcpus = Vec::with_capacity(usize::from(count));
    for id in 0..count {
        let vcpu = system.vm().create_vcpu(u64::from(id)).map_err(host("Making a vCPU"))?;
        vcpu.set_cpuid2(&template.for_cpu(id)).map_err(host("Setting a vCPU's CPUID"))?;
        registers::set_common(&vcpu)?;
        if id == 0 {
            registers::set_entry(&vcpu, ram, entry)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

/// Runs the vCPU until the VM stops, whoever stops it. The thread's whole life.
pub(super) fn run(mut vcpu: VcpuFd, shared: &Shared) {
    // Whatever ends this thread ends the VM: without one of its CPUs a guest only hangs.
    let _last_words = LastWords(shared);
    let registration = Registration::new(&shared.stop, &mut vcpu);
    while !shared.stop.is_requested() {
        if let Some(exit) = step(&mut vcpu, shared) {
            shared.stop.request(exit);
        }
    }
    drop(registration);
}

struct LastWords<'a>(&'a Shared);

impl Drop for LastWords<'_> {
    fn drop(&mut self) {
        self.0.stop.request(Exit::Crashed { reason: "A vCPU thread failed inside the VMM".into() });
    }
}

/// Lets the guest run until it needs something; `Some` means that the VM is over.
fn step(vcpu: &mut VcpuFd, shared: &Shared) -> Option<Exit> {
    let Shared { board, counters, .. } = shared;
    let reason = match vcpu.run() {
        Ok(VcpuExit::IoIn(port, data)) => {
            counters.port_read();
            board.read_port(port, data);
            return None;
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            counters.port_write();
            return match board.write_port(port, data) {
                Next::Run => None,
                Next::Reset => Some(Exit::Reset),
                Next::PowerOff => Some(Exit::Shutdown),
            };
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            counters.memory_read();
            board.read_memory(address, data);
            return None;
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            counters.memory_write();
            board.write_memory(address, data);
            return None;
        }
        Ok(VcpuExit::Intr | VcpuExit::Hlt) => return None,
        Ok(VcpuExit::Shutdown) => explain::Reason::TripleFault,
        Ok(VcpuExit::FailEntry(code, _)) => explain::Reason::FailedEntry(code),
        Ok(VcpuExit::InternalError) => explain::Reason::Internal,
        Ok(other) => explain::Reason::Unexpected(format!("{other:?}")),
        // A signal: the loop looks whether it was a kick. EAGAIN: this CPU was not started yet.
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return None,
        Err(error) => explain::Reason::Failed(error),
    };
    counters.other();
    Some(Exit::Crashed { reason: explain::explain(&reason, vcpu) })
}
