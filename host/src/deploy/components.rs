//! Components by digest: bytes in the object store, handlers in memory. Every component ever deployed stays stored, so
//! that history can be replayed with the code that made it (I8, I9). Content never disagrees with its key: bytes are
//! digested before they are written and after they are read.

use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use crate::domain::Digest;
use crate::failpoint;
use crate::port::clock::Clock;
use crate::port::object_store::{ObjectStore, PutNew};
use crate::sandbox::{Catalog, Handler, Sandbox};
use crate::state::offload;

/// Attempts to store a component whose write ended unknown. The same bytes go to the same key, so each is safe.
const PUT_ATTEMPTS_MAX: u32 = 5;
/// Wait after the first unknown write; doubles with each.
const PUT_RETRY_MS: u64 = 100;

/// The components of one store.
#[derive(Debug)]
pub(super) struct Components {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) sandbox: Sandbox,
    pub(super) catalog: Arc<Catalog>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Where a component is stored.
pub fn key(digest: Digest) -> String {
    format!("components/sha256/{digest}.wasm")
}

/// The digest of a component, computed off the threads that do I/O.
pub(super) async fn digest(bytes: Bytes) -> Digest {
    offload(move || Digest::of(&bytes)).await
}

impl Components {
    /// Compiles and judges a component, off the threads that do I/O. One that is loaded was judged.
    pub(super) async fn judge(&self, digest: Digest, bytes: Bytes) -> Result<Arc<Handler>, Error> {
        if let Some(handler) = self.catalog.resolve(digest) {
            return Ok(handler);
        }
        let sandbox = self.sandbox.clone();
        let handler = offload(move || sandbox.load_digested(digest, &bytes)).await.map_err(Error::Component)?;
        self.catalog.remember(handler.clone());
        Ok(handler)
    }

    /// Stores a component. Afterwards the store holds exactly these bytes under their digest: a damaged object is
    /// written again, since only one content can be right for its key.
    pub(super) async fn store(&self, digest: Digest, bytes: Bytes) -> Result<(), Error> {
        let key = key(digest);
        let mut wait = std::time::Duration::from_millis(PUT_RETRY_MS);
        for _ in 0..PUT_ATTEMPTS_MAX {
            match self.objects.put_new(&key, bytes.clone()).await? {
                PutNew::Created => {
                    failpoint::pass("deploy.after_store");
                    return Ok(());
                }
                PutNew::Exists => {
                    if self.objects.get(&key).await?.is_none_or(|stored| stored != bytes) {
                        tracing::warn!(%digest, "the stored component was damaged and is written again");
                        self.objects.put(&key, bytes).await?;
                    }
                    return Ok(());
                }
                PutNew::Unknown => self.clock.sleep(wait).await,
            }
            wait *= 2;
        }
        Err(Error::StoreUnknown { digest })
    }

    /// The handler with this digest: one in memory, or loaded from the store.
    pub(super) async fn handler(&self, digest: Digest) -> Result<Arc<Handler>, Error> {
        if let Some(handler) = self.catalog.resolve(digest) {
            return Ok(handler);
        }
        let bytes = self.objects.get(&key(digest)).await?.ok_or(Error::DamagedComponent { digest })?;
        let sandbox = self.sandbox.clone();
        let load = move || (Digest::of(&bytes) == digest).then(|| sandbox.load_digested(digest, &bytes));
        let handler = offload(load)
            .await
            .ok_or(Error::DamagedComponent { digest })?
            .map_err(|source| Error::Reload { digest, source })?;
        self.catalog.remember(handler.clone());
        Ok(handler)
    }
}
