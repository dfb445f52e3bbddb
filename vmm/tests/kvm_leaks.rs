//! What VMs under KVM leave behind: nothing. Alone in its process, because it counts what the process holds.

// In its helpers, too, failing is what a test does.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use devices::rng::Rng;
use support::guest::Program;
use support::{UP, config, holdings, kvm_is_real};
use vmm::{Engine, Exit, Vm};

const STARTS: usize = 20;

/// How far a VM gets before it is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Entry,
    Init,
}

#[test]
fn twenty_starts_and_stops_leave_nothing() {
    if !kvm_is_real() {
        return;
    }
    // The first start makes what a process keeps: it loads libraries, and grows its allocator.
    start_and_stop(Reach::Init);
    let before = (holdings(), mappings());
    start_and_stop(Reach::Init);
    for _ in 1..STARTS {
        start_and_stop(Reach::Entry);
    }
    assert_eq!((holdings(), mappings()), before);
}

fn start_and_stop(reach: Reach) {
    let (config, mut console) = config(&Program::default().print(UP).idle());
    let vm = Vm::builder(config).engine(Engine::Kvm).device(Rng::new()).build();
    let running = vm.unwrap().boot().unwrap();
    if reach == Reach::Init {
        console.wait_for(UP.trim());
        return drop(running);
    }
    running.handle().kill();
    assert_eq!(running.wait().unwrap(), Exit::Killed);
}

/// Mappings of guest memory in this process.
fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().matches("vmm-guest-ram").count()
}
