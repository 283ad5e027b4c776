//! Builds the runtime, which the wheel carries inside the extension module.
//!
//! It is freestanding and must not share flags with the rest, so it is built by a Cargo of its own, into a folder of
//! its own, always in the release profile.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let crates = manifest.parent().expect("crates/py has a parent");
    for path in ["runtime", "client"] {
        println!("cargo:rerun-if-changed={}", crates.join(path).display());
    }
    println!("cargo:rerun-if-changed=build.rs");

    let target_dir = out.join("runtime");
    let cargo = std::env::var_os("CARGO").expect("cargo sets it");
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "megalith-runtime",
            "--bin",
            "megalith-runtime",
        ])
        .arg("--manifest-path")
        .arg(crates.join("runtime/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        // What the outer build sets for itself is not for the runtime.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .status()
        .expect("cargo starts");
    assert!(status.success(), "building the runtime: {status}");
    let image = target_dir.join("release/megalith-runtime");
    println!("cargo:rustc-env=MEGALITH_RUNTIME_IMAGE={}", image.display());
}
