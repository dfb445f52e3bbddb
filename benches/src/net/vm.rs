//! A guest behind our network stack, with nothing else to it: what QEMU is to `passt`.

use std::fs::File;
use std::path::PathBuf;

use devices::net::{Net, NetConfig as Card};
use launcher::EgressLog;
use netstack::{NetConfig, Netstack};
use policy::{Action, Policy, Preset, Rule};
use virtio::frame::FrameLink;
use vmm::{Engine, Initramfs, Kernel, Mib, Vm, VmConfig};

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Args {
    kernel: PathBuf,
    initramfs: PathBuf,
    /// kvm or qemu
    #[arg(long, value_parser = engine)]
    engine: Engine,
    #[arg(long, default_value = "")]
    cmdline: String,
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// Judge with a hundred rules and write the log of verdicts in this folder; else everything is allowed, nothing written
    #[arg(long)]
    audit: Option<PathBuf>,
}

fn engine(name: &str) -> Result<Engine, String> {
    match name {
        "kvm" => Ok(Engine::Kvm),
        "qemu" => Ok(Engine::Qemu),
        _ => Err("kvm or qemu".to_owned()),
    }
}

/// Runs the guest until it or this process is ended.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let mut net = NetConfig::new(Policy::new(Preset::Open));
    let mut written = None;
    if let Some(path) = &args.audit {
        net.policy = policy()?;
        let (log, sink) = EgressLog::start(path, &"000000000000-1".parse()?)?;
        (written, net.audit) = (Some(log), sink);
    }
    let card = Card { mac: net.addresses.guest_mac, mtu: net.mtu };
    let FrameLink { device, stack } = FrameLink::new()?;
    let gateway = Netstack::start(stack, net)?;
    let config = VmConfig {
        cpus: args.cpus,
        memory: Mib(args.memory),
        initramfs: Some(Initramfs::open(&args.initramfs)?),
        cmdline: args.cmdline.clone(),
        serial: Some(File::create("/dev/stderr")?),
        ..VmConfig::new(Kernel::open(&args.kernel)?)
    };
    let vm = Vm::builder(config).engine(args.engine).device(devices::rng::Rng::new()).device(Net::new(device, card));
    let exit = vm.build()?.boot()?.wait()?;
    drop((gateway, written));
    eprintln!("bench: the guest ended: {exit}");
    Ok(false)
}

/// The public internet, behind a hundred rules that are about something else.
fn policy() -> anyhow::Result<Policy> {
    let mut policy = Policy::new(Preset::Public);
    for index in 0..50 {
        for text in [format!("203.0.113.{index}:443"), format!("*.service{index}.example")] {
            policy.push(Rule::parse(Action::Allow, &text)?);
        }
    }
    Ok(policy)
}
