//! What one turn of a loop costs in guest ring 0.
//!
//! Hardware runs it in a fraction of a nanosecond, an emulating KVM in about two microseconds. The time that matters is
//! the difference between a long and a short loop, in CPU time of this thread and the least of a few runs: start-up
//! costs, other load and interrupts fall out of it. Every run is bounded, so neither signals nor timers are needed.

use std::io;
use std::time::Duration;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use rustix::time::{ClockId, clock_gettime};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// `1: inc rdx; dec ecx; jnz 1b; mov edx, DONE_PORT; out dx, al`: counts `ecx` down, then leaves.
const CODE: [u8; 13] = [0x48, 0xff, 0xc2, 0xff, 0xc9, 0x75, 0xf9, 0xba, 0x05, 0x05, 0x00, 0x00, 0xee];
const DONE_PORT: u16 = 0x505;

const RAM_BYTES: usize = 64 << 10;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE_AT: u64 = 0x8000;
const PRESENT_WRITABLE: u64 = 0x3;
/// Present, writable, 2 MiB.
const LARGE_PAGE: u64 = 0x83;

/// PE, MP, ET, NE, WP, AM, PG.
const CR0: u64 = 0x8005_0033;
/// PAE.
const CR4: u64 = 0x20;
/// LME, LMA.
const EFER: u64 = 0x500;
/// Intel wants this gap below 4 GiB named before the first vCPU; AMD does not care.
const TSS_AT: usize = 0xfffb_d000;

/// Turns of the loop: a millisecond where they are emulated, nothing where they are not.
const TURNS: u64 = 500;
/// Looks at a loop that seems slow. Load on the machine can make a fast one look slow, never a slow one fast, so the
/// fastest look counts.
const LOOKS: usize = 4;
/// Load does not slow every run of a look down by this factor: half a millisecond each.
const HOPELESS: f64 = 5.0;
/// Runs of each length, of which the fastest counts.
const RUNS: usize = 3;
/// Signals may interrupt a run; more than this many and something else is wrong.
const MAX_INTERRUPTIONS: usize = 64;

/// Nanoseconds per turn, given that a cost of at most `settled` needs no second look.
pub(super) fn cost_ns(kvm: &Kvm, settled: f64) -> io::Result<f64> {
    let vm = kvm.create_vm().map_err(from_errno)?;
    vm.set_tss_address(TSS_AT).map_err(from_errno)?;
    let ram = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).map_err(io::Error::other)?;
    fill(&ram).map_err(io::Error::other)?;
    for region in ram.iter() {
        let region = kvm_userspace_memory_region {
            slot: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the range is mapped by `ram`, which lives longer than `vcpu`, the only user of it.
        unsafe { vm.set_user_memory_region(region) }.map_err(from_errno)?;
    }
    let mut vcpu = vm.create_vcpu(0).map_err(from_errno)?;
    // Recent kernels refuse long mode to a vCPU whose CPUID does not have it.
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(from_errno)?;
    vcpu.set_cpuid2(&cpuid).map_err(from_errno)?;
    enter_long_mode(&vcpu)?;

    // The first entry sets up what later ones find ready.
    timed_run(&mut vcpu, 1)?;
    let mut cost = f64::INFINITY;
    for _ in 0..LOOKS {
        cost = difference(&mut vcpu)?.min(cost);
        if cost <= settled || cost > HOPELESS * settled {
            break;
        }
    }
    Ok(cost)
}

fn fill(ram: &GuestMemoryMmap<()>) -> Result<(), vm_memory::GuestMemoryError> {
    ram.write_slice(&CODE, GuestAddress(CODE_AT))?;
    ram.write_obj(PDPT | PRESENT_WRITABLE, GuestAddress(PML4))?;
    ram.write_obj(PD | PRESENT_WRITABLE, GuestAddress(PDPT))?;
    ram.write_obj(LARGE_PAGE, GuestAddress(PD))
}

fn enter_long_mode(vcpu: &VcpuFd) -> io::Result<()> {
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: 0x18, type_: 0x3, db: 1, ..flat };
    let mut sregs = vcpu.get_sregs().map_err(from_errno)?;
    sregs.cs = kvm_segment { selector: 0x10, type_: 0xb, l: 1, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { selector: 0x40, limit: 0x67, type_: 0xb, present: 1, ..Default::default() };
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, PML4, CR4, EFER);
    vcpu.set_sregs(&sregs).map_err(from_errno)
}

fn difference(vcpu: &mut VcpuFd) -> io::Result<f64> {
    let (mut short, mut long) = (Duration::MAX, Duration::MAX);
    for _ in 0..RUNS {
        short = short.min(timed_run(vcpu, 1)?);
        long = long.min(timed_run(vcpu, TURNS)?);
    }
    Ok(long.saturating_sub(short).as_secs_f64() * 1e9 / TURNS as f64)
}

/// CPU time that `turns` of the loop take.
fn timed_run(vcpu: &mut VcpuFd, turns: u64) -> io::Result<Duration> {
    let start = kvm_regs { rip: CODE_AT, rflags: 2, rcx: turns, ..Default::default() };
    vcpu.set_regs(&start).map_err(from_errno)?;
    let begin = cpu_time();
    for _ in 0..MAX_INTERRUPTIONS {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(DONE_PORT, _)) => return Ok(cpu_time().saturating_sub(begin)),
            Ok(VcpuExit::Intr) => {}
            Ok(exit) => return Err(io::Error::other(format!("a trivial guest ended with {exit:?}"))),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {}
            Err(error) => return Err(from_errno(error)),
        }
    }
    Err(io::Error::other("signals kept interrupting a trivial guest"))
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn from_errno(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
