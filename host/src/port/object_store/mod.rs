//! Object store: a flat map from key to bytes. The event log needs exactly one strong thing of it: `put_new` is atomic.

pub mod conformance;
pub mod faulty;
pub mod memory;
pub mod probe;

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use bytes::Bytes;

use super::Result;

/// What became of a write that must create its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutNew {
    /// The key did not exist and now holds exactly these bytes, durably.
    Created,
    /// The key held something before this call (perhaps the same bytes, from an earlier attempt of the same writer).
    Exists,
    /// It is not known whether the bytes were, or still will be, written: time-out, 5xx, 409, cut answer. Repeating
    /// the same bytes to the same key is safe.
    Unknown,
}

/// What became of a compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutIf {
    Written,
    /// The key's content was not the expected one; nothing was written.
    Changed,
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Keys in byte order.
    pub keys: Vec<String>,
    /// Whether more keys follow the last one.
    pub more: bool,
}

/// A store of objects. Keys are `/`-separated, relative, without `.` or `..` parts; no
/// key is the folder of another.
///
/// Contract: `put_new` is atomic and durable once it says `Created`; a reader sees a key whole or not at all; after
/// `Created` every `get` of the key gives those bytes. `get` that says `None` proves nothing about writes under way.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// Creates the key with these bytes, or changes nothing. The only commit of the event log (I1, I2).
    /// An **error** means that this call wrote nothing and never will (refused, disk full, no connection); whatever is
    /// less certain is [`PutNew::Unknown`].
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<PutNew>;
    /// The whole object, or `None` when the key does not exist.
    async fn get(&self, key: &str) -> Result<Option<Bytes>>;
    /// Writes or overwrites. For derived objects only, never under `events/`.
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()>;
    /// Writes when the present content is `expected` (`None`: the key does not exist). For small derived objects.
    async fn put_if(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> Result<PutIf>;
    /// Keys that begin with `prefix` and come after `after` in byte order, at most `limit`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing>;
    /// Removes the key if it exists. For derived objects and probes only.
    async fn delete(&self, key: &str) -> Result<()>;
}
