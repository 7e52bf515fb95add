//! The conformance suites on SQLite, and what only a file can do.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::port::{index, read_model, registry};

/// Fresh databases in a folder that goes when this goes.
struct Folder {
    folder: tempfile::TempDir,
    count: AtomicU32,
}

impl Folder {
    fn new() -> Folder {
        Folder { folder: tempfile::tempdir().unwrap(), count: AtomicU32::new(0) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(format!("{}-{FILE_NAME}", self.count.fetch_add(1, Ordering::Relaxed)))
    }

    async fn empty(&self) -> Database {
        Database::open(&self.path()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_an_index() {
    let folder = Folder::new();
    index::conformance::all(async || folder.empty().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_registry() {
    let folder = Folder::new();
    registry::conformance::all(async || folder.empty().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_dead_letters() {
    registry::conformance::dead_letters(&Folder::new().empty().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_read_model() {
    let folder = Folder::new();
    let empty = async || {
        let database = folder.empty().await;
        (database.clone(), database)
    };
    read_model::conformance::all(empty).await;
}
