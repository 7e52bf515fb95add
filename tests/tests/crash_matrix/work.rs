//! What clients and operators do while the host is killed: work that can be repeated from its begin with the same ids,
//! and that knows what must be true in the end.

use std::path::Path;

use anyhow::{Context as _, ensure};
use carryall_tests::{Client, Server};
use serde_json::Value;

use crate::bulk::Bulk;
use crate::notebook::{Deploy, Notebook};
use crate::rebuild::Rebuild;
use crate::shop::Shopping;

/// Which work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Instances are created and updated.
    Shop,
    /// As the shop, with messages through Kafka.
    Kafka,
    /// Batches of instances are created.
    Bulk,
    /// A note that no decision survives is parked, released and discarded.
    Notebook,
    /// A version of a handler is uploaded and activated.
    Deploy,
    /// What the bundled projection wrote is written anew.
    Rebuild,
    /// As the shop, on a folder that holds nothing yet.
    FirstStart,
    /// As the shop, on a folder whose database is gone.
    WithoutDatabase,
}

pub enum Work {
    Shop(Shopping),
    Bulk(Bulk),
    Notebook(Notebook),
    Deploy(Deploy),
    Rebuild(Rebuild),
}

impl Work {
    pub fn new(kind: Kind) -> Work {
        match kind {
            Kind::Bulk => Work::Bulk(Bulk::new()),
            Kind::Shop | Kind::Kafka | Kind::WithoutDatabase => Work::Shop(Shopping::new(false)),
            Kind::FirstStart => Work::Shop(Shopping::new(true)),
            Kind::Notebook => Work::Notebook(Notebook::new()),
            Kind::Deploy => Work::Deploy(Deploy::new()),
            Kind::Rebuild => Work::Rebuild(Rebuild::new()),
        }
    }

    /// Works until the host goes away, or there is nothing more to do.
    pub async fn run(&self, client: &Client) -> anyhow::Result<()> {
        match self {
            Work::Shop(work) => work.run(client).await,
            Work::Bulk(work) => work.run(client).await,
            Work::Notebook(work) => work.run(client).await,
            Work::Deploy(work) => work.run(client).await,
            Work::Rebuild(work) => work.run(client).await,
        }
    }

    /// Repeats everything with the same ids, and waits until it is decided.
    pub async fn finish(&self, server: &Server) -> anyhow::Result<()> {
        let client = server.client();
        match self {
            Work::Shop(work) => work.finish(&client).await,
            Work::Bulk(work) => work.run(&client).await,
            Work::Notebook(work) => work.run(&client).await,
            Work::Deploy(work) => work.run(&client).await,
            Work::Rebuild(work) => work.finish(&client).await,
        }
    }

    /// What must hold in the end, of this work and of every log. `checker`: the command that looks at it at rest.
    pub async fn audit(&self, server: &mut Server, checker: &[&str]) -> anyhow::Result<()> {
        let log = server.log()?;
        match self {
            Work::Shop(work) => work.audit(&server.client(), &log).await?,
            Work::Bulk(work) => work.audit(&server.client(), &log).await?,
            Work::Notebook(work) => work.audit(&server.client(), &log).await?,
            Work::Deploy(work) => work.audit(&server.client(), &log).await?,
            Work::Rebuild(work) => work.audit(&server.client(), &log).await?,
        }
        ensure!(log.undecided().is_empty(), "undecided commands are left: {:?}", log.undecided());
        // A guest's panic is an entry of the log; one of the host stands for itself.
        let panicked = server.host_log().lines().any(|line| line.starts_with("thread '") && line.contains("panicked"));
        ensure!(!panicked, "the host panicked:\n{}", server.host_log());
        ensure!(server.terminate().await?.success(), "a drain fails:\n{}", server.host_log());
        let checked = server.run(&[checker, &["--json"]].concat())?;
        let report: Value = serde_json::from_slice(&checked.stdout)
            .with_context(|| String::from_utf8_lossy(&checked.stderr).into_owned())?;
        ensure!(checked.status.success(), "the checker finds: {report}");
        let behind = report["index_behind"].as_u64();
        ensure!(behind.is_none_or(|behind| behind == 0), "a drain leaves the index behind: {report}");
        ensure!(only_locks(&server.data().join("store/tmp")), "temporary files outlived a start");
        Ok(())
    }
}

/// Whether nothing but locks is left in the folder of temporary files.
fn only_locks(folder: &Path) -> bool {
    let is_lock = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name() == "lock" || entry.file_name() == "comparing")
    };
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.all(is_lock))
}
