//! Object store in memory: for tests and simulations. Durable as long as it lives.

use std::collections::BTreeMap;
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Listing, ObjectStore, PutIf, PutNew};
use crate::port::Result;

/// A map from key to bytes.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<PutNew> {
        let mut objects = self.objects.lock();
        if objects.contains_key(key) {
            return Ok(PutNew::Exists);
        }
        objects.insert(key.to_owned(), bytes);
        Ok(PutNew::Created)
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        Ok(self.objects.lock().get(key).cloned())
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.objects.lock().insert(key.to_owned(), bytes);
        Ok(())
    }

    async fn put_if(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> Result<PutIf> {
        let mut objects = self.objects.lock();
        if objects.get(key) != expected.as_ref() {
            return Ok(PutIf::Changed);
        }
        objects.insert(key.to_owned(), bytes);
        Ok(PutIf::Written)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing> {
        let objects = self.objects.lock();
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut keys = objects.range::<str, _>((start, Bound::Unbounded)).map(|(key, _)| key);
        let mut listing = Listing::default();
        for key in keys.by_ref().take_while(|key| key.starts_with(prefix)) {
            if listing.keys.len() == limit {
                listing.more = true;
                break;
            }
            listing.keys.push(key.clone());
        }
        Ok(listing)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.objects.lock().remove(key);
        Ok(())
    }
}
