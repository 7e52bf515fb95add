//! Components of `tests/abuse`: handlers that do what no handler should.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, anyhow, ensure};

/// A component of `tests/abuse`, built once for each test program. Cargo's own lock keeps programs apart.
pub fn abuse(name: &str) -> anyhow::Result<Vec<u8>> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let folder = folder.as_ref().map_err(|error| anyhow!("{error}"))?;
    let file = folder.join(name).with_extension("wasm");
    std::fs::read(&file).with_context(|| format!("read {}", file.display()))
}

fn build() -> anyhow::Result<PathBuf> {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--target", "wasm32-wasip2", "--profile", "handler"])
        .args(["--package", "carryall-abuse", "--examples"])
        .current_dir(&workspace)
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "the components of tests/abuse do not build: is the wasm target there?");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    Ok(target.join("wasm32-wasip2/handler/examples"))
}
