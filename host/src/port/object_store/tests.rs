//! The in-memory store conforms; the decorator does what it says; the probe refuses what it must.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::faulty::{Fault, Faulty};
use super::memory::MemoryStore;
use super::*;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn the_store_in_memory_conforms() {
    conformance::run(Arc::new(MemoryStore::new())).await;
}

#[tokio::test]
async fn a_decorator_without_faults_conforms() {
    conformance::run(Arc::new(Faulty::scripted(Arc::new(MemoryStore::new()), []))).await;
}

#[tokio::test]
async fn faults_do_what_they_are_named_after() {
    let memory = Arc::new(MemoryStore::new());
    let store = Faulty::scripted(memory.clone(), [Fault::ErrorBefore, Fault::LostRequest, Fault::LostResponse]);
    assert!(store.put_new("a", bytes("1")).await.is_err());
    assert_eq!(store.put_new("a", bytes("1")).await.unwrap(), PutNew::Unknown);
    assert_eq!(memory.get("a").await.unwrap(), None);
    assert_eq!(store.put_new("a", bytes("1")).await.unwrap(), PutNew::Unknown);
    assert_eq!(memory.get("a").await.unwrap(), Some(bytes("1")));
    store.push([Fault::LandsLate { calls: 1 }]);
    assert_eq!(store.put_new("late", bytes("2")).await.unwrap(), PutNew::Unknown);
    assert_eq!(store.get("late").await.unwrap(), None);
    assert_eq!(store.get("late").await.unwrap(), Some(bytes("2")));
}

/// A store that checks and then writes, with a gap between.
#[derive(Debug)]
struct CheckThenWrite(MemoryStore);

#[async_trait]
impl ObjectStore for CheckThenWrite {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<PutNew> {
        if self.0.get(key).await?.is_some() {
            return Ok(PutNew::Exists);
        }
        tokio::task::yield_now().await;
        self.0.put(key, bytes).await?;
        Ok(PutNew::Created)
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.0.get(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.0.put(key, bytes).await
    }

    async fn put_if(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> Result<PutIf> {
        self.0.put_if(key, expected, bytes).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing> {
        self.0.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key).await
    }
}

#[tokio::test]
async fn the_probe_refuses_a_store_that_checks_and_then_writes() {
    let store = CheckThenWrite(MemoryStore::new());
    let error = probe::probe(&store, uuid::Uuid::from_u128(1)).await.unwrap_err();
    assert!(matches!(error, probe::Error::Unfit(_)), "{error}");
}
