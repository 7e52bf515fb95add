//! `cargo xtask peers`: the workload `orders` of the release binary, and beside it, in turns on the same disk, the same
//! writes by others: a plain PostgreSQL (the floor of an event store on a database), and event-sourcing libraries and
//! servers that package registries have. Their programs lie under `xtask/peers/`; what they need is installed under
//! `target/peers/` by pip, npm and cargo. A peer that fails is named at the end, and the command fails; others go on.

mod install;
mod load;
mod postgres;
mod program;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::services::Services;
use crate::steps::{Workspace, say};
use postgres::{Postgres, Writes};
use program::Program;

/// Clients of each level, and how many commands of ours a turn has: about four seconds.
const LEVELS: [(usize, &str); 3] = [(1, "1500"), (16, "8000"), (128, "16000")];
/// Turns of each level; the medians count.
const TURNS: usize = 3;
/// How long a turn of a peer is measured.
const MEASURED: Duration = Duration::from_secs(4);

/// What one turn shows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    commands_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// User and system time for 10,000 commands: of a server with its database, or of a library with its driver and
    /// its database.
    cpu_seconds_per_10k: f64,
}

/// Commands of one turn, without what they cost.
#[derive(Debug, Clone, Copy)]
struct Measured {
    commands: f64,
    seconds: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Measured {
    fn with_cpu(self, seconds: f64) -> anyhow::Result<Figures> {
        ensure!(self.commands > 0.0, "not one command was carried out");
        Ok(Figures {
            commands_per_second: self.commands / self.seconds,
            p50_ms: self.p50_ms,
            p99_ms: self.p99_ms,
            cpu_seconds_per_10k: seconds / self.commands * 10_000.0,
        })
    }
}

/// One line of a level.
struct Contender {
    /// What `--only` calls it, together with its variants.
    peer: &'static str,
    title: &'static str,
    how: How,
}

enum How {
    Pgbench(Writes),
    Program(&'static install::Kit, program::Mode),
    Ours(&'static [&'static str]),
}

const CONTENDERS: [Contender; 10] = [
    Contender { peer: "postgresql", title: "PostgreSQL, an insert", how: How::Pgbench(Writes::Insert) },
    Contender {
        peer: "postgresql",
        title: "PostgreSQL, an insert and a row of a view",
        how: How::Pgbench(Writes::InsertAndView),
    },
    Contender {
        peer: "eventsourcing",
        title: "eventsourcing, two processes",
        how: How::Program(&install::EVENTSOURCING, program::Mode::Plain),
    },
    Contender { peer: "cqrs-es", title: "cqrs-es", how: How::Program(&install::CQRS_ES, program::Mode::Plain) },
    Contender {
        peer: "cqrs-es",
        title: "cqrs-es and a view",
        how: How::Program(&install::CQRS_ES, program::Mode::View),
    },
    Contender { peer: "emmett", title: "Emmett over HTTP", how: How::Program(&install::EMMETT, program::Mode::Plain) },
    Contender {
        peer: "emmett",
        title: "Emmett over HTTP and a Pongo view",
        how: How::Program(&install::EMMETT, program::Mode::View),
    },
    Contender {
        peer: "restate",
        title: "Restate over HTTP",
        how: How::Program(&install::RESTATE, program::Mode::Plain),
    },
    Contender { peer: "carryall", title: "Carryall, command and status", how: How::Ours(&[]) },
    Contender { peer: "carryall", title: "Carryall, one request that waits", how: How::Ours(&["--one-request"]) },
];

/// What the command line asks for.
pub struct Request {
    contenders: Vec<&'static Contender>,
    levels: Vec<(usize, &'static str)>,
    /// The host to measure; without it, one is built.
    binary: Option<PathBuf>,
}

impl Request {
    /// `--only NAME,…`: those peers (ours always is beside them); `--clients N,…`: those levels; `--binary FILE`.
    pub fn parse(arguments: &[&str]) -> anyhow::Result<Request> {
        let mut request = Request { contenders: CONTENDERS.iter().collect(), levels: LEVELS.to_vec(), binary: None };
        for pair in arguments.chunks(2) {
            match pair {
                ["--only", names] => {
                    let names: Vec<&str> = names.split(',').collect();
                    for name in &names {
                        let known = CONTENDERS.iter().any(|contender| contender.peer == *name);
                        ensure!(known, "no such peer: {name}; there are {}", peers().join(", "));
                    }
                    request.contenders.retain(|one| one.peer == "carryall" || names.contains(&one.peer));
                }
                ["--clients", levels] => {
                    let wanted = levels.split(',').map(|level| level.parse().context("--clients N,…"));
                    let wanted: Vec<usize> = wanted.collect::<anyhow::Result<_>>()?;
                    let known = |level: &usize| LEVELS.iter().any(|(clients, _)| clients == level);
                    ensure!(wanted.iter().all(known), "there are levels of 1, 16 and 128 clients");
                    request.levels.retain(|(clients, _)| wanted.contains(clients));
                }
                ["--binary", file] => request.binary = Some(std::path::absolute(file).context("--binary FILE")?),
                other => bail!("peers [--only NAME,…] [--clients N,…] [--binary FILE], not {}", other.join(" ")),
            }
        }
        Ok(request)
    }
}

/// The names that `--only` knows.
fn peers() -> Vec<&'static str> {
    let mut names: Vec<&str> = CONTENDERS.iter().map(|contender| contender.peer).collect();
    names.dedup();
    names
}

/// Why a peer has no figures, by its name.
type Failed = BTreeMap<&'static str, String>;

pub fn run(workspace: &Workspace, request: &Request) -> anyhow::Result<()> {
    let binary = match &request.binary {
        Some(file) => file.clone(),
        None => {
            crate::build(workspace)?;
            workspace.release_binary()
        }
    };
    let mut failed = Failed::new();
    let mut programs = BTreeMap::new();
    for contender in &request.contenders {
        let How::Program(kit, _) = contender.how else { continue };
        if programs.contains_key(kit.name) || failed.contains_key(contender.peer) {
            continue;
        }
        match kit.install(workspace) {
            Ok(program) => {
                programs.insert(kit.name, program);
            }
            Err(error) => fail(&mut failed, contender.peer, &error),
        }
    }
    let services = Services::of_peers(workspace)?;
    let compared = services.postgres().and_then(|(folder, url, pid)| {
        let field = Field { workspace, binary, programs, postgres: Postgres::new(workspace, folder, url, pid)? };
        field.compare(request, &mut failed);
        Ok(())
    });
    compared.and(services.down_all())?;
    let failed: Vec<String> = failed.into_iter().map(|(peer, why)| format!("{peer}: {why}")).collect();
    ensure!(failed.is_empty(), "peers that have no figures:\n{}", failed.join("\n"));
    Ok(())
}

fn fail(failed: &mut Failed, peer: &'static str, error: &anyhow::Error) {
    say(&format!("{peer} FAILED, and is left out from here on: {error:#}"));
    failed.insert(peer, format!("{error:#}"));
}

/// All that contends.
struct Field<'a> {
    workspace: &'a Workspace,
    binary: PathBuf,
    programs: BTreeMap<&'static str, install::Installed>,
    postgres: Postgres,
}

