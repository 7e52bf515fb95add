//! Segment: a write-once text object that holds consecutive events of one partition (design §2). Keeps I2 and I4 on the
//! way out by construction and on the way in by checking every count, digest and offset of untrusted bytes.

mod decode;
mod encode;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use decode::{Frame, decode, decode_header, frame};
pub use encode::encode;

use crate::domain::{Aggregate, Digest, EventKind, Partition, Position, SegmentNumber, Sequence, Timestamp};

/// Name of the format, the first field of every segment.
pub const FORMAT: &str = "carryall-segment-1";

/// Segments under one folder of a store: enough that no folder grows beyond what tools list with ease.
const SEGMENTS_A_FOLDER: u64 = 10_000;

/// Key of a segment's object.
pub fn key(partition: Partition, segment: SegmentNumber) -> String {
    format!("events/{:04}/{:012}/{:016}.ndjson", partition.0, segment.0 / SEGMENTS_A_FOLDER, segment.0)
}

/// Digest that stands before segment 0.
pub const NO_DIGEST: Digest = Digest([0; 32]);

/// First line of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub store: Uuid,
    pub partition: Partition,
    pub segment: SegmentNumber,
    /// Counts writer sessions; for diagnosis only.
    pub epoch: u64,
    /// Name of the writing process.
    pub writer: String,
    /// Drawn for each segment: tells a writer that the occupant of a slot is its own.
    pub put_id: Uuid,
    /// Digest of the segment before; all zero for segment 0.
    pub prev_digest: Digest,
    pub first_position: Position,
    pub count: u32,
    pub recorded_at: Timestamp,
}

/// One event of a segment; its line is a slice of the segment's bytes.
#[derive(Debug, Clone)]
pub struct Event {
    pub event_id: Uuid,
    pub aggregate: Aggregate,
    pub sequence: Sequence,
    pub kind: EventKind,
    pub event_type: Arc<str>,
    pub topic: Arc<str>,
    pub command_id: Option<Uuid>,
    pub fingerprint: Option<Digest>,
    /// The envelope, without line feed.
    pub line: Bytes,
}

/// A whole segment, ours or another writer's, in the same form.
#[derive(Debug, Clone)]
pub struct Segment {
    pub header: Header,
    /// SHA-256 of all bytes before the footer line.
    pub digest: Digest,
    /// In position order, `header.count` of them.
    pub events: Vec<Event>,
    /// The stored object.
    pub bytes: Bytes,
}

impl Segment {
    /// Position that follows the last event.
    pub fn next_position(&self) -> Position {
        Position(self.header.first_position.0 + u64::from(self.header.count))
    }

    /// Key of the object.
    pub fn key(&self) -> String {
        key(self.header.partition, self.header.segment)
    }
}

/// The first line as it is written: the format's name, then the header.
#[derive(Serialize, Deserialize)]
struct HeaderLine<'a> {
    #[serde(borrow)]
    format: Cow<'a, str>,
    #[serde(flatten)]
    header: Cow<'a, Header>,
}

/// The last line.
#[derive(Serialize, Deserialize)]
struct FooterLine<'a> {
    /// Offset of each event's line from the start of the object.
    offsets: Vec<u64>,
    /// CRC-32C of all bytes before the footer line.
    crc32c: u32,
    #[serde(borrow)]
    fingerprints: Fingerprints<'a>,
    /// SHA-256 of all bytes before the footer line.
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct Fingerprints<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    /// One for each event: of a command its fingerprint, of a domain event null.
    values: Vec<Option<Digest>>,
}
