//! `cargo xtask chaos`: the scenarios of `tests/tests/chaos`, which the tests run for some seconds each, for as long as
//! is asked for. They run one after another on servers of their own, which this stops at the end.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};

use crate::handlers;
use crate::services::Services;
use crate::steps::{Workspace, say};

/// How long each scenario goes on, unless it is said.
const SECONDS: u64 = 30;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    seed: Option<u64>,
    seconds: u64,
    /// Parts of the names of scenarios; all of them when there is none.
    scenarios: Vec<String>,
}

impl Request {
    /// `--seed S --seconds N SCENARIO…`.
    pub fn parse(arguments: &[&str]) -> anyhow::Result<Request> {
        let mut request = Request { seed: None, seconds: SECONDS, scenarios: Vec::new() };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut number = || -> anyhow::Result<u64> {
                let value = rest.next().with_context(|| format!("{argument} wants a number"))?;
                value.parse().with_context(|| format!("{argument} {value}"))
            };
            match *argument {
                "--seed" => request.seed = Some(number()?),
                "--seconds" => request.seconds = number()?,
                other if other.starts_with('-') => bail!("unknown option {other}"),
                scenario => request.scenarios.push(scenario.to_owned()),
            }
        }
        Ok(request)
    }
}

pub fn run(workspace: &Workspace, request: &Request) -> anyhow::Result<()> {
    handlers::build(workspace)?;
    workspace.run("build the host and all tests", &["build", "--workspace", "--all-targets", "--locked"])?;
    let seed = request.seed.map_or_else(fresh_seed, Ok)?;
    say(&format!("==> chaos: {} s a scenario, --seed {seed}", request.seconds));
    let mut command = workspace.cargo(&["test", "--workspace", "--locked", "--test", "chaos", "--"]);
    command.args(["--nocapture", "--test-threads=1"]).args(&request.scenarios);
    command
        .env("CARRYALL_BIN", workspace.dev_binary())
        .env("CARRYALL_COMPONENTS", workspace.target.join("handlers"))
        .env("CARRYALL_CHAOS_SEED", seed.to_string())
        .env("CARRYALL_CHAOS_SECONDS", request.seconds.to_string());
    let status = command.status().context("cargo cannot be started");
    let stopped = Services::of_chaos(workspace).and_then(|chaos| chaos.down_all());
    if !status?.success() {
        bail!("a scenario failed; repeat it with `cargo xtask chaos --seed {seed} --seconds {} NAME`", request.seconds);
    }
    stopped
}

#[allow(clippy::disallowed_methods)] // Another seed in each run; it is shown, so that the run can be repeated.
fn fresh_seed() -> anyhow::Result<u64> {
    Ok(u64::from(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?.subsec_nanos()))
}

#[cfg(test)]
mod tests;
