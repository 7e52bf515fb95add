//! The project's own commands, run as `cargo xtask <command>`. Needs cargo and a C compiler; installs the wasm target
//! and the servers of the tests itself, and says plainly what it cannot install.

mod chaos;
mod fuzz;
mod growth;
mod handlers;
mod mutants;
mod peers;
mod services;
mod sim;
mod steps;
mod test;

use std::io::Write as _;
use std::process::ExitCode;

use steps::Workspace;

const HELP: &str = "\
cargo xtask <command>

  build      handlers to wasm (target/handlers/), then the release binary (target/release/carryall)
  handlers   only the handlers to wasm
  up         build, then run `carryall serve` on the embedded default until Ctrl-C
  test       format, lints, tidy and every test of the workspace, on real servers
  sim        [--seeds N] [--seed S] [--threads T] [--tail CALLS]: the deterministic simulation, 2,000 seeds by default
  chaos      [--seed S] [--seconds N] [SCENARIO…]: real processes on real servers that are killed, cut off, filled up
  mutants    [NAME …]: breaks a copy of the code on purpose, in turn; the simulation must notice each
  growth     [--events N,..]: build, run the growth workload, keep its figures under docs/benchmarks/ and draw them
  plots      draw the figures under docs/benchmarks/ again
  peers      [--only NAME,..] [--clients N,..] [--binary FILE]: build, then the bench in turns with the same writes by
             a plain PostgreSQL, eventsourcing, cqrs-es, Emmett and Restate, which it installs under target/peers/
  fuzz       TARGET [--seconds N]: a target of fuzz/ under libFuzzer, 60 s by default
  services   up | down | status [postgres] [minio] [kafka]: those servers, on free loopback ports
";

fn main() -> ExitCode {
    if let Some(ended) = fuzz::compile() {
        return ended;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let workspace = Workspace::find();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["build"] => build(&workspace),
        ["handlers"] => handlers::build(&workspace),
        ["up", rest @ ..] => build(&workspace).and_then(|()| up(&workspace, rest)),
        ["test"] => test::run(&workspace),
        ["chaos", rest @ ..] => chaos::Request::parse(rest).and_then(|request| chaos::run(&workspace, &request)),
        ["mutants", names @ ..] => mutants::run(&workspace, names),
        ["fuzz", rest @ ..] => fuzz::Request::parse(rest).and_then(|request| fuzz::run(&workspace, &request)),
        ["sim", rest @ ..] => sim::Request::parse(rest).and_then(|request| sim::run(&workspace, &request)),
        ["growth", rest @ ..] => growth::run(&workspace, rest),
        ["peers", rest @ ..] => peers::Request::parse(rest).and_then(|request| peers::run(&workspace, &request)),
        ["plots"] => growth::draw(&workspace),
        ["services", rest @ ..] => services::run(&workspace, rest).and_then(|all_up| {
            anyhow::ensure!(all_up, "not everything is up");
            Ok(())
        }),
        [] | ["help" | "--help" | "-h"] => {
            return match std::io::stdout().write_all(HELP.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        other => {
            steps::say(&format!("unknown command: {}\n\n{HELP}", other.join(" ")));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            steps::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn build(workspace: &Workspace) -> anyhow::Result<()> {
    handlers::build(workspace)?;
    workspace.run("build the release binary", &["build", "--release", "--package", "carryall", "--bin", "carryall"])?;
    steps::say(&format!("built {}", workspace.release_binary().display()));
    Ok(())
}

/// Replaces this process, so that Ctrl-C and SIGTERM reach the server directly and it can drain.
fn up(workspace: &Workspace, rest: &[&str]) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;

    let listen = std::env::var("CARRYALL_LISTEN").unwrap_or_else(|_| "127.0.0.1:8000".to_owned());
    let data = std::env::var("CARRYALL_DATA_DIR").unwrap_or_else(|_| "./data".to_owned());
    steps::say(&format!(
        "\nCarryall starts on the embedded default (log in a folder, SQLite, one process).\n\
         \x20 URL          http://{listen}\n\
         \x20 admin token  in {data}/admin-token (unless CARRYALL_ADMIN_TOKEN is set)\n\
         \x20 stop         Ctrl-C: accepted commands are safe, what is in flight is finished\n"
    ));
    let error = std::process::Command::new(workspace.release_binary()).arg("serve").args(rest).exec();
    Err(anyhow::Error::new(error).context("start target/release/carryall"))
}
