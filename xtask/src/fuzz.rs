//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer, with the compiler of the workspace. cargo-fuzz wants a
//! nightly one for its sanitizers; safe Rust is searched for panics, and that needs coverage only, which is stable.
//! The project's own crates are compiled with it, everything else is taken from the workspace as it is compiled.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

use crate::steps::{Workspace, say};

/// Set where this program stands in for the compiler.
const COMPILER: &str = "CARRYALL_XTASK_COMPILES";
/// What makes the compiler count which branches are taken, as libFuzzer wants it.
const COVERAGE: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
const SECONDS: u64 = 60;

/// A target, and for how long.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    target: &'a str,
    seconds: u64,
}

impl<'a> Request<'a> {
    /// `TARGET [--seconds N]`.
    pub fn parse(arguments: &[&'a str]) -> anyhow::Result<Request<'a>> {
        match arguments {
            [target] => Ok(Request { target, seconds: SECONDS }),
            [target, "--seconds", number] => {
                Ok(Request { target, seconds: number.parse().with_context(|| format!("--seconds {number}"))? })
            }
            _ => bail!("cargo xtask fuzz TARGET [--seconds N]; the targets are the folders of fuzz/seeds"),
        }
    }
}

/// Builds the targets, and runs one on its seeds and on what it finds.
pub fn run(workspace: &Workspace, request: &Request<'_>) -> anyhow::Result<()> {
    let folder = workspace.root.join("fuzz");
    let seeds = folder.join("seeds").join(request.target);
    anyhow::ensure!(seeds.is_dir(), "there is no target {}", request.target);
    // The versions of the workspace; the fuzzer itself is added.
    std::fs::copy(workspace.root.join("Cargo.lock"), folder.join("Cargo.lock")).context("copy Cargo.lock")?;
    say("==> build the fuzz targets");
    let mut build = workspace.cargo(&["build", "--bins"]);
    build.current_dir(&folder).env("RUSTC_WRAPPER", std::env::current_exe()?).env(COMPILER, "1");
    if !build.status().context("cargo cannot be started")?.success() {
        bail!("the fuzz targets do not build");
    }
    let made = |name: &str| -> anyhow::Result<OsString> {
        let path = folder.join(name).join(request.target);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path.into_os_string())
    };
    let (corpus, mut artifacts) = (made("corpus")?, made("artifacts")?);
    artifacts.push("/");
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(&artifacts);
    let mut fuzz = Command::new(workspace.target.join("debug").join(request.target));
    fuzz.arg(prefix).arg(format!("-max_total_time={}", request.seconds)).arg("-print_final_stats=1");
    let status = fuzz.arg(corpus).arg(seeds).status().context("start the target")?;
    if !status.success() {
        bail!("{} breaks ({status}); the input is in {}", request.target, Path::new(&artifacts).display());
    }
    Ok(())
}

/// Whether cargo called this program in the compiler's place; then how that ended. The arguments are the compiler and
/// its own.
pub fn compile() -> Option<ExitCode> {
    std::env::var_os(COMPILER)?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (compiler, arguments) = arguments.split_first()?;
    let mut command = Command::new(compiler);
    command.args(arguments);
    if is_ours(arguments) {
        command.args(COVERAGE);
    }
    match command.status() {
        Ok(status) if status.success() => Some(ExitCode::SUCCESS),
        Ok(_) => Some(ExitCode::FAILURE),
        Err(error) => {
            say(&format!("{}: {error}", Path::new(compiler).display()));
            Some(ExitCode::FAILURE)
        }
    }
}

/// Whether a crate is the host or a target.
fn is_ours(arguments: &[OsString]) -> bool {
    let name = arguments.windows(2).find(|pair| pair[0] == "--crate-name").map(|pair| &pair[1]);
    let is_target = arguments.iter().any(|argument| argument.to_string_lossy().starts_with("fuzz_targets/"));
    is_target || name.is_some_and(|name| name == "carryall")
}

#[cfg(test)]
mod tests;
