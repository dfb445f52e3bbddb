# `make help` says what there is. Everything is also reachable by hand: cargo builds, rootfs/build, kernel/build, .ci/*.
target := $(or $(CARGO_TARGET_DIR),target)
vmm := $(abspath $(target)/release/vmm)

.PHONY: help demo build image ready kernel test lint setup clean
help:
	@echo "make demo     set everything up, boot a VM, let the agent in it answer"
	@echo "make build    the vmm binary: $(target)/release/vmm"
	@echo "make image    the default root image, if it is missing"
	@echo "make kernel   rebuild the guest kernel from source (10 minutes; a built one is in the repository)"
	@echo "make test     unit tests, then whole-system tests in both engines"
	@echo "make lint     format, clippy, dependency rules"
	@echo "make clean    what cargo built; images and downloads stay in ~/.cache/vmm"

setup:
	@.ci/setup

build: setup
	cargo build --release --locked --bin vmm

image: setup
	@rootfs/build

ready: setup
	@.ci/ready

demo: ready
	@.ci/demo $(vmm)

kernel:
	@.ci/setup kernel
	@kernel/build

test: ready
	@.ci/test $(vmm)

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --locked -p system-tests --test system -- -D warnings
	cargo fmt --manifest-path tests/fs-reference/Cargo.toml --check
	tests/fs-reference/cargo clippy --all-targets -- -D warnings
	cargo test -q --locked -p system-tests --test dependency_rules

clean:
	cargo clean
