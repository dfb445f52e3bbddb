//! Prints which engines can be used here, and why.

fn main() {
    let found = vmm::probe();
    println!("kvm:  {} [{:.1?}]", found.kvm, found.kvm.took);
    println!("qemu: {}", found.qemu);
    match found.qemu.version() {
        Ok(version) => println!("      {version}"),
        Err(error) => println!("      no version: {error}"),
    }
}
