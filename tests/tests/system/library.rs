//! The `vmm` library in this very process: no launcher, no agent, a guest of one shell script.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::{Engine, Stage, until, waited};
use vmm::{Exit, Initramfs, Kernel, Mib, RunningVm, Vm, VmConfig};

/// What the guest writes to its console when it is up.
const MARK: &str = "guest is up";
const PATIENCE: Duration = Duration::from_secs(120);

pub fn debian_stock_kernel_boots(stage: &Stage) -> Result<()> {
    let kernel = debian_kernel()?;
    let running = Guest::new(stage, Then::PowersOff)?.boot(&kernel, Mib(512))?;
    let console = running.handle().console().clone();
    let exit = running.wait()?;
    let text = String::from_utf8_lossy(&console.bytes()).into_owned();
    ensure!(text.contains(MARK), "{text}");
    ensure!(exit == Exit::Shutdown, "{exit:?}\n{text}");
    Ok(())
}

pub fn two_vms_run_in_one_process(stage: &Stage) -> Result<()> {
    let guest = Guest::new(stage, Then::Stays)?;
    let kernel = our_kernel(stage)?;
    let (first, second) = (guest.boot(&kernel, Mib(256))?, guest.boot(&kernel, Mib(384))?);
    for running in [&first, &second] {
        wait_for_mark(running)?;
    }
    first.handle().kill();
    ensure!(first.wait()? == Exit::Killed);
    ensure!(
        !waited(Duration::from_secs(1), || second.handle().console().last_lines(1) != [MARK]),
        "the other VM changed"
    );
    second.handle().kill();
    ensure!(second.wait()? == Exit::Killed);
    Ok(())
}

pub fn twenty_starts_and_stops_leave_nothing(stage: &Stage) -> Result<()> {
    let guest = Guest::new(stage, Then::Stays)?;
    let kernel = our_kernel(stage)?;
    wait_for_mark(&guest.boot(&kernel, Mib(256))?)?; // whatever is made once per process is there now
    let before = Held::now()?;
    for round in 0..20 {
        let running = guest.boot(&kernel, Mib(256))?;
        if round % 2 == 0 {
            wait_for_mark(&running)?;
        }
        drop(running);
    }
    let after = Held::now()?;
    ensure!(before == after, "before: {before:#?}\nafter: {after:#?}");
    Ok(())
}

/// What a process can leak.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: Vec<String>,
    threads: usize,
    mappings: usize,
}

impl Held {
    fn now() -> Result<Self> {
        let mut descriptors = Vec::new();
        for entry in fs::read_dir("/proc/self/fd")? {
            // The descriptor of this very listing is gone when it is looked at.
            if let Ok(target) = fs::read_link(entry?.path()) {
                descriptors.push(without_numbers(&target));
            }
        }
        descriptors.sort();
        let threads = fs::read_dir("/proc/self/task")?.count();
        let maps = fs::read_to_string("/proc/self/maps")?;
        let mappings = maps.lines().filter(|line| line.contains("memfd:") || line.contains("kvm")).count();
        Ok(Self { descriptors, threads, mappings })
    }
}

fn without_numbers(path: &Path) -> String {
    path.to_string_lossy().chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// What the guest does after its mark.
#[derive(Debug, Clone, Copy)]
enum Then {
    PowersOff,
    Stays,
}

/// An initramfs of busybox and one script.
#[derive(Debug)]
struct Guest {
    initramfs: PathBuf,
    engine: vmm::Engine,
}

impl Guest {
    fn new(stage: &Stage, then: Then) -> Result<Self> {
        let root = stage.folder().join("initramfs");
        fs::create_dir_all(root.join("bin"))?;
        fs::create_dir_all(root.join("dev"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox")).context("copying busybox (Debian: busybox-static)")?;
        let last = match then {
            Then::PowersOff => "exec /bin/busybox poweroff -f",
            Then::Stays => "while :; do /bin/busybox sleep 1000; done",
        };
        let mount = "/bin/busybox mount -t devtmpfs dev /dev";
        let init = format!("#!/bin/busybox sh\n{mount}\necho '{MARK}' >/dev/console\n{last}\n");
        fs::write(root.join("init"), init)?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        let initramfs = stage.folder().join("initramfs.cpio");
        let mut pack = Command::new("cpio");
        pack.args(["-o", "-H", "newc", "--quiet"])
            .current_dir(&root)
            .stdin(Stdio::piped())
            .stdout(File::create(&initramfs)?);
        let mut pack = pack.spawn().context("starting cpio")?;
        pack.stdin.take().context("cpio's input")?.write_all(b".\nbin\ndev\nbin/busybox\ninit\n")?;
        ensure!(pack.wait()?.success(), "cpio failed");
        let engine = match stage.engine() {
            Engine::Kvm => vmm::Engine::Kvm,
            Engine::Qemu => vmm::Engine::Qemu,
        };
        Ok(Self { initramfs, engine })
    }

    fn boot(&self, kernel: &Path, memory: Mib) -> Result<RunningVm> {
        let mut config = VmConfig::new(Kernel::open(kernel)?);
        config.memory = memory;
        config.initramfs = Some(Initramfs::from(File::open(&self.initramfs)?));
        let rng: Box<dyn virtio::VirtioDevice> = Box::new(devices::rng::Rng::new());
        Ok(Vm::builder(config).engine(self.engine).device(rng).build()?.boot()?)
    }
}

fn wait_for_mark(running: &RunningVm) -> Result<()> {
    let handle = running.handle();
    let is_up = || Ok(String::from_utf8_lossy(&handle.console().bytes()).contains(MARK).then_some(()));
    until("the guest", PATIENCE, is_up).with_context(|| handle.console().last_lines(20).join("\n"))
}

/// The kernel that the `vmm` program carries, unpacked.
fn our_kernel(stage: &Stage) -> Result<PathBuf> {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel/prebuilt/vmlinux.zst");
    let kernel = stage.folder().join("vmlinux");
    let source = File::open(&packed).with_context(|| format!("opening {}", packed.display()))?;
    zstd::stream::copy_decode(source, File::create(&kernel)?)?;
    Ok(kernel)
}

/// The stock kernel on which the lab itself runs; fetched by Debian's own means when the lab was first started.
fn debian_kernel() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).context("HOME is not set")?;
    let boot = cache.join("vmm/lab/kernel/boot");
    let entries =
        fs::read_dir(&boot).with_context(|| format!("no kernel in {}; start tests/lab/kvm once", boot.display()))?;
    let mut kernels = entries.filter_map(|entry| Some(entry.ok()?.path()));
    kernels.find(|path| path.to_string_lossy().contains("vmlinuz-")).context("no vmlinuz in the lab's kernel package")
}
