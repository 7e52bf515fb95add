//! A peer's program for one turn: started with CLIENTS SECONDS plain|view, it says `ready` when it is warm, or
//! `ready PORT` when it serves HTTP on loopback. One that drives itself cuts its notes from the file `letters` beside
//! it, waits for `go`, and reports one line of JSON. Every program ends when its input does, hence also when this one
//! is killed. Where it keeps its events in PostgreSQL, `PEER_POSTGRES_URL` is a database of its own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::install::{Database, Driver, Installed};
use super::postgres::Postgres;
use super::{Figures, Measured, load};
use crate::services::times;

/// From the start until it is warm, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// After the measured time: commands under way are finished.
const REPORTED_WITHIN: Duration = Duration::from_secs(30);
const STOPPED_WITHIN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);
/// A server is warm after this much load; programs that drive themselves do as much.
const WARM_UP: Duration = Duration::from_secs(1);
const LAST_LINES: usize = 15;

#[derive(Debug, Clone, Copy)]
pub enum Mode {
    Plain,
    /// Each event also updates a row that is read.
    View,
}

/// A running program; dropping it stops it.
pub struct Program<'a> {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    log: PathBuf,
    driver: Driver,
    /// Its database, when that is another process.
    postgres: Option<&'a Postgres>,
}

impl<'a> Program<'a> {
    pub fn start(
        installed: &Installed,
        mode: Mode,
        clients: usize,
        time: Duration,
        postgres: &'a Postgres,
    ) -> anyhow::Result<Program<'a>> {
        let postgres = (installed.kit.database == Database::Postgres).then_some(postgres);
        let mode = match mode {
            Mode::Plain => "plain",
            Mode::View => "view",
        };
        fs::write(installed.folder.join("letters"), load::letters()).context("write letters for notes")?;
        let log = installed.folder.join("program.log");
        let mut command = installed.command();
        command.args([&clients.to_string(), &time.as_secs().to_string(), mode]);
        if let Some(postgres) = postgres {
            command.env("PEER_POSTGRES_URL", postgres.fresh_database()?);
        }
        let errors = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        // In a group of its own, so that its children can be killed with it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).process_group(0);
        let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("it has no output")?);
        let (sender, lines) = channel();
        // Ends with the output, hence with the program.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Program { child, input, lines, log, driver: installed.kit.driver, postgres })
    }

    /// One turn, from the warm-up to the figures.
    pub fn measure(mut self, clients: usize, time: Duration) -> anyhow::Result<Figures> {
        let ready = self.line(READY_WITHIN).context("it does not get ready")?;
        let Some(port) = ready.strip_prefix("ready") else { bail!("it is not ready, but says {ready:?}") };
        match self.driver {
            Driver::InProcess => {
                let before = self.cpu_seconds()?;
                let input = self.input.as_mut().context("it has no input")?;
                input.write_all(b"go\n").and_then(|()| input.flush()).context("tell it to go")?;
                let report = self.line(time + REPORTED_WITHIN).context("it reports nothing")?;
                let cpu = self.cpu_seconds()? - before;
                reported(&report)?.with_cpu(cpu)
            }
            Driver::OverHttp => {
                let port = port.trim().parse().with_context(|| format!("its port: {ready:?}"))?;
                load::run(port, "warm", clients, WARM_UP).with_context(|| self.last_lines())?;
                let before = self.cpu_seconds()?;
                let measured = load::run(port, "measured", clients, time).with_context(|| self.last_lines())?;
                measured.with_cpu(self.cpu_seconds()? - before)
            }
        }
    }

    /// Of the program with its children, and of its database.
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let own = cpu_seconds(self.child.id()).context("it has ended")?;
        Ok(own + self.postgres.map_or(Ok(0.0), Postgres::cpu_seconds)?)
    }

    fn line(&self, within: Duration) -> anyhow::Result<String> {
        let Ok(line) = self.lines.recv_timeout(within) else { bail!("{}", self.last_lines()) };
        Ok(line)
    }

    fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        format!("its log {} ends with:\n{last}\n", self.log.display())
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        drop(self.input.take());
        let begin = Instant::now();
        while begin.elapsed() < STOPPED_WITHIN {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK);
        }
        // The group is its own, and it has not been waited for: the number is still its.
        let _killed = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ended = self.child.wait();
    }
}

/// What a program that drove itself says.
pub(super) fn reported(line: &str) -> anyhow::Result<Measured> {
    let report: Value = serde_json::from_str(line).with_context(|| format!("its report is no JSON: {line}"))?;
    let figure = |name: &str| report[name].as_f64().with_context(|| format!("its report has no {name}: {line}"));
    Ok(Measured {
        commands: figure("commands")?,
        seconds: figure("seconds")?,
        p50_ms: figure("p50_ms")?,
        p99_ms: figure("p99_ms")?,
    })
}

/// User and system time of a process, of its children, theirs, and all of these that have ended.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let own = times(pid)?.iter().sum::<u64>() as f64 / 100.0;
    // One that ends meanwhile is counted with its parent.
    Some(own + children(pid).into_iter().filter_map(cpu_seconds).sum::<f64>())
}

/// Each thread has the children that it started.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}
