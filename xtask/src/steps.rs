//! Where the workspace is, and how its cargo is run.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

/// Writes one line for the human who waits. A closed stderr is no reason to stop a build.
pub fn say(line: &str) {
    let mut out = std::io::stderr().lock();
    let _closed = writeln!(out, "{line}");
}

/// The checkout this xtask belongs to.
pub struct Workspace {
    pub root: PathBuf,
    /// Absolute; what every cargo started here is told to use.
    pub target: PathBuf,
    cargo: OsString,
}

impl Workspace {
    pub fn find() -> Workspace {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().expect("xtask is a folder of the workspace").to_owned();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(path) => std::path::absolute(&path).unwrap_or_else(|_| PathBuf::from(path)),
            None => root.join("target"),
        };
        Workspace { root, target, cargo: std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()) }
    }

    pub fn release_binary(&self) -> PathBuf {
        self.target.join("release/carryall")
    }

    pub fn dev_binary(&self) -> PathBuf {
        self.target.join("debug/carryall")
    }

    /// A cargo command in the workspace, with the one target folder.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cargo);
        command.args(arguments).current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// Runs cargo with its output shown; an error names the step.
    pub fn run(&self, step: &str, arguments: &[&str]) -> anyhow::Result<()> {
        say(&format!("==> {step}"));
        let begin = Instant::now();
        let status = self.cargo(arguments).status().with_context(|| format!("{step}: cargo cannot be started"))?;
        if !status.success() {
            bail!("{step} failed (cargo {}: {status})", arguments.join(" "));
        }
        say(&format!("    {step}: {} s", begin.elapsed().as_secs()));
        Ok(())
    }
}
