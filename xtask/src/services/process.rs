//! Processes that outlive this program: started in a group of their own, known by pid *and* start time, stopped by
//! exactly that. A pid that was given to somebody else meanwhile is never signalled.

use std::fs;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How often a process is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// One process, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// In clock ticks after the machine's start.
    started: u64,
}

/// What the kernel tells of a process, from the third field on.
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything: what counts comes after the last bracket.
    Some(stat.trim_end().rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// Times of a process in ticks of a hundredth of a second: user, system, and both of its children that have ended.
pub fn times(pid: u32) -> Option<[u64; 4]> {
    let times: Vec<u64> = fields(pid)?.iter().skip(11).take(4).map_while(|field| field.parse().ok()).collect();
    times.try_into().ok()
}

impl Process {
    /// The live process with this pid.
    fn of(pid: u32) -> Option<Process> {
        let fields = fields(pid)?;
        let started = fields.get(19)?.parse().ok()?;
        let ended = matches!(fields.first()?.as_str(), "Z" | "X");
        // The first thread of a process may end before the others do.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        (!ended || threads > 1).then_some(Process { pid, started })
    }

    /// The process noted in a file, if it still lives.
    pub fn noted(file: &Path) -> Option<Process> {
        let text = fs::read_to_string(file).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let noted = Process { pid: pid.parse().ok()?, started: started.parse().ok()? };
        (Process::of(noted.pid)? == noted).then_some(noted)
    }

    /// Starts a command that goes on when this program ends and that Ctrl-C does not reach; notes it in `file`.
    pub fn start(mut command: Command, log: &Path, file: &Path) -> anyhow::Result<Process> {
        if log.is_file() {
            fs::rename(log, log.with_extension("log.1")).context("keep the log of the run before")?;
        }
        let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let Some(process) = Process::of(child.id()) else { bail!("{program} ended at once, see {}", log.display()) };
        fs::write(file, format!("{} {}\n", process.pid, process.started)).context("note the pid")?;
        Ok(process)
    }

    pub fn is_alive(self) -> bool {
        Process::of(self.pid) == Some(self)
    }

    /// Sends `INT` or `TERM`, and `KILL` when that does not help.
    pub fn stop(self, signal: &str, patience: Duration) -> anyhow::Result<()> {
        for (signal, patience) in [(signal, patience), ("KILL", Duration::from_secs(5))] {
            if !self.is_alive() {
                return Ok(());
            }
            let begin = Instant::now();
            let told = Command::new("kill").args([&format!("-{signal}"), &self.pid.to_string()]).status();
            let told = told.context("run kill")?.success();
            while begin.elapsed() < patience {
                if !self.is_alive() {
                    return Ok(());
                }
                sleep(LOOK);
            }
            if !told {
                bail!("SIG{signal} cannot be sent to {}", self.pid);
            }
        }
        bail!("process {} does not end", self.pid)
    }
}

/// Runs a command to its end with its output in a log; an error shows the log's last lines.
pub fn run(what: &str, mut command: Command, log: &Path) -> anyhow::Result<()> {
    let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).status();
    let status = status.with_context(|| format!("{what}: {program} cannot be started"))?;
    if !status.success() {
        bail!("{what} failed ({status}):\n{}", last_lines(log));
    }
    Ok(())
}

/// The end of a log, for an error message.
pub fn last_lines(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    format!("{}\n(log: {})", lines[lines.len().saturating_sub(15)..].join("\n"), log.display())
}

/// Whether a program can be found.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
