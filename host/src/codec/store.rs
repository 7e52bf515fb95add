//! `meta/store.json`: which store this is. Written once, when the store is created.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Error;
use crate::domain::Timestamp;

/// Key of the object.
pub const KEY: &str = "meta/store.json";
/// Name of the layout of keys and formats.
pub const FORMAT: &str = "carryall-store-1";
/// Most partitions a store may have.
pub const PARTITIONS_MAX: u16 = 1024;

/// The whole object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreMeta {
    pub format: String,
    pub store: Uuid,
    /// Fixed for ever: an aggregate's partition depends on it.
    pub partitions: u16,
    pub created_at: Timestamp,
}

impl StoreMeta {
    /// One line of JSON.
    pub fn encode(&self) -> Bytes {
        let mut text = serde_json::to_vec(self).expect("plain fields always serialise");
        text.push(b'\n');
        Bytes::from(text)
    }

    /// Reads what any release wrote; refuses formats of the future.
    pub fn decode(bytes: &[u8]) -> Result<StoreMeta, Error> {
        let refuse = |reason: String| Error::Store { reason };
        let meta: StoreMeta = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        if meta.format != FORMAT {
            return Err(refuse(format!("format {:?}, this release reads {FORMAT:?}", meta.format)));
        }
        if meta.partitions == 0 || meta.partitions > PARTITIONS_MAX {
            return Err(refuse(format!("{} partitions", meta.partitions)));
        }
        Ok(meta)
    }
}