impl Field<'_> {
    fn compare(&self, request: &Request, failed: &mut Failed) {
        say("| clients | | commands/s | p50/p99 ms | CPU s/10,000 |\n|---|---|---|---|---|");
        for (clients, commands) in &request.levels {
            let mut turns: Vec<Vec<Figures>> = request.contenders.iter().map(|_| Vec::new()).collect();
            for _ in 0..TURNS {
                for (contender, figures) in request.contenders.iter().zip(&mut turns) {
                    if failed.contains_key(contender.peer) {
                        continue;
                    }
                    match self.turn(&contender.how, *clients, commands) {
                        Ok(turn) => figures.push(turn),
                        Err(error) => fail(failed, contender.peer, &error),
                    }
                }
            }
            for (contender, figures) in request.contenders.iter().zip(&mut turns) {
                if let (Some(median), false) = (median(figures), failed.contains_key(contender.peer)) {
                    say(&row(*clients, contender.title, median));
                }
            }
        }
    }

    fn turn(&self, how: &How, clients: usize, commands: &str) -> anyhow::Result<Figures> {
        self.postgres.settle()?;
        match how {
            How::Pgbench(writes) => self.postgres.bench(*writes, clients, MEASURED),
            How::Program(kit, mode) => {
                let installed = self.programs.get(kit.name).context("it is not installed")?;
                Program::start(installed, *mode, clients, MEASURED, &self.postgres)?.measure(clients, MEASURED)
            }
            How::Ours(more) => self.ours(clients, commands, more),
        }
    }

    fn ours(&self, clients: usize, commands: &str, more: &[&str]) -> anyhow::Result<Figures> {
        let clients = clients.to_string();
        let folder = self.workspace.target.to_str().context("the path of the target folder is no text")?;
        let mut bench = Command::new(&self.binary);
        bench.args(["bench", "--json", "--concurrency", &clients, "--commands", commands, "--folder", folder]);
        let report: Value = serde_json::from_str(&said(bench.args(more))?).context("the report is no JSON")?;
        let level = &report["levels"][0];
        let figure = |name: &str| level.pointer(name).and_then(Value::as_f64).with_context(|| format!("no {name}"));
        Ok(Figures {
            commands_per_second: figure("/commands_per_second")?,
            p50_ms: figure("/completed_ms/p50")?,
            p99_ms: figure("/completed_ms/p99")?,
            cpu_seconds_per_10k: figure("/host_cpu_seconds_per_10k")?,
        })
    }
}

/// The turn of the median rate.
fn median(turns: &mut [Figures]) -> Option<Figures> {
    turns.sort_by(|one, other| one.commands_per_second.total_cmp(&other.commands_per_second));
    turns.get(turns.len() / 2).copied()
}

fn row(clients: usize, title: &str, figures: Figures) -> String {
    let Figures { commands_per_second, p50_ms, p99_ms, cpu_seconds_per_10k } = figures;
    format!("| {clients} | {title} | {commands_per_second:.0} | {p50_ms:.1} / {p99_ms:.1} | {cpu_seconds_per_10k:.2} |")
}

/// Of latencies in microseconds: half and 99% of the commands took at most so many milliseconds.
fn percentiles(mut micros: Vec<u64>) -> (f64, f64) {
    micros.sort_unstable();
    let at = |share: f64| {
        let rank = (share * micros.len() as f64).ceil() as usize;
        micros.get(rank.max(1) - 1).map_or(0.0, |us| *us as f64 / 1000.0)
    };
    (at(0.50), at(0.99))
}

/// What a program prints.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{:?} ended with {}: {error}", command.get_program(), output.status);
    Ok(out.into_owned())
}
