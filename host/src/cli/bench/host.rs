//! The host that is measured: a process of our own on a fresh folder, or one that runs already.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

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
    folder: TempDir,
}

impl Drop for Own {
    fn drop(&mut self) {
        // Nothing can be done about a process that cannot be killed; the folder is kept by what still uses it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A first start compiles the bundled handlers.
const READY_WITHIN: Duration = Duration::from_secs(60);

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
        let folder = tempfile::Builder::new()
            .prefix(".carryall-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("make a folder in {}", parent.display()))?;
        let authority = free_address()?;
        let log = File::create(folder.path().join("host.log")).context("make the host's log file")?;
        let program = std::env::current_exe().context("find this program")?;
        let child = Command::new(program)
            .args(["serve", "--log", "warn", "--listen", &authority, "--data-dir"])
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start the host")?;
        let pid = child.id();
        let mut own = Own { child, folder };
        let begin = Instant::now();
        while !ready(&authority).await {
            if let Some(status) = own.child.try_wait().context("look after the host")? {
                let log = std::fs::read_to_string(own.folder.path().join("host.log")).unwrap_or_default();
                return Err(Failure::Failed(anyhow::anyhow!("the host ended at its start ({status}):\n{log}")));
            }
            if begin.elapsed() > READY_WITHIN {
                return Err(Failure::Failed(anyhow::anyhow!("the host is not ready after {READY_WITHIN:?}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Host { authority, token: None, pid: Some(pid), own: Some(own) })
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
            segments: sum(text, "carryall_commit_events_count"),
            file_syncs: sum(text, "carryall_syncs{what=\"file\"}"),
            folder_syncs: sum(text, "carryall_syncs{what=\"folder\"}"),
            object_requests: ["put", "get", "list", "delete", "head"]
                .iter()
                .map(|kind| sum(text, &format!("carryall_object_requests{{kind=\"{kind}\"}}")))
                .sum(),
        })
    }

    /// Stops a host of ours as an operator would.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(own) = &mut self.own {
            let pid = own.child.id().to_string();
            Command::new("kill").args(["-TERM", &pid]).status().context("tell the host to stop")?;
            for _ in 0..500 {
                if own.child.try_wait().context("wait for the host")?.is_some() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            bail!("the host does not stop within 10 s of SIGTERM");
        }
        Ok(())
    }
}

/// Counters of `/metrics` that the report needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub segments: f64,
    pub file_syncs: f64,
    pub folder_syncs: f64,
    /// Requests sent to a remote object store.
    pub object_requests: f64,
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
