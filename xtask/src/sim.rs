//! `cargo xtask sim`: runs the deterministic simulation (`docs/simulation.md`) over as many seeds as are asked for.

use anyhow::{Context as _, bail};

use crate::steps::{Workspace, say};

/// The test that runs seeds.
const TEST: &str = "simulation::seeds::no_seed_breaks_an_invariant";
/// From here on it pays to build for release first.
const SEEDS_OPTIMISED: u64 = 20_000;

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    seed: u64,
    seeds: Option<u64>,
    threads: Option<u64>,
    tail: Option<u64>,
}

impl Request {
    /// `--seeds N --seed S --threads T --tail CALLS`; one seed when only the seed is given.
    pub fn parse(arguments: &[&str]) -> anyhow::Result<Request> {
        let mut request = Request::default();
        let mut one = false;
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { bail!("{} wants a number", pair[0]) };
            let number: u64 = value.parse().with_context(|| format!("{name} {value}"))?;
            match *name {
                "--seed" => (request.seed, one) = (number, true),
                "--seeds" => request.seeds = Some(number),
                "--threads" => request.threads = Some(number),
                "--tail" => request.tail = Some(number),
                other => bail!("unknown option {other}"),
            }
        }
        if one && request.seeds.is_none() {
            request.seeds = Some(1);
        }
        Ok(request)
    }
}

pub fn run(workspace: &Workspace, request: &Request) -> anyhow::Result<()> {
    let seeds = request.seeds.unwrap_or(2_000);
    say(&format!("==> simulate {seeds} seeds from {}", request.seed));
    let mut command = workspace.cargo(&["test", "--package", "carryall", "--lib", "--locked"]);
    if seeds >= SEEDS_OPTIMISED {
        command.arg("--release");
    }
    command.args(["--", "--exact", TEST, "--nocapture"]);
    command.env("CARRYALL_SIM_SEED", request.seed.to_string()).env("CARRYALL_SIM_SEEDS", seeds.to_string());
    for (name, value) in [("CARRYALL_SIM_THREADS", request.threads), ("CARRYALL_SIM_TAIL", request.tail)] {
        if let Some(value) = value {
            command.env(name, value.to_string());
        }
    }
    let status = command.status().context("cargo cannot be started")?;
    if !status.success() {
        bail!("an invariant is broken ({status}); repeat one seed with `cargo xtask sim --seed S --tail 1000`");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
