//! Processes are known by pid and start time, and nothing else is ever stopped.

use std::process::Command;
use std::time::Duration;

use super::process::Process;

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("60");
    command
}

#[test]
fn a_process_is_found_again_by_its_note_and_stopped() -> anyhow::Result<()> {
    let folder = folder("found")?;
    let note = folder.join("pid");
    let process = Process::start(sleeper(), &folder.join("a.log"), &note)?;
    assert_eq!(Process::noted(&note), Some(process));
    process.stop("TERM", Duration::from_secs(10))?;
    assert_eq!(Process::noted(&note), None, "an ended process is not found");
    process.stop("TERM", Duration::from_secs(1))?;
    Ok(std::fs::remove_dir_all(folder)?)
}

#[test]
fn a_pid_that_somebody_else_has_now_is_not_taken_for_ours() -> anyhow::Result<()> {
    let folder = folder("reused")?;
    let (mine, other) = (folder.join("mine"), folder.join("other"));
    let process = Process::start(sleeper(), &folder.join("a.log"), &mine)?;
    std::fs::write(&other, format!("{} 1\n", process.pid))?;
    assert_eq!(Process::noted(&other), None);
    assert!(process.is_alive());
    process.stop("TERM", Duration::from_secs(10))?;
    Ok(std::fs::remove_dir_all(folder)?)
}

/// A folder of this test's own.
fn folder(name: &str) -> anyhow::Result<std::path::PathBuf> {
    let folder = std::env::temp_dir().join(format!("carryall-xtask-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
