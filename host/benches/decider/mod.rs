//! What the benchmarks call: the component of `tests/abuse`, example `decider`, and a message for it. The crate has the
//! same code to be called natively.

use std::path::PathBuf;
use std::process::Command as Process;

/// Builds the component.
pub fn component() -> Vec<u8> {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Process::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--target", "wasm32-wasip2", "--profile", "handler"])
        .args(["--package", "carryall-abuse", "--example", "decider"])
        .current_dir(&workspace)
        .status()
        .unwrap();
    assert!(status.success(), "the component does not build: is the wasm target there (`cargo xtask handlers`)?");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    std::fs::read(target.join("wasm32-wasip2/handler/examples/decider.wasm")).unwrap()
}

/// About 1 KiB.
pub fn payload() -> String {
    let tags: Vec<String> = (0..24).map(|index| format!("\"tag-number-{index:04}\"")).collect();
    format!("{{\"amount\":5,\"note\":\"{}\",\"tags\":[{}]}}", "lorem ipsum ".repeat(44), tags.join(","))
}
