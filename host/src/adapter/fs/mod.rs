//! Object store on a folder: a key is a file. `put_new` is a file without a name (where the system has none: with a
//! temporary one), fdatasync, `link`, fsync of the folder, so that a key appears whole, once, and stays (I1, I5). The
//! folder is locked: for one process, or for those that share it.

mod files;
mod unnamed;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::metrics::Metrics;
use crate::port::object_store::{Listing, ObjectStore, PutIf, PutNew};
use crate::port::{Error, Result};

use files::Files;
pub use files::Sharing;

/// A locked folder of objects.
#[derive(Debug)]
pub struct FolderStore {
    files: Arc<Files>,
}

impl FolderStore {
    /// Opens or creates the folder, locks it, removes leftovers of an earlier run. `Refused` when another process
    /// holds it. The lock ends with the process, however it ends.
    pub async fn open(folder: &Path, metrics: &Metrics) -> Result<FolderStore> {
        Self::open_with(folder, Sharing::Alone, metrics).await
    }

    /// The same for a folder that processes of one machine share. Leftovers are removed when nobody else is there.
    pub async fn open_with(folder: &Path, sharing: Sharing, metrics: &Metrics) -> Result<FolderStore> {
        let (folder, metrics) = (folder.to_owned(), metrics.clone());
        let files = blocking(move || Files::open(&folder, sharing, &metrics)).await?;
        Ok(FolderStore { files: Arc::new(files) })
    }

    /// Runs file work where it may block.
    async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Files) -> Result<T> + Send + 'static,
    {
        let files = self.files.clone();
        blocking(move || work(&files)).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Only a runtime that is going down cancels blocking work.
        Err(error) => Err(Error::Unavailable { what: "the store's folder", reason: error.to_string() }),
    }
}

#[async_trait]
impl ObjectStore for FolderStore {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<PutNew> {
        let key = key.to_owned();
        self.run(move |files| files.put_new(&key, &bytes)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let key = key.to_owned();
        self.run(move |files| files.get(&key)).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let key = key.to_owned();
        self.run(move |files| files.put(&key, &bytes)).await
    }

    async fn put_if(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> Result<PutIf> {
        let key = key.to_owned();
        self.run(move |files| files.put_if(&key, expected.as_ref(), &bytes)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run(move |files| files.list(&prefix, after.as_deref(), limit)).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let key = key.to_owned();
        self.run(move |files| files.delete(&key)).await
    }
}
