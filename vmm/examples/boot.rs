//! Boots a kernel and prints its serial console: for trying things, and for counting.
//!
//! `boot KERNEL [INITRAMFS] [--engine auto|kvm|qemu] [--cpus N] [--memory MIB] [--cmdline TEXT] [--until TEXT]
//! [--rngs N]`: with `--until`, the VM is ended when its console shows TEXT; without, when the guest powers off. N
//! virtio entropy devices (1) are plugged in.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use vmm::{Engine, Error, Exit, Handle, Initramfs, Kernel, Mib, Timeline, Vm, VmConfig};

/// How often the console is looked at; the VM itself never waits for this.
const POLL: Duration = Duration::from_millis(2);

struct Arguments {
    files: Vec<String>,
    engine: Engine,
    cpus: u8,
    memory: u64,
    cmdline: String,
    until: Option<String>,
    rngs: u8,
}

fn main() -> ExitCode {
    let started = Instant::now();
    match arguments().map_err(|text| text.to_string()).and_then(|arguments| run(&arguments, started)) {
        Ok(Exit::Shutdown | Exit::Killed) => ExitCode::SUCCESS,
        Ok(exit) => {
            eprintln!("boot: {exit}");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("boot: {error}");
            ExitCode::from(125)
        }
    }
}

fn arguments() -> Result<Arguments, &'static str> {
    let (files, cmdline) = (Vec::new(), String::new());
    let mut parsed = Arguments { files, engine: Engine::Auto, cpus: 1, memory: 512, cmdline, until: None, rngs: 1 };
    let mut rest = std::env::args().skip(1);
    while let Some(word) = rest.next() {
        if !word.starts_with("--") {
            parsed.files.push(word);
            continue;
        }
        let value = rest.next().ok_or("an option lacks its value")?;
        match word.as_str() {
            "--engine" => parsed.engine = engine(&value)?,
            "--cpus" => parsed.cpus = value.parse().map_err(|_| "--cpus takes a number")?,
            "--memory" => parsed.memory = value.parse().map_err(|_| "--memory takes a number of MiB")?,
            "--cmdline" => parsed.cmdline = value,
            "--rngs" => parsed.rngs = value.parse().map_err(|_| "--rngs takes a number")?,
            "--until" => parsed.until = Some(value),
            _ => return Err("unknown option"),
        }
    }
    Ok(parsed)
}

fn engine(name: &str) -> Result<Engine, &'static str> {
    match name {
        "auto" => Ok(Engine::Auto),
        "kvm" => Ok(Engine::Kvm),
        "qemu" => Ok(Engine::Qemu),
        _ => Err("--engine takes auto, kvm or qemu"),
    }
}

fn run(arguments: &Arguments, started: Instant) -> Result<Exit, String> {
    let kernel = arguments.files.first().ok_or("which kernel?")?;
    let config = config(arguments, kernel).map_err(|error| describe(&error))?;
    let timeline = Timeline::since(started);
    let mut builder = Vm::builder(config).engine(arguments.engine).timeline(timeline.clone());
    for index in 0..arguments.rngs {
        builder = builder.device(devices::rng::Rng::labelled(format!("rng{index}")));
    }
    let vm = builder.build();
    let running = vm.and_then(Vm::boot).map_err(|error| describe(&error))?;
    let handle = running.handle();
    let until = arguments.until.clone();
    let watcher = std::thread::spawn({
        let (handle, timeline) = (handle.clone(), timeline.clone());
        move || until.is_some_and(|text| watch(&handle, &text, &timeline))
    });
    let exit = if arguments.until.is_some() {
        let seen = watcher.join().unwrap_or_default();
        drop(running);
        if seen { Exit::Killed } else { Exit::Shutdown }
    } else {
        running.wait().map_err(|error| describe(&error))?
    };
    std::io::stdout().write_all(&handle.console().bytes()).map_err(|error| error.to_string())?;
    for mark in timeline.marks() {
        eprintln!("boot: {:9.3} ms {}", mark.at.as_secs_f64() * 1e3, mark.name);
    }
    eprintln!("boot: {exit} {:?}", handle.counts());
    Ok(exit)
}

fn config(arguments: &Arguments, kernel: &str) -> Result<VmConfig, Error> {
    let initramfs = arguments.files.get(1).map(Initramfs::open).transpose()?;
    let (cpus, memory, cmdline) = (arguments.cpus, Mib(arguments.memory), arguments.cmdline.clone());
    Ok(VmConfig { cpus, memory, initramfs, cmdline, ..VmConfig::new(Kernel::open(kernel)?) })
}

/// Waits until the console shows `text`, then ends the VM.
fn watch(handle: &Handle, text: &str, timeline: &Timeline) -> bool {
    for _ in 0..60_000 {
        if String::from_utf8_lossy(&handle.console().bytes()).contains(text) {
            timeline.mark("seen");
            handle.kill();
            return true;
        }
        std::thread::sleep(POLL);
    }
    false
}

fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", describe(cause)),
        None => error.to_string(),
    }
}
