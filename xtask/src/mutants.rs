//! `cargo xtask mutants`: shows that the simulation has teeth. In a copy of the source every mutation of the table is
//! compiled in behind a switch; then each is switched on alone and must break an invariant within so many seeds. The
//! project's own source holds no switch.

mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::steps::{Workspace, say};
use table::MUTATIONS;

/// Seeds that a mutation may take to be noticed.
const SEEDS: &str = "3000";
/// Gives the packages of the copy a version of their own: what cargo builds for them lies beside what it builds for the
/// workspace, which shares its compiled dependencies.
const MANIFEST: &str = "Cargo.toml";
const VERSION: (&str, &str) = ("\nversion = \"0.1.0\"\n", "\nversion = \"0.1.0-mutants\"\n");
/// Where the switch is.
const LIBRARY: &str = "host/src/lib.rs";
/// Turns a mutation on, in the copy.
const SWITCH: &str = "
/// Whether this mutation is switched on.
pub fn mutant(name: &str) -> bool {
    static ON: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var(\"CARRYALL_MUTANT\").ok());
    ON.as_deref() == Some(name)
}
";

/// Builds the copy and tries the mutations, all or those named.
pub fn run(workspace: &Workspace, only: &[&str]) -> anyhow::Result<()> {
    if let Some(unknown) = only.iter().find(|name| MUTATIONS.iter().all(|mutation| mutation.name != **name)) {
        bail!("there is no mutation {unknown}");
    }
    let source = workspace.target.join("mutants");
    copy(workspace, &source)?;
    // The tests look for the handlers where the workspace has them.
    let target = source.join("target");
    if !target.exists() {
        std::os::unix::fs::symlink(&workspace.target, &target).context("link the target folder")?;
    }
    let cargo = |mutation: &str| {
        let mut command = workspace.cargo(&["test", "--package", "carryall", "--lib", "--offline", "--", "--exact"]);
        command.current_dir(&source).arg("simulation::seeds::no_seed_breaks_an_invariant").arg("--nocapture");
        command.env("CARRYALL_MUTANT", mutation).env("CARRYALL_SIM_SEEDS", SEEDS).env("CARRYALL_SIM_FIRST", "1");
        command
    };
    say("==> build the copy, and run it with nothing switched on");
    let status = cargo("none").env("CARRYALL_SIM_SEEDS", "100").status().context("cargo cannot be started")?;
    if !status.success() {
        bail!("the copy breaks an invariant without any mutation");
    }
    let mut missed = Vec::new();
    for mutation in MUTATIONS.iter().filter(|mutation| only.is_empty() || only.contains(&mutation.name)) {
        let output = cargo(mutation.name).output().context("cargo cannot be started")?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        match told.lines().find(|line| line.starts_with("seed ")) {
            Some(line) => say(&format!("{:<28} {line}", mutation.name)),
            None => {
                say(&format!("{:<28} NOT NOTICED: {}", mutation.name, mutation.story));
                missed.push(mutation.name);
            }
        }
    }
    if missed.is_empty() { Ok(()) } else { bail!("not noticed: {}", missed.join(", ")) }
}

/// Copies what version control knows or would take, broken as the table says. What is there already keeps its time, so
/// that it is not compiled again.
fn copy(workspace: &Workspace, to: &Path) -> anyhow::Result<()> {
    let mut broken = broken(&workspace.root)?;
    let listing = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let listed = Command::new("git").args(listing).current_dir(&workspace.root).output().context("git ls-files")?;
    for path in String::from_utf8(listed.stdout)?.lines() {
        let bytes = match broken.remove(path) {
            Some(text) => text.into_bytes(),
            // Known, and deleted since.
            None => match std::fs::read(workspace.root.join(path)) {
                Ok(bytes) => bytes,
                Err(_) => continue,
            },
        };
        let target = to.join(path);
        if std::fs::read(&target).is_ok_and(|there| there == bytes) {
            continue;
        }
        std::fs::create_dir_all(target.parent().context("a file has a folder")?)?;
        std::fs::write(&target, bytes).with_context(|| format!("copy {path}"))?;
    }
    anyhow::ensure!(broken.is_empty(), "not under version control: {:?}", broken.keys());
    Ok(())
}

/// The files that differ in the copy, by path: they hold mutations, their switch, or the version.
fn broken(root: &Path) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    let manifest = read(MANIFEST)?;
    let (version, of_copy) = VERSION;
    anyhow::ensure!(manifest.matches(version).count() == 1, "{MANIFEST} has another version than {version:?}");
    let mut files =
        BTreeMap::from([(LIBRARY, read(LIBRARY)? + SWITCH), (MANIFEST, manifest.replace(version, of_copy))]);
    for mutation in MUTATIONS {
        let text = match files.remove(mutation.file) {
            Some(text) => text,
            None => read(mutation.file)?,
        };
        if text.matches(mutation.find).count() != 1 {
            bail!("{}: {} does not hold once: {}", mutation.name, mutation.file, mutation.find);
        }
        let switch = format!("crate::mutant(\"{}\")", mutation.name);
        files.insert(mutation.file, text.replace(mutation.find, &mutation.replace.replace("MUTANT", &switch)));
    }
    Ok(files)
}
