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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_conforms_with_temporary_names_too_and_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::open(folder.path(), Sharing::Alone, &Metrics::new()).unwrap().with_names_only();
    conformance::run(Arc::new(FolderStore { files: Arc::new(files) })).await;
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 1, "only the lock is left");
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

async fn share(folder: &Path) -> Result<FolderStore> {
    FolderStore::open_with(folder, Sharing::WithOthers, &Metrics::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_share_a_folder_compare_and_create_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let stores = [Arc::new(share(folder.path()).await.unwrap()), Arc::new(share(folder.path()).await.unwrap())];
    let mut counting = Vec::new();
    for n in 0..8 {
        let store = stores[n % 2].clone();
        counting.push(tokio::spawn(async move {
            let mut created = 0;
            for round in 0..5 {
                let key = format!("events/0000/000000000000/{round:016}.ndjson");
                let put = store.put_new(&key, Bytes::from(format!("{n}"))).await.unwrap();
                created += usize::from(put == PutNew::Created);
                loop {
                    let present = store.get("checkpoints/count").await.unwrap();
                    let count: u64 =
                        present.as_deref().map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap());
                    let next = Bytes::from((count + 1).to_string());
                    if store.put_if("checkpoints/count", present, next).await.unwrap() == PutIf::Written {
                        break;
                    }
                }
            }
            created
        }));
    }
    let mut created = 0;
    for counting in counting {
        created += counting.await.unwrap();
    }
    assert_eq!(created, 5);
    assert_eq!(stores[0].get("checkpoints/count").await.unwrap().unwrap(), "40");
}

#[tokio::test]
async fn a_shared_folder_keeps_out_who_wants_it_alone_and_is_cleaned_by_the_first() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("tmp")).unwrap();
    std::fs::write(folder.path().join("tmp/17"), b"half").unwrap();
    let first = share(folder.path()).await.unwrap();
    assert!(!folder.path().join("tmp/17").exists());
    std::fs::write(folder.path().join("tmp/18"), b"under way").unwrap();
    let second = share(folder.path()).await.unwrap();
    assert!(folder.path().join("tmp/18").exists(), "it may be the first one's");
    drop(first);
    assert!(matches!(open(folder.path()).await, Err(Error::Refused { .. })));
    drop(second);
    let alone = open(folder.path()).await.unwrap();
    assert!(!folder.path().join("tmp/18").exists());
    assert!(matches!(share(folder.path()).await, Err(Error::Refused { .. })));
    drop(alone);
}

/// Two containers may give their processes the same number; one that was killed may leave a second name of a segment.
#[tokio::test]
async fn a_name_that_is_taken_is_never_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let stores = [share(folder.path()).await.unwrap(), share(folder.path()).await.unwrap()];
    let key = "events/0000/000000000000/0.ndjson";
    stores[0].put_new(key, Bytes::from_static(b"x")).await.unwrap();
    for number in 0..2_000 {
        let left = folder.path().join(format!("tmp/{}-{number}", std::process::id()));
        drop(std::fs::hard_link(folder.path().join(key), left));
    }
    for store in &stores {
        store.put("checkpoints/one", Bytes::from_static(b"y")).await.unwrap();
    }
    assert_eq!(stores[0].get(key).await.unwrap().unwrap(), "x");
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
