//! The relay's checkpoint, `checkpoints/event_publisher.json`: everything before it is acknowledged by the bus.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::domain::{Position, SegmentNumber, Timestamp};

/// Key of the object.
pub const KEY: &str = "checkpoints/event_publisher.json";

/// Where a partition's relay stands: `position` is the first event not yet acknowledged, `segment` the one holding it
/// (or the one that will).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub segment: SegmentNumber,
    pub position: Position,
}

/// The whole object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub partitions: BTreeMap<u16, Place>,
    pub updated_at: Timestamp,
}

impl Checkpoint {
    /// One line of JSON.
    pub fn encode(&self) -> Bytes {
        unimplemented!()
    }

    /// Reads what any release wrote.
    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, Error> {
        let _ = bytes;
        unimplemented!()
    }
}
