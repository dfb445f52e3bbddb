//! The kernel command line: what this board needs, then what the caller wants.

/// What the microvm board under an emulated CPU asks of every kernel:
/// - `quiet`: every character on the serial console is work (the caller's `loglevel=` comes later and wins);
/// - `console`: the 8250, so that a panic can be read;
/// - `panic=-1`: reset at once instead of hanging, which ends the VM;
/// - `8250.nr_uarts=1`: there is one UART, do not look for three more;
/// - `pci=off`: there is no PCI bus, and Linux calls that fatal;
/// - `tsc=reliable`: there is no second clock on this board to check the counter against;
/// - `noreplace-smp`: leave lock prefixes alone on one CPU; patching them out is slow where code is translated;
/// - `norandmaps`: programs and libraries lie at the same addresses each time. QEMU 7.2 translates code anew for each
///   address that it is found at, which takes most of the time in which a program starts (34 ms of CPU, 6 without). What
///   guards the host is the machine's border; whoever wants this inside as well sets `kernel.randomize_va_space`;
/// - `tsc_early_khz`: see the `tsc` module;
/// - `lpj`: the length of a tick in turns of the delay loop, which are TSC ticks here; else every CPU but the first one
///   measures it for a tenth of a second;
/// - `lapic_timer_khz`: our kernel's own (its patch 0008): QEMU's local timer counts nanoseconds. Measured, the
///   frequency is wrong when QEMU's thread has to wait meanwhile. Other kernels hand the word to init, which gets it as
///   a variable.
///
/// `nolapic_timer` would save a tenth of a second and must not be here: the local timer is the only one this board's
/// ACPI tables offer, without it every sleep in the guest is forever.
const BOARD: &str = "quiet console=ttyS0 panic=-1 8250.nr_uarts=1 pci=off tsc=reliable noreplace-smp norandmaps \
    lapic_timer_khz=1000000";

/// Ticks per second of our kernel and Debian's. In a kernel with more, delays come out longer than asked for, which
/// does no harm.
const HZ: u64 = 250;

/// Joins the board's parameters and the caller's.
pub(super) fn join(tsc_khz: u64, extra: &str) -> String {
    let lpj = tsc_khz.saturating_mul(1000) / HZ;
    format!("{BOARD} tsc_early_khz={tsc_khz} lpj={lpj} {}", extra.trim()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_parameters_come_last_and_win() {
        let line = join(2_500_000, " loglevel=7 ");
        assert!(line.starts_with("quiet console=ttyS0"));
        assert!(line.ends_with("tsc_early_khz=2500000 lpj=10000000 loglevel=7"));
        assert!(join(250, "").ends_with("=1000"));
    }
}
