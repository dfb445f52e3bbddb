//! Builds what the `vmm` binary carries: the guest agent, packed as an initramfs, and the hashes of both.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

#[path = "build/cpio.rs"]
mod cpio;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let root = here.join("../..");

    let agent = build_agent(&root, &out);
    let initramfs = cpio::archive(&[cpio::Entry { name: "init", mode: 0o100_755, content: &read(&agent) }]);
    println!("cargo::rustc-env=VMM_INITRAMFS_HASH={}", hash(&initramfs));
    fs::write(out.join("initramfs.cpio"), initramfs).expect("OUT_DIR is writable");

    let kernel = root.join("kernel/prebuilt/vmlinux.zst");
    println!("cargo::rerun-if-changed={}", kernel.display());
    println!("cargo::rustc-env=VMM_KERNEL_ZST={}", kernel.display());
    println!("cargo::rustc-env=VMM_KERNEL_HASH={}", hash(&read(&kernel)));
}

fn hash(contents: &[u8]) -> String {
    Sha256::digest(contents).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A static binary, whatever flags the outer build uses: the guest has no C library before its root is mounted.
fn build_agent(root: &Path, out: &Path) -> PathBuf {
    for source in ["guest-agent/src", "guest-agent/Cargo.toml", "guest-agent/protocol", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let target = out.join("agent");
    let status = Command::new(env::var_os("CARGO").expect("cargo sets it"))
        .args(["build", "--quiet", "--profile", "agent", "--target", TARGET, "--manifest-path"])
        .arg(root.join("guest-agent/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the guest agent does not build");
    target.join(TARGET).join("agent/guest-agent")
}
