//! The folder store conforms, keeps its lock, and cleans up after an earlier run.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::port::object_store::conformance;

async fn open(folder: &Path) -> Result<FolderStore> {
    FolderStore::open(folder, &Metrics::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_folder_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance::run(Arc::new(open(&folder.path().join("deep/store")).await.unwrap())).await;
}

#[tokio::test]
async fn a_second_opener_is_refused_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).await.unwrap();
    let error = open(folder.path()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason.contains("another process")), "{error}");
    drop(first);
    open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn leftovers_go_and_objects_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    store.put_new("events/0000/000000000000/0.ndjson", Bytes::from_static(b"x")).await.unwrap();
    drop(store);
    std::fs::write(folder.path().join("tmp/17"), b"half").unwrap();
    let store = open(folder.path()).await.unwrap();
    assert!(!folder.path().join("tmp/17").exists());
    assert_eq!(store.list("", None, 10).await.unwrap().keys, ["events/0000/000000000000/0.ndjson"]);
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 1, "only the lock is left");
}

#[tokio::test]
async fn what_is_no_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    for key in ["", "/a", "a//b", "../a", "a/../b", "a/.", "tmp/x", "a\0"] {
        assert!(matches!(store.put_new(key, Bytes::new()).await, Err(Error::Refused { .. })), "{key:?}");
    }
}
