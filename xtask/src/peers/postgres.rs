//! The PostgreSQL that peers keep their events in, with a fresh database for each turn; and pgbench on it, for what
//! the same writes cost without any event store around them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::program::cpu_seconds;
use super::{Figures, Measured, percentiles, said};
use crate::steps::Workspace;

const DATABASE: &str = "peer";
const SCHEMA: &str = "
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
/// Of so many transactions one has its latency written down.
const SAMPLING_RATE: &str = "0.1";

/// What a command is to pgbench: one insert under a unique (stream, version), alone or with a row of a view in the
/// same transaction.
#[derive(Debug, Clone, Copy)]
pub enum Writes {
    Insert,
    InsertAndView,
}

/// A PostgreSQL of its own.
pub struct Postgres {
    programs: PathBuf,
    /// Of its database `postgres`.
    url: String,
    pid: u32,
    /// For scripts and latencies.
    folder: PathBuf,
}

impl Postgres {
    pub fn new(workspace: &Workspace, programs: PathBuf, url: String, pid: u32) -> anyhow::Result<Postgres> {
        let folder = workspace.target.join("peers/pgbench");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Postgres { programs, url, pid, folder })
    }

    /// Writes down what the turn before has left in memory, which would be written during the next one.
    pub fn settle(&self) -> anyhow::Result<()> {
        self.psql(&self.url, "CHECKPOINT")
    }

    /// Gives the URL of an empty database; the one of the turn before is gone.
    pub fn fresh_database(&self) -> anyhow::Result<String> {
        self.psql(&self.url, &format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))?;
        self.psql(&self.url, &format!("CREATE DATABASE {DATABASE}"))?;
        let (server, _) = self.url.rsplit_once('/').context("the URL of PostgreSQL names no database")?;
        Ok(format!("{server}/{DATABASE}"))
    }

    /// User and system time of the server so far.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        cpu_seconds(self.pid).context("PostgreSQL has ended")
    }

    pub fn bench(&self, writes: Writes, clients: usize, time: Duration) -> anyhow::Result<Figures> {
        let url = self.fresh_database()?;
        self.psql(&url, SCHEMA)?;
        let script = self.folder.join("script.sql");
        fs::write(&script, writes.script()).with_context(|| format!("write {}", script.display()))?;
        let latencies = self.folder.join("latencies");
        fs::create_dir_all(&latencies)?;
        let mut pgbench = Command::new(self.programs.join("pgbench"));
        pgbench.args(["-n", "-M", "prepared", "-D", "n=0", "-j", "2", "-T", &time.as_secs().to_string()]);
        pgbench.args(["-c", &clients.to_string(), "-l", "--sampling-rate", SAMPLING_RATE]);
        pgbench.arg("--log-prefix").arg(latencies.join("of")).arg("-f").arg(script).arg(url);
        let before = self.cpu_seconds()?;
        let told = said(&mut pgbench)?;
        let cpu = self.cpu_seconds()? - before;
        let (p50_ms, p99_ms) = percentiles(logged(&latencies)?);
        let commands = number(&told, "number of transactions actually processed: ")?;
        let seconds = commands / number(&told, "tps = ")?;
        Measured { commands, seconds, p50_ms, p99_ms }.with_cpu(cpu)
    }

    fn psql(&self, url: &str, statement: &str) -> anyhow::Result<()> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statement])
            .env("PGOPTIONS", "-c client_min_messages=warning");
        said(&mut psql).map(drop)
    }
}

impl Writes {
    fn script(self) -> String {
        match self {
            Writes::Insert => format!("{NUMBER}{INSERT}"),
            Writes::InsertAndView => format!("{NUMBER}BEGIN;\n{INSERT}{VIEW}COMMIT;\n"),
        }
    }
}

/// The latencies that pgbench wrote down, in microseconds; the folder is removed.
fn logged(folder: &Path) -> anyhow::Result<Vec<u64>> {
    let mut micros = Vec::new();
    for entry in fs::read_dir(folder).context("read what pgbench wrote")? {
        let text = fs::read_to_string(entry?.path())?;
        micros.extend(text.lines().filter_map(latency));
    }
    fs::remove_dir_all(folder)?;
    Ok(micros)
}

/// Of one line: client, transaction, latency, and what is not needed.
pub(super) fn latency(line: &str) -> Option<u64> {
    line.split(' ').nth(2)?.parse().ok()
}

/// The number behind some words.
pub(super) fn number(text: &str, words: &str) -> anyhow::Result<f64> {
    let Some((_, behind)) = text.split_once(words) else { bail!("pgbench does not say {words:?}: {text}") };
    let digits: String = behind.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    digits.parse().with_context(|| format!("pgbench says {words:?} and then {digits:?}"))
}
