//! The object store that the settings name, and the data folder beside it, which belongs to one process at a time.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use uuid::Uuid;

use crate::adapter::fs::{FolderStore, Sharing};
use crate::adapter::s3::{Keys, Options, S3Store};
use crate::config::{Bucket, Config, Store};
use crate::event_store::Linger;
use crate::metrics::Metrics;
use crate::port::object_store::ObjectStore;

/// How a commit to a remote store waits for company: less long than the write itself takes on S3.
const REMOTE_LINGER: Linger = Linger { ms: 20, requests_min: 8 };
/// How a commit to a folder does: a segment costs half a millisecond of processor time, which is short when so many
/// come at once; with fewer clients the wait would be theirs (decision 24).
const FOLDER_LINGER: Linger = Linger { ms: 2, requests_min: 20 };
/// How often another process's commits to a remote store are looked for when there are none of our own: readers of
/// this process see them this much later, for two requests a second.
const REMOTE_FOLLOW_MS: u64 = 500;

/// How often another process's commits to a shared folder are looked for, when Kafka says that there are others.
const FOLDER_FOLLOW_MS: u64 = 100;

/// What an open store asks of the event log on it.
pub(super) struct Objects {
    pub store: Arc<dyn ObjectStore>,
    pub commit_linger: Linger,
    pub follow_ms: Option<u64>,
    /// Held as long as the store is used.
    pub lock: File,
}

/// Opens the store. `run` is random.
pub(super) async fn open(config: &Config, run: Uuid, metrics: &Metrics) -> anyhow::Result<Objects> {
    let lock = lock(&config.data_dir)?;
    Ok(match &config.store {
        Store::Folder(folder) => Objects {
            store: Arc::new(FolderStore::open_with(folder, sharing(config), metrics).await?),
            commit_linger: FOLDER_LINGER,
            follow_ms: config.kafka.is_some().then_some(FOLDER_FOLLOW_MS),
            lock,
        },
        Store::S3(bucket) => {
            let store = open_bucket(bucket, run, metrics).await?;
            Objects { store: Arc::new(store), commit_linger: REMOTE_LINGER, follow_ms: Some(REMOTE_FOLLOW_MS), lock }
        }
    })
}

/// Opens a bucket. `run` is random.
pub(super) async fn open_bucket(bucket: &Bucket, run: Uuid, metrics: &Metrics) -> anyhow::Result<S3Store> {
    let keys = bucket.keys.as_ref();
    let options = Options {
        bucket: bucket.name.clone(),
        prefix: bucket.prefix.clone(),
        endpoint: bucket.endpoint.clone(),
        keys: keys.map(|(access, secret)| Keys { access: access.clone(), secret: secret.reveal().to_owned() }),
    };
    let opened = S3Store::open(options, run, metrics).await;
    opened.with_context(|| format!("open the event log in the bucket {}", bucket.name))
}

/// Where Kafka divides the work, other processes of this machine may use the folder too.
fn sharing(config: &Config) -> Sharing {
    if config.kafka.is_some() { Sharing::WithOthers } else { Sharing::Alone }
}

/// Locks the data folder: its database and its count of runs have one writer. The lock ends with the process.
fn lock(folder: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create the data folder {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another process uses the data folder {}; stop it, or give this one another folder (CARRYALL_DATA_DIR)",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
