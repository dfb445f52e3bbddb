//! What must be so in every engine.

use vmm::{Engine, Exit, VmConfig};

use super::guest::Program;
use super::{UP, boot, config};

/// A guest that powers off ends its VM, and its last words arrive.
pub fn power_off_is_a_shutdown(engine: Engine) {
    let (config, mut console) = config(&Program::default().print(UP).power_off());
    let running = boot(engine, config);
    console.wait_for(UP.trim());
    assert_eq!(running.wait().unwrap(), Exit::Shutdown);
}

/// A guest that reboots does not go on.
pub fn reboot_is_a_reset(engine: Engine) {
    let (config, _console) = config(&Program::default().reset());
    assert_eq!(boot(engine, config).wait().unwrap(), Exit::Reset);
}

/// One VM goes on while another of the same process ends.
pub fn two_vms_live_in_one_process(engine: Engine) {
    let (first, mut first_console) = config(&Program::default().print(UP).idle());
    let (second, mut second_console) = config(&Program::default().print(UP).power_off());
    let first = boot(engine, first);
    let second = boot(engine, VmConfig { cpus: 2, ..second });
    second_console.wait_for(UP.trim());
    assert_eq!(second.wait().unwrap(), Exit::Shutdown);
    first_console.wait_for(UP.trim());
    first.handle().kill();
    assert_eq!(first.wait().unwrap(), Exit::Killed);
}
