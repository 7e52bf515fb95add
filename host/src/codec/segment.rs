//! Segment: a write-once text object that holds consecutive events of one partition (design §2). Keeps I2 and I4 on the
//! way out by construction and on the way in by checking every count, digest and offset of untrusted bytes.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::domain::{Aggregate, Digest, EventKind, Partition, Position, SegmentNumber, Sequence, Timestamp};

/// Name of the format, the first field of every segment.
pub const FORMAT: &str = "carryall-segment-1";

/// First line of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
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
