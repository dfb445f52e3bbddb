//! From the engine that was asked for to one that can be used here.

use std::path::PathBuf;

use crate::probe::{KvmReport, QemuReport};
use crate::{Engine, Error};

/// An engine that can be used, with what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    Kvm,
    /// With the program to run.
    Qemu(PathBuf),
}

impl Choice {
    /// What was chosen, as the user names it.
    pub(crate) fn engine(&self) -> Engine {
        match self {
            Self::Kvm => Engine::Kvm,
            Self::Qemu(_) => Engine::Qemu,
        }
    }
}

/// Chooses by what the probe finds; `qemu` stands in for a search of `PATH`.
pub(crate) fn choose(wanted: Engine, qemu: Option<PathBuf>) -> Result<Choice, Error> {
    let search_qemu = || qemu.map_or_else(QemuReport::search, |program| QemuReport { program: Some(program) });
    match wanted {
        Engine::Kvm => kvm(&KvmReport::examine()),
        Engine::Qemu => self::qemu(search_qemu()),
        Engine::Auto => automatic(&KvmReport::examine(), search_qemu),
    }
}

fn kvm(report: &KvmReport) -> Result<Choice, Error> {
    match report.is_usable() {
        true => Ok(Choice::Kvm),
        false => Err(Error::Engine { engine: "kvm", reason: report.to_string() }),
    }
}

fn qemu(report: QemuReport) -> Result<Choice, Error> {
    match report {
        QemuReport { program: Some(program) } => Ok(Choice::Qemu(program)),
        report => Err(Error::Engine { engine: "qemu", reason: report.to_string() }),
    }
}

fn automatic(kvm_report: &KvmReport, search_qemu: impl FnOnce() -> QemuReport) -> Result<Choice, Error> {
    kvm(kvm_report).or_else(|_| {
        let report = search_qemu();
        let missing = report.to_string();
        qemu(report).map_err(|_| Error::NoEngine { kvm: kvm_report.to_string(), qemu: missing })
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::KvmVerdict;

    fn report(verdict: KvmVerdict) -> KvmReport {
        KvmReport { device: "/dev/kvm".into(), verdict, ring0_ns: Some(1850.0), took: Duration::ZERO }
    }

    fn qemu_at(path: Option<&str>) -> impl FnOnce() -> QemuReport {
        let program = path.map(PathBuf::from);
        move || QemuReport { program }
    }

    #[test]
    fn hardware_comes_first() {
        let choice = automatic(&report(KvmVerdict::Native), || panic!("QEMU was looked for"));
        assert_eq!(choice.unwrap().engine(), Engine::Kvm);
    }

    #[test]
    fn emulating_kvm_gives_way_to_qemu() {
        let choice = automatic(&report(KvmVerdict::Emulated), qemu_at(Some("/usr/bin/qemu"))).unwrap();
        assert_eq!(choice, Choice::Qemu("/usr/bin/qemu".into()));
    }

    #[test]
    fn without_either_both_remedies_are_told() {
        let error = automatic(&report(KvmVerdict::Denied), qemu_at(None)).unwrap_err().to_string();
        assert!(error.contains("usermod -aG kvm"), "{error}");
        assert!(error.contains("apt install qemu-system-x86"), "{error}");
    }

    #[test]
    fn engine_asked_for_by_name_is_refused_with_the_evidence() {
        let error = kvm(&report(KvmVerdict::Emulated)).unwrap_err().to_string();
        assert!(error.contains("1850 ns"), "{error}");
        assert!(qemu(qemu_at(None)()).unwrap_err().to_string().contains("not in PATH"));
    }
}
