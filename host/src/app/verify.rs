//! `carryall verify`: checks the log and the index of a data folder at rest, under the folder's lock.

use anyhow::{Context as _, ensure};

use super::parts::DATABASE_FILE;
use crate::adapter::fs::FolderStore;
use crate::adapter::sqlite::Database;
use crate::config::Config;
use crate::event_store::verify::{self, Report};
use crate::metrics::Metrics;

/// Checks everything. `progress` is called after each segment. The index is checked when there is a database.
pub async fn verify(config: &Config, progress: impl FnMut(&Report) + Send) -> anyhow::Result<Report> {
    let folder = &config.store_dir;
    ensure!(folder.is_dir(), "there is no event log at {}: is --data-dir right?", folder.display());
    let objects = FolderStore::open(folder, &Metrics::new()).await?;
    let path = config.data_dir.join(DATABASE_FILE);
    if !path.is_file() {
        return Ok(verify::verify(&objects, None, progress).await?);
    }
    let database = Database::open(&path).await.with_context(|| format!("open {}", path.display()))?;
    let index = database.index();
    let report = verify::verify(&objects, Some(&*index), progress).await;
    database.close().await;
    Ok(report?)
}
