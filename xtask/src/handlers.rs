//! Builds every handler of `handlers/` to a component. The bundled ones go to `target/handlers/`, where the host's
//! build script embeds them; the rest go to `target/handlers/examples/` and are uploaded like anybody's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::steps::{Workspace, say};

const TARGET: &str = "wasm32-wasip2";
const PROFILE: &str = "handler";
/// Embedded into the host; every other component is an example.
const BUNDLED: [&str; 3] = ["ontology", "instance", "projection"];

/// Builds and places all components. Files that did not change keep their time, so that the host is not rebuilt.
pub fn build(workspace: &Workspace) -> anyhow::Result<()> {
    let folders = component_folders(&workspace.root.join("handlers"))?;
    let placed = workspace.target.join("handlers");
    fs::create_dir_all(placed.join("examples")).with_context(|| format!("create {}", placed.display()))?;
    if folders.is_empty() {
        bail!("no handler crate in handlers/: the host would have nothing to decide with");
    }
    install_target()?;
    let packages: Vec<String> = folders.iter().map(|folder| format!("carryall-{folder}")).collect();
    let flags = reproducible_flags()?;
    let mut arguments = vec!["build", "--target", TARGET, "--profile", PROFILE, "--config", &flags];
    for package in &packages {
        arguments.extend(["--package", package]);
    }
    workspace.run("build the handlers to wasm", &arguments)?;
    for folder in &folders {
        let file = format!("carryall_{}.wasm", folder.replace('-', "_"));
        let built = workspace.target.join(TARGET).join(PROFILE).join(file);
        let to = if BUNDLED.contains(&folder.as_str()) { placed.clone() } else { placed.join("examples") };
        place(&built, &to.join(format!("{folder}.wasm")))?;
    }
    Ok(())
}

/// Takes the place of cargo's registry out of panic messages. Otherwise a component's digest, under which it is stored
/// and recorded, would depend on whose home folder it was built in.
fn reproducible_flags() -> anyhow::Result<String> {
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => std::env::home_dir().context("there is neither CARGO_HOME nor a home folder")?.join(".cargo"),
    };
    let home = home.to_str().context("the path of cargo's home is no text")?;
    // A literal string of TOML: nothing in it is escaped.
    Ok(format!("target.{TARGET}.rustflags=['--remap-path-prefix={home}=cargo']"))
}

/// Folders of `handlers/` whose crate is a `cdylib`: a component. Others are libraries the components share.
fn component_folders(handlers: &Path) -> anyhow::Result<Vec<String>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(handlers).with_context(|| format!("read {}", handlers.display()))? {
        let entry = entry?;
        let Ok(manifest) = fs::read_to_string(entry.path().join("Cargo.toml")) else { continue };
        if manifest.contains("\"cdylib\"") {
            folders.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    folders.sort();
    Ok(folders)
}

fn place(built: &Path, to: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(built).with_context(|| format!("read {}", built.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::write(to, &bytes).with_context(|| format!("write {}", to.display()))?;
    say(&format!("    {} ({} KiB)", to.display(), bytes.len() / 1024));
    Ok(())
}

/// Installs the wasm target through rustup when the toolchain lacks it.
fn install_target() -> anyhow::Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output().context("ask rustc for its sysroot")?;
    let sysroot = String::from_utf8(sysroot.stdout).context("the sysroot of rustc is no text")?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir() {
        return Ok(());
    }
    say(&format!("==> install the target {TARGET}"));
    let status = Command::new("rustup").args(["target", "add", TARGET]).status().with_context(|| {
        format!("the toolchain lacks {TARGET} and rustup is not here: install rustup, or that target by other means")
    })?;
    if !status.success() {
        bail!("`rustup target add {TARGET}` failed: is there a network? It can be run by hand.");
    }
    Ok(())
}
