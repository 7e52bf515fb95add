//! The host that is measured: a process of our own on a fresh folder, or one that runs already.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::place::Place;
use super::wire::Wire;
use crate::cli::Failure;
use crate::metrics::process::Usage;

/// Where the host is, and its process when it is known.
pub(super) struct Host {
    pub authority: String,
    pub token: Option<String>,
    pid: Option<u32>,
    own: Option<Own>,
}

/// A host of ours: stopped and its folder deleted when this is dropped.
struct Own {
    child: Child,
    place: Place,
}

impl Drop for Own {
    fn drop(&mut self) {
        // Nothing can be done about a process that cannot be killed; the folder is kept by what still uses it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A first start compiles the bundled handlers; one without a database folds the log.
const READY_WITHIN: Duration = Duration::from_secs(300);
const LOOK_FOR_READY: Duration = Duration::from_millis(5);
/// A host writes what is left when it is told to stop.
const LOOK: Duration = Duration::from_millis(20);
const STOP_LOOKS: u32 = 1_500;
/// What lies in the folder of a host of ours.
const DATA: &str = "data";
const LOG: &str = "host.log";

impl Host {
    /// A host that runs already.
    pub fn running(url: &str, token: Option<String>, pid: Option<u32>) -> Result<Host, Failure> {
        let authority = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        if authority.contains('/') {
            return Err(Failure::Usage(format!("{url}: a host's URL is http://host:port, without a path")));
        }
        Ok(Host { authority, token, pid, own: None })
    }

    /// Starts this very program on a fresh folder and waits until it is ready.
    pub async fn start(parent: &Path) -> Result<Host, Failure> {
        let place = Place::new(parent)?;
        let (child, authority) = serve(place.path()).await?;
        Ok(Host { authority, token: None, pid: Some(child.id()), own: Some(Own { child, place }) })
    }

    /// Stops a host of ours and starts it again on the same folder; gives how long the start took.
    pub async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.end().await?;
        let Some(own) = &mut self.own else { bail!("only a host of its own can be started again") };
        let begin = Instant::now();
        (own.child, self.authority) = serve(own.place.path()).await?;
        self.pid = Some(own.child.id());
        Ok(begin.elapsed())
    }

    /// The data folder of a host of ours.
    pub fn data(&self) -> Option<PathBuf> {
        self.own.as_ref().map(|own| own.place.path().join(DATA))
    }

    pub async fn connect(&self) -> anyhow::Result<Wire> {
        Wire::connect(&self.authority, self.token.as_deref()).await
    }

    /// CPU time and memory of the host's process, where it is known.
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.pid?)
    }

    /// What the host counted so far.
    pub async fn counts(&self) -> anyhow::Result<Counts> {
        let mut wire = self.connect().await?;
        let reply = wire.send("GET", "/metrics", "", b"").await?;
        if reply.status != 200 {
            bail!("/metrics answers {}", reply.status);
        }
        let text = std::str::from_utf8(reply.body).context("/metrics is no text")?;
        Ok(Counts {
            events: sum(text, "carryall_commit_events_sum") as u64,
            segments: sum(text, "carryall_commit_events_count"),
            file_syncs: sum(text, "carryall_syncs{what=\"file\"}"),
            folder_syncs: sum(text, "carryall_syncs{what=\"folder\"}"),
            object_requests: ["put", "get", "list", "delete", "head"]
                .iter()
                .map(|kind| sum(text, &format!("carryall_object_requests{{kind=\"{kind}\"}}")))
                .sum(),
            sql_statements: ["read", "write"]
                .iter()
                .map(|what| sum(text, &format!("carryall_sql_statements{{what=\"{what}\"}}")))
                .sum(),
        })
    }

    /// Stops a host of ours as an operator would.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.end().await
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        let Some(own) = &mut self.own else { return Ok(()) };
        let pid = own.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().context("tell the host to stop")?;
        for _ in 0..STOP_LOOKS {
            if own.child.try_wait().context("wait for the host")?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("the host does not stop within {:?} of SIGTERM", LOOK * STOP_LOOKS);
    }
}

/// Starts this very program on the data in a folder, and waits until it is ready.
async fn serve(folder: &Path) -> anyhow::Result<(Child, String)> {
    let authority = free_address()?;
    let log = File::create(folder.join(LOG)).context("make the host's log file")?;
    let program = std::env::current_exe().context("find this program")?;
    let mut child = Command::new(program)
        .args(["serve", "--log", "warn", "--listen", &authority, "--data-dir"])
        .arg(folder.join(DATA))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start the host")?;
    let begin = Instant::now();
    let problem = loop {
        if ready(&authority).await {
            return Ok((child, authority));
        }
        if let Some(status) = child.try_wait().context("look after the host")? {
            let log = std::fs::read_to_string(folder.join(LOG)).unwrap_or_default();
            bail!("the host ended at its start ({status}):\n{log}");
        }
        if begin.elapsed() > READY_WITHIN {
            break format!("the host is not ready after {READY_WITHIN:?}");
        }
        tokio::time::sleep(LOOK_FOR_READY).await;
    };
    // Nothing can be done about a process that cannot be killed.
    child.kill().ok();
    child.wait().ok();
    bail!(problem)
}

/// Counters of `/metrics` that the report needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    /// Committed since the host's start.
    pub events: u64,
    pub segments: f64,
    pub file_syncs: f64,
    pub folder_syncs: f64,
    /// Requests sent to a remote object store.
    pub object_requests: f64,
    /// Round trips to a remote database.
    pub sql_statements: f64,
}

fn sum(text: &str, series: &str) -> f64 {
    let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse::<f64>().ok();
    text.lines().filter_map(value).sum()
}

async fn ready(authority: &str) -> bool {
    let Ok(mut wire) = Wire::connect(authority, None).await else { return false };
    matches!(wire.send("GET", "/ready", "", b"").await, Ok(reply) if reply.status == 200)
}

/// An address of loopback that nobody has at the moment.
fn free_address() -> anyhow::Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.to_string())
}
