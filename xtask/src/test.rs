//! `cargo xtask test`: everything that must hold before a change is merged, in the order of what fails fastest. One
//! profile and one set of features for all host-side steps, so that each dependency is compiled once for checking and
//! once for running. The tests run on real servers: those the environment names, else ones that are started here and
//! stopped at the end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use anyhow::{Context as _, anyhow, bail};

use crate::handlers;
use crate::services::Services;
use crate::steps::{Workspace, say};

#[cfg(test)]
mod tests;

pub fn run(workspace: &Workspace) -> anyhow::Result<()> {
    workspace.run("check the format", &["fmt", "--all", "--check"])?;
    let services = Services::of(workspace)?;
    std::thread::scope(|scope| {
        // MinIO's first build is minutes of one core: beside cargo's.
        let servers = scope.spawn(|| services.for_tests());
        let built = build(workspace);
        let servers = servers.join().map_err(|_| anyhow!("the thread that starts the servers panicked"))?;
        let servers = servers.context("the servers that the tests run on cannot be had")?;
        let tested = built.and_then(|()| tests(workspace, &services.variables()));
        // The chaos scenarios started some of their own.
        let stopped = servers.stop().and(Services::of_chaos(workspace).and_then(|chaos| chaos.down_all()));
        tested.and(stopped)
    })
}

fn build(workspace: &Workspace) -> anyhow::Result<()> {
    handlers::build(workspace)?;
    workspace.run("lint", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    // With --all-targets the features of dependencies are the ones the tests use: nothing is compiled twice, and the
    // binary the black-box tests start is this one.
    workspace.run("build the host and all tests", &["build", "--workspace", "--all-targets", "--locked"])
}

/// What cargo's summary lines add up to.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Takes `test result: ok. 3 passed; 0 failed; 0 ignored; …` into account, and nothing else.
    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = rest.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Runs all tests and shows their output as it comes, then the sum.
fn tests(workspace: &Workspace, servers: &[(&str, String)]) -> anyhow::Result<()> {
    say("==> run all tests");
    let mut child = workspace
        .cargo(&["test", "--workspace", "--locked", "--no-fail-fast"])
        .env("CARRYALL_BIN", workspace.dev_binary())
        .env("CARRYALL_COMPONENTS", workspace.target.join("handlers"))
        .envs(servers.iter().filter(|(name, _)| std::env::var_os(name).is_none()).map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let mut tally = Tally::default();
    let output = child.stdout.take().context("cargo test has no output to read")?;
    let mut shown = std::io::stdout().lock();
    for line in BufReader::new(output).lines() {
        let line = line.context("read the output of cargo test")?;
        tally.add(&line);
        writeln!(shown, "{line}").context("show the output of cargo test")?;
    }
    let status = child.wait().context("wait for cargo test")?;
    writeln!(shown, "\nall tests: {} passed, {} failed", tally.passed, tally.failed)?;
    if !status.success() || tally.failed > 0 {
        bail!("tests failed ({status})");
    }
    if tally.ignored > 0 {
        bail!("{} tests are ignored: a test that is not run proves nothing", tally.ignored);
    }
    if tally.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}
