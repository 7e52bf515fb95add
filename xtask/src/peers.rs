//! `cargo xtask peers`: the workload `orders` of the release binary, and beside it, in turns on the same disk, what a
//! plain PostgreSQL takes for the same writes: an insert under a unique (stream, version), without and with a row of a
//! view in the same transaction. That is the floor of an event store on a database: no HTTP, no handler, no status.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::services::{Services, times};
use crate::steps::{Workspace, say};

const LEVELS: [usize; 3] = [1, 16, 128];
/// Turns of each level; the medians count.
const TURNS: usize = 3;
/// How long a turn of PostgreSQL takes, and so many commands one of ours.
const SECONDS: &str = "4";
const COMMANDS: [&str; 3] = ["1500", "8000", "16000"];
const SCHEMA: &str = "
DROP TABLE IF EXISTS events, orders;
CREATE TABLE events (stream bigint, version int, data text NOT NULL, PRIMARY KEY (stream, version));
CREATE TABLE orders (stream bigint PRIMARY KEY, version int NOT NULL, data text NOT NULL);";
const NUMBER: &str = "\\set n :n + 1
\\set stream :client_id * 1000000000 + :n / 5
\\set version :n % 5
";
const INSERT: &str = "INSERT INTO events VALUES (:stream, :version, repeat('n', 1024));
";
const VIEW: &str = "INSERT INTO orders VALUES (:stream, :version, repeat('n', 1024))
    ON CONFLICT (stream) DO UPDATE SET version = excluded.version, data = excluded.data
 WHERE orders.version < excluded.version;
";

/// Commands a second, and CPU seconds of the server for 10,000 of them.
type Figures = (f64, f64);

/// A PostgreSQL of its own.
struct Postgres {
    programs: PathBuf,
    url: String,
    pid: u32,
}

pub fn run(workspace: &Workspace) -> anyhow::Result<()> {
    crate::build(workspace)?;
    let services = Services::of_peers(workspace)?;
    let compared = services.postgres().and_then(|(programs, url, pid)| {
        let folder = workspace.target.join("peers");
        fs::create_dir_all(&folder)?;
        compare(workspace, &Postgres { programs, url, pid }, &folder)
    });
    compared.and(services.down_all())
}

fn compare(workspace: &Workspace, postgres: &Postgres, folder: &Path) -> anyhow::Result<()> {
    let insert = script(folder, "insert.sql", &format!("{NUMBER}{INSERT}"))?;
    let view = script(folder, "view.sql", &format!("{NUMBER}BEGIN;\n{INSERT}{VIEW}COMMIT;\n"))?;
    say("| clients | | commands/s | CPU s/10,000 |\n|---|---|---|---|");
    for (clients, commands) in LEVELS.into_iter().zip(COMMANDS) {
        let contenders: [(&str, &dyn Fn() -> anyhow::Result<Figures>); 4] = [
            ("PostgreSQL, an insert", &|| postgres.bench(clients, &insert)),
            ("PostgreSQL, an insert and a row of a view", &|| postgres.bench(clients, &view)),
            ("Carryall, command and status", &|| ours(workspace, clients, commands, &[])),
            ("Carryall, one request that waits", &|| ours(workspace, clients, commands, &["--one-request"])),
        ];
        let mut turns = contenders.map(|_| Vec::with_capacity(TURNS));
        for _ in 0..TURNS {
            for ((_, turn), figures) in contenders.iter().zip(&mut turns) {
                figures.push(turn()?);
            }
        }
        for ((name, _), figures) in contenders.iter().zip(&mut turns) {
            let (rate, cpu) = median(figures);
            say(&format!("| {clients} | {name} | {rate:.0} | {cpu:.2} |"));
        }
    }
    Ok(())
}

/// That of the median rate.
fn median(turns: &mut [Figures]) -> Figures {
    turns.sort_by(|one, other| one.0.total_cmp(&other.0));
    turns[turns.len() / 2]
}

fn script(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let file = folder.join(name);
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

impl Postgres {
    fn bench(&self, clients: usize, script: &Path) -> anyhow::Result<Figures> {
        said(Command::new(self.programs.join("psql")).args(["-q", "-d", &self.url, "-c", SCHEMA]))?;
        let before = self.cpu_seconds()?;
        let clients = clients.to_string();
        let mut pgbench = Command::new(self.programs.join("pgbench"));
        pgbench.args(["-n", "-M", "prepared", "-D", "n=0", "-j", "2", "-T", SECONDS, "-c", &clients, "-f"]);
        let told = said(pgbench.arg(script).arg(&self.url))?;
        let cpu = self.cpu_seconds()? - before;
        let done = number(&told, "number of transactions actually processed: ")?;
        Ok((number(&told, "tps = ")?, cpu / done * 10_000.0))
    }

    /// User and system time of the server, of its children, and of those that have ended.
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).context("see children")?;
        let mut ticks = times(self.pid).context("PostgreSQL has ended")?.iter().sum::<u64>();
        for child in children.split_whitespace() {
            // One that ends meanwhile is counted with its parent.
            ticks += child.parse().ok().and_then(times).map_or(0, |times| times[0] + times[1]);
        }
        Ok(ticks as f64 / 100.0)
    }
}

fn ours(workspace: &Workspace, clients: usize, commands: &str, more: &[&str]) -> anyhow::Result<Figures> {
    let clients = clients.to_string();
    let folder = workspace.target.to_str().context("the path of the target folder is no text")?;
    let mut bench = Command::new(workspace.release_binary());
    bench.args(["bench", "--json", "--concurrency", &clients, "--commands", commands, "--folder", folder]).args(more);
    let report: Value = serde_json::from_str(&said(&mut bench)?).context("the report is no JSON")?;
    let level = &report["levels"][0];
    let figure = |name: &str| level[name].as_f64().with_context(|| format!("the report has no {name}"));
    Ok((figure("commands_per_second")?, figure("host_cpu_seconds_per_10k")?))
}

/// What a program prints.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{:?} ended with {}: {error}", command.get_program(), output.status);
    Ok(out.into_owned())
}

/// The number behind some words.
fn number(text: &str, words: &str) -> anyhow::Result<f64> {
    let Some((_, behind)) = text.split_once(words) else { bail!("pgbench does not say {words:?}: {text}") };
    let digits: String = behind.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    digits.parse().with_context(|| format!("pgbench says {words:?} and then {digits:?}"))
}

#[cfg(test)]
mod tests;
