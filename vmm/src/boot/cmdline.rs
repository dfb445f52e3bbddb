//! The kernel command line: what the board needs, then what the caller wants.

use crate::Error;

/// What the kvm engine's board asks of every kernel:
/// - `quiet`: every character on the serial console is an exit (the caller's `loglevel=` comes later and wins);
/// - `console`: the 8250, so that a panic can be read;
/// - `panic=-1`: reset at once instead of hanging, which ends the VM;
/// - `8250.nr_uarts=1`: there is one UART, do not look for three more.
const BOARD: &str = "quiet console=ttyS0 panic=-1 8250.nr_uarts=1";

/// Joins the board's parameters and the caller's, with the terminating zero.
pub(super) fn join(extra: &str, max: usize) -> Result<Vec<u8>, Error> {
    let invalid = |reason| Error::Config { field: "cmdline", reason };
    if extra.contains(['\0', '\n']) {
        return Err(invalid("it may hold neither line breaks nor zero bytes".into()));
    }
    let mut line = [BOARD, extra.trim()].join(" ").trim_end().as_bytes().to_vec();
    if line.len() > max {
        let length = line.len();
        return Err(invalid(format!("with the VMM's own part it has {length} bytes, and this kernel takes {max}")));
    }
    line.push(0);
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_parameters_come_last_and_win() {
        let line = join(" loglevel=7 ", 2047).unwrap();
        assert!(line.starts_with(b"quiet console=ttyS0"));
        assert!(line.ends_with(b" loglevel=7\0"));
        assert!(join("", 2047).unwrap().ends_with(b"nr_uarts=1\0"));
    }

    #[test]
    fn line_the_kernel_would_cut_is_refused() {
        assert!(join(&"x".repeat(2047), 2047).is_err());
        assert!(join("a\0b", 2047).is_err());
    }
}
