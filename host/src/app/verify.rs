//! `carryall verify`: checks the log and the index of a data folder at rest, under the folder's lock. A log in a
//! bucket may grow meanwhile: what other processes append after the check began is not its business.

use std::time::Duration;

use anyhow::ensure;

use super::database::Database;
use super::store;
use crate::adapter::system_clock::SystemClock;
use crate::config::{Config, Store};
use crate::event_store::verify::{self, Report};
use crate::metrics::Metrics;
use crate::port::clock::Clock as _;

/// How long a host that runs takes to bring its index to the end of a log at rest: several times what it waits for
/// more.
const INDEX_CATCHES_UP: Duration = Duration::from_secs(2);

/// Checks everything. `progress` is called after each segment. The index is checked when there is a database.
pub async fn verify(config: &Config, mut progress: impl FnMut(&Report) + Send) -> anyhow::Result<Report> {
    if let Store::Folder(folder) = &config.store {
        ensure!(folder.is_dir(), "there is no event log at {}: is --data-dir right?", folder.display());
    }
    let clock = SystemClock::new();
    let opened = store::open(config, clock.random_id(), &Metrics::new()).await?;
    let objects = opened.store.as_ref();
    let Some(database) = Database::open_to_check(config).await? else {
        return Ok(verify::verify(objects, None, progress).await?);
    };
    let index = database.index();
    let mut report = verify::verify(objects, Some(&*index), &mut progress).await;
    if matches!(config.store, Store::S3(_)) && report.as_ref().is_ok_and(index_lags) {
        clock.sleep(INDEX_CATCHES_UP).await;
        report = verify::verify(objects, Some(&*index), &mut progress).await;
    }
    database.close().await;
    Ok(report?)
}

/// Whether nothing was found but that the index is not at the end of the log, as it is for a moment while others write.
fn index_lags(report: &Report) -> bool {
    !report.findings.is_empty() && report.findings.iter().all(|finding| finding.code == "index_watermark")
}
