//! The derived index of the event log: heads of aggregates, event ids, places of events. A pure function of the log up
//! to its watermark; can be deleted at any time and is rebuilt. The log is the truth, the index never is (I1).

#[cfg(test)]
pub mod conformance;
pub mod memory;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::Result;
use crate::domain::{Aggregate, Digest, EventKind, Partition, Position, SegmentNumber, Sequence, Timestamp};

/// How far the index of a partition has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    /// Segments folded: all with a number below this one.
    pub segments: SegmentNumber,
    /// Position that the next event gets.
    pub next_position: Position,
    /// Digest of the last segment folded; all zero when none is.
    pub digest: Digest,
}

/// The state of an aggregate's stream that the append rules need. All zero for an aggregate that does not exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    /// Sequence of the last event.
    pub last: Sequence,
    /// Sequence of the last command.
    pub last_command: Sequence,
    /// Sequence of the last domain event.
    pub last_domain: Sequence,
    /// Sequence of the last domain event that is not the outcome of a command in this very stream.
    pub last_foreign: Sequence,
}

/// Where and what an event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    pub event_id: Uuid,
    pub partition: Partition,
    pub segment: SegmentNumber,
    pub position: Position,
    pub aggregate: Aggregate,
    pub sequence: Sequence,
    pub kind: EventKind,
    pub event_type: Arc<str>,
    /// The command whose outcome a domain event belongs to; `None` for commands.
    pub command_id: Option<Uuid>,
    /// Fingerprint of a command's content; `None` for domain events.
    pub fingerprint: Option<Digest>,
}

/// One segment as the index takes it.
#[derive(Debug, Clone)]
pub struct SegmentRows {
    pub segment: SegmentNumber,
    pub digest: Digest,
    pub first_position: Position,
    pub recorded_at: Timestamp,
    /// In position order; as many as the segment has events.
    pub events: Vec<EventRow>,
    /// Heads after this segment of every aggregate it touches.
    pub heads: Vec<(Aggregate, Head)>,
}

/// What one consistent read of the index found.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// The watermark that these rows belong to, read in the same transaction.
    pub watermark: Watermark,
    /// For each aggregate asked, its head (all zero when it has none), in the order asked.
    pub heads: Vec<Head>,
    /// For each id asked, its row, in the order asked.
    pub events: Vec<Option<EventRow>>,
}

/// What was seen of a database that is to be emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The store it belongs to.
    pub store: Option<Uuid>,
    /// The watermark that is not this log's, when it is one that makes the database unfit.
    pub watermark: Option<(Partition, Watermark)>,
}

/// What became of an `apply`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// The watermark was not the expected one; nothing was written. Holds the present one.
    Moved(Watermark),
}

/// Index of every partition of one store.
#[async_trait]
pub trait Index: Send + Sync + std::fmt::Debug {
    /// The store this index belongs to, once one is set.
    async fn store_id(&self) -> Result<Option<Uuid>>;
    /// Deletes everything derived from the log (index, registry, statuses, checkpoints, dead letters, read model) and
    /// binds the empty database to the store, if it is still as it was seen; gives whether it was. One transaction:
    /// of several processes that find the same unfit database, one empties it, and no work done since is lost.
    async fn reset(&self, store_id: Uuid, seen: &Seen) -> Result<bool>;
    /// Watermark of a partition; segment 0, position 0 and a zero digest when nothing was folded.
    async fn watermark(&self, partition: Partition) -> Result<Watermark>;
    /// Folds consecutive segments in one transaction and moves the watermark, if it is still `from` (I7).
    async fn apply(&self, partition: Partition, from: &Watermark, segments: &[SegmentRows]) -> Result<Applied>;
    /// Heads, ids and watermark from one snapshot.
    async fn lookup(&self, partition: Partition, aggregates: &[Aggregate], ids: &[Uuid]) -> Result<Lookup>;
    /// Rows of several aggregates: of each the first `limit` above the sequence it is asked with, oldest first; in the
    /// order asked. An implementation may take it that sequences have no gap.
    async fn streams(&self, asked: &[(Aggregate, Sequence)], limit: usize) -> Result<Vec<Vec<EventRow>>>;
    /// The segment that holds a position, with its first position; `None` when it is not indexed.
    async fn locate(&self, partition: Partition, position: Position) -> Result<Option<(SegmentNumber, Position)>>;
    /// Aggregates of a type with an id above `after`, in byte order of the id.
    async fn aggregates(&self, kind: &str, after: Option<&str>, limit: usize) -> Result<Vec<Aggregate>>;
}
