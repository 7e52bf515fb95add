//! The relay's checkpoint, `checkpoints/event_publisher.json`: everything before it is acknowledged by the bus.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::domain::{Digest, Position, SegmentNumber, Timestamp};

/// Key of the object.
pub const KEY: &str = "checkpoints/event_publisher.json";

/// Where a partition's relay stands: `position` is the first event not yet acknowledged, `segment` the one holding it
/// (or the one that will).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub segment: SegmentNumber,
    pub position: Position,
    /// Digest of the segment before: tells whether the log at hand is the one that was sent, or one restored since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
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
        let mut text = serde_json::to_vec(self).expect("numbers and times always serialise");
        text.push(b'\n');
        Bytes::from(text)
    }

    /// Reads what any release wrote.
    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, Error> {
        serde_json::from_slice(bytes).map_err(|error| Error::Checkpoint { reason: error.to_string() })
    }

    /// Whether no partition of `self` is behind `other`: a checkpoint only moves forward (I7).
    pub fn covers(&self, other: &Checkpoint) -> bool {
        let at = |place: &Place| (place.segment, place.position);
        let covered = |(partition, place)| self.partitions.get(partition).is_some_and(|own| at(own) >= at(place));
        other.partitions.iter().all(covered)
    }
}
