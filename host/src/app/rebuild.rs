//! `carryall rebuild`: deletes everything derived and makes it again from the log, offline, under the folder's lock.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::consumers::Consumers;
use super::database::Database;
use super::parts::Parts;
use super::store;
use super::supervisor::Supervisor;
use crate::adapter::system_clock::SystemClock;
use crate::config::Config;
use crate::domain::Partition;
use crate::metrics::Metrics;
use crate::port::clock::Clock as _;

/// Prefixes of derived objects. `checkpoints/` is derived too: the relay sends again what it sent. Packs of segments
/// stay: they are copies that a reader holds against the log, and the log is read from them.
const DERIVED: [&str; 3] = ["indexes/by-date/", "checkpoints/", "snapshots/"];
/// Keys deleted between two listings.
const PAGE: usize = 1_000;
/// How often progress is reported.
const TICK: Duration = Duration::from_millis(100);

/// What a rebuild did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RebuildReport {
    pub partitions: u16,
    /// Events folded, over all partitions.
    pub events: u64,
    pub objects_deleted: u64,
}

/// Rebuilds. `progress` gets events handled by the slowest consumer, and events in all.
pub async fn rebuild(config: &Config, mut progress: impl FnMut(u64, u64)) -> anyhow::Result<RebuildReport> {
    let objects_deleted = delete_derived(config).await?;
    let stop = CancellationToken::new();
    let supervisor = Supervisor::new(stop.clone());
    let parts = Parts::open(config, Metrics::new(), &supervisor).await?;
    let consumers = Consumers::start(config, &parts, &supervisor).await?;
    let names: Vec<String> = consumers.names().into_iter().collect();
    let mut events = 0;
    for partition in (0..parts.events.partitions()).map(Partition) {
        // What is appended meanwhile (outcomes of commands that had none) needs no waiting for.
        let end = parts.events.end(partition);
        events += end.0;
        loop {
            let done = parts.progress.least(&names, partition).unwrap_or_default();
            progress(done.0.min(end.0), end.0);
            if done >= end || stop.is_cancelled() {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
    }
    supervisor.stop(parts.close()).await;
    supervisor.result()?;
    Ok(RebuildReport { partitions: parts.events.partitions(), events, objects_deleted })
}

async fn delete_derived(config: &Config) -> anyhow::Result<u64> {
    let opened = store::open(config, SystemClock::new().random_id(), &Metrics::new()).await?;
    let objects = opened.store.as_ref();
    Database::forget(config, &SystemClock::new()).await?;
    let mut deleted = 0;
    for prefix in DERIVED {
        loop {
            let page = objects.list(prefix, None, PAGE).await?;
            for key in &page.keys {
                objects.delete(key).await?;
                deleted += 1;
            }
            if !page.more {
                break;
            }
        }
    }
    Ok(deleted)
}
