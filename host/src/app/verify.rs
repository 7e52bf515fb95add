//! `carryall verify`: checks the log and the index of a data folder at rest, under the folder's lock. A log in a
//! bucket may grow meanwhile: what other processes append after the check began is not its business.

use anyhow::ensure;

use super::database::Database;
use super::store;
use crate::adapter::system_clock::SystemClock;
use crate::codec::pack;
use crate::config::{Config, Store};
use crate::event_store::verify::{self, Report};
use crate::metrics::Metrics;
use crate::port::clock::Clock as _;

/// Checks everything. `progress` is called after each segment. The index is checked when there is a database.
pub async fn verify(config: &Config, progress: impl FnMut(&Report) + Send) -> anyhow::Result<Report> {
    if let Store::Folder(folder) = &config.store {
        ensure!(folder.is_dir(), "there is no event log at {}: is --data-dir right?", folder.display());
    }
    let clock = SystemClock::new();
    let opened = store::open(config, clock.random_id(), &Metrics::new()).await?;
    let objects = opened.store.as_ref();
    let Some(database) = Database::open_to_check(config).await? else {
        return Ok(verify::verify(objects, None, pack::Size::default(), progress).await?);
    };
    let index = database.index();
    let report = verify::verify(objects, Some(&*index), pack::Size::default(), progress).await;
    database.close().await;
    Ok(report?)
}
