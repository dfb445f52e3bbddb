//! Why a vCPU could not go on, in words that help.

use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

/// The ways a vCPU can end that are not the guest's wish.
#[derive(Debug)]
pub(super) enum Reason {
    TripleFault,
    FailedEntry(u64),
    Internal,
    Unexpected(String),
    Failed(errno::Error),
}

/// Puts `reason` and where the guest was into a sentence or two.
pub(super) fn explain(reason: &Reason, vcpu: &mut VcpuFd) -> String {
    let place = vcpu.get_regs().map_or_else(|_| String::new(), |regs| format!(" at instruction {:#x}", regs.rip));
    match reason {
        // Where that was cannot be told: KVM has reset the CPU already.
        Reason::TripleFault => "The guest's CPU reset itself after a triple fault: its kernel crashed before it could \
             say why, or it does not run on this CPU"
            .into(),
        Reason::FailedEntry(code) => format!(
            "The host's CPU refuses to enter the guest (hardware reason {code:#x}){place}: the host's kernel log says \
             more, `dmesg | grep kvm`"
        ),
        Reason::Internal => internal(vcpu, &place),
        Reason::Unexpected(exit) => {
            format!("KVM ended a vCPU's run{place} with something no guest should cause: {exit}")
        }
        Reason::Failed(error) if error.errno() == libc::EFAULT => {
            format!(
                "The host could not provide the memory that the guest wanted{place}: it has run out, or a limit was reached"
            )
        }
        Reason::Failed(error) => format!("Running a vCPU failed{place}: {error}"),
    }
}

fn internal(vcpu: &mut VcpuFd, place: &str) -> String {
    let run = vcpu.get_kvm_run();
    // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, for which KVM fills this member of the union; it is plain
    // numbers, so that any content is valid.
    let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
    if suberror == KVM_INTERNAL_ERROR_EMULATION {
        format!(
            "KVM could not emulate an instruction of the guest{place}: this host's KVM may emulate guest kernels in \
             software, for which the qemu engine is the better choice"
        )
    } else {
        format!("KVM met an internal error ({suberror}){place}: the host's kernel log says more, `dmesg | grep kvm`")
    }
}
