//! What the programs of peers need, from package registries by their ordinary clients: a virtual environment with pip,
//! `npm install`, `cargo build`. The sources are copied to `target/peers/<name>/` first, so that nothing is installed
//! into the tree. Idempotent, and quick when everything is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;

use super::said;
use crate::steps::{Workspace, say};

/// The sources of a peer's program, and how they become one.
pub struct Kit {
    /// Its folder under `xtask/peers/`.
    pub name: &'static str,
    language: Language,
    pub driver: Driver,
    pub database: Database,
}

#[derive(Debug, Clone, Copy)]
enum Language {
    Python,
    JavaScript,
    Rust,
}

/// Who sends the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The program itself, since what it shows is a library.
    InProcess,
    /// This one, over HTTP.
    OverHttp,
}

/// Where a peer keeps its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Postgres,
    /// In files of its own server.
    Own,
}

pub static EVENTSOURCING: Kit =
    Kit { name: "eventsourcing", language: Language::Python, driver: Driver::InProcess, database: Database::Postgres };
pub static CQRS_ES: Kit =
    Kit { name: "cqrs-es", language: Language::Rust, driver: Driver::InProcess, database: Database::Postgres };
pub static EMMETT: Kit =
    Kit { name: "emmett", language: Language::JavaScript, driver: Driver::OverHttp, database: Database::Postgres };
pub static RESTATE: Kit =
    Kit { name: "restate", language: Language::JavaScript, driver: Driver::OverHttp, database: Database::Own };

/// A program that can be started.
pub struct Installed {
    pub kit: &'static Kit,
    pub folder: PathBuf,
    program: PathBuf,
    script: Option<&'static str>,
}

impl Installed {
    /// Without the arguments of a turn.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.script).current_dir(&self.folder);
        command
    }
}

impl Kit {
    pub fn install(&'static self, workspace: &Workspace) -> anyhow::Result<Installed> {
        say(&format!("==> install the peer {}", self.name));
        let begin = Instant::now();
        let folder = workspace.target.join("peers").join(self.name);
        copy(&workspace.root.join("xtask/peers").join(self.name), &folder)?;
        let (program, script) = match self.language {
            Language::Python => (python(&folder)?, Some("bench.py")),
            Language::JavaScript => (node(&folder)?, Some("server.mjs")),
            Language::Rust => (rust(workspace, &folder)?, None),
        };
        say(&format!("    {}: {} s", self.name, begin.elapsed().as_secs()));
        Ok(Installed { kit: self, folder, program, script })
    }
}

fn python(folder: &Path) -> anyhow::Result<PathBuf> {
    let python = folder.join("venv/bin/python");
    if !python.is_file() {
        said(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv"))).context("python3 -m venv")?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--quiet", "-r", "requirements.txt"]);
    said(pip.current_dir(folder)).context("pip install")?;
    Ok(python)
}

/// Scripts of packages are not run: none that is needed has one.
fn node(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut npm = Command::new("npm");
    npm.args([
        "install",
        "--no-package-lock",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
        "--loglevel=error",
    ]);
    said(npm.current_dir(folder)).context("npm install")?;
    Ok(PathBuf::from("node"))
}

fn rust(workspace: &Workspace, folder: &Path) -> anyhow::Result<PathBuf> {
    let target = folder.join("target");
    let mut cargo = workspace.cargo(&["build", "--release", "--quiet"]);
    said(cargo.current_dir(folder).env("CARGO_TARGET_DIR", &target)).context("cargo build")?;
    Ok(target.join("release/cqrs-es-peer"))
}

/// Files that did not change are left alone, so that nothing is built again for them.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
            continue;
        }
        let text = fs::read(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
        if fs::read(&target).ok().as_ref() != Some(&text) {
            fs::write(&target, text).with_context(|| format!("write {}", target.display()))?;
        }
    }
    Ok(())
}
