//! Object store on a folder: a key is a file. `put_new` is temp file, fdatasync, `link`, fsync of the folder, so that a
//! key appears whole, once, and stays (I1, I5). One process at a time: the folder is locked.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;

use crate::port::object_store::{Listing, ObjectStore, PutIf, PutNew};
use crate::port::{Error, Result};

/// A locked folder of objects.
#[derive(Debug)]
pub struct FolderStore {}

impl FolderStore {
    /// Opens or creates the folder, locks it, removes leftovers of an earlier run. `Refused` when another process
    /// holds it.
    pub async fn open(folder: &Path) -> Result<FolderStore> {
        let _ = folder;
        Err(Error::Unavailable { what: "the folder", reason: "unimplemented".into() })
    }
}

#[async_trait]
impl ObjectStore for FolderStore {
    async fn put_new(&self, _key: &str, _bytes: Bytes) -> Result<PutNew> {
        unimplemented!()
    }

    async fn get(&self, _key: &str) -> Result<Option<Bytes>> {
        unimplemented!()
    }

    async fn put(&self, _key: &str, _bytes: Bytes) -> Result<()> {
        unimplemented!()
    }

    async fn put_if(&self, _key: &str, _expected: Option<Bytes>, _bytes: Bytes) -> Result<PutIf> {
        unimplemented!()
    }

    async fn list(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Result<Listing> {
        unimplemented!()
    }

    async fn delete(&self, _key: &str) -> Result<()> {
        unimplemented!()
    }
}
