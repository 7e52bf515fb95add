//! The command line: what an operator types, and what it answers. Speaks HTTP to a running host like any client, except
//! for the commands that start one or work on a data folder at rest.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong use. Results go to stdout, everything else to stderr.

mod bench;
mod check;
mod claims;
mod commands;
mod config;
mod dead_letters;
mod dev;
mod events;
mod handlers;
mod http;
mod output;
mod overrides;
mod rebuild;
mod remote;
mod serve;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::Output;
use overrides::Overrides;

/// An event-sourcing and CQRS host whose domain logic is WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "carryall", version, propagate_version = true, subcommand_required = true)]
struct Arguments {
    /// Print results as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a host until it is told to stop.
    Serve(Overrides),
    /// Print the effective configuration, secrets masked, and where each value comes from.
    Config(Overrides),
    /// Send commands.
    #[command(subcommand)]
    Commands(commands::Action),
    /// Read the event log of a running host.
    #[command(subcommand)]
    Events(events::Action),
    /// Write, check and deploy handler components.
    #[command(subcommand)]
    Handlers(handlers::Action),
    /// What no retry could handle, and what to do with it.
    #[command(subcommand)]
    DeadLetters(dead_letters::Action),
    /// Who handles which event, and what is kept of it.
    #[command(subcommand)]
    Claims(claims::Action),
    /// Check the log of a data folder at rest: chain, numbers, ids, and the index against it.
    Verify(Overrides),
    /// Hold a data folder at rest against the six invariants: read model, idempotency, order, composition, determinism.
    Check(check::Check),
    /// Delete everything derived of a data folder at rest, and make it again from the log.
    Rebuild(Overrides),
    /// Run a host, and deploy a handler crate whenever its component changes.
    Dev(dev::Dev),
    /// Measure what this machine reaches, as a client sees it.
    Bench(bench::Bench),
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The arguments or the configuration are wrong: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Everything else: exit code 1.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Failed(error.into())
    }
}

impl From<crate::config::Refused> for Failure {
    fn from(refused: crate::config::Refused) -> Self {
        Failure::Usage(refused.to_string())
    }
}

/// Whether what was asked for came true. A command that ends `FAILED` was sent and answered, and is still a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Well,
    Badly,
}

/// Runs the program and gives its exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE };
        }
    };
    let mut output = Output::new(arguments.json);
    match run(arguments.action, &mut output) {
        Ok(Done::Well) => ExitCode::SUCCESS,
        Ok(Done::Badly) => ExitCode::FAILURE,
        Err(Failure::Failed(error)) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(failure) => {
            output.error(&failure);
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run(action: Action, output: &mut Output) -> Result<Done, Failure> {
    match action {
        Action::Serve(overrides) => serve::run(&overrides),
        Action::Config(overrides) => config::run(&overrides, output),
        Action::Commands(action) => alone(commands::run(action, output)),
        Action::Events(action) => alone(events::run(action, output)),
        Action::Handlers(action) => handlers::run(action, output),
        Action::Verify(overrides) => verify::run(&overrides, output),
        Action::Check(check) => check::run(&check, output),
        Action::Rebuild(overrides) => rebuild::run(&overrides, output),
        Action::Dev(dev) => alone(dev::run(dev, output)),
        Action::Bench(bench) => alone(bench::run(bench, output)),
        Action::DeadLetters(action) => alone(dead_letters::run(action, output)),
        Action::Claims(action) => alone(claims::run(action, output)),
    }
}

/// Runs a client's work on this thread; it waits for one answer at a time.
fn alone(work: impl Future<Output = Result<Done, Failure>>) -> Result<Done, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
