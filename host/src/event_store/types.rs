//! What callers give to the event store and get from it. Plain values; the one rule kept here is that an append has the
//! form that makes it atomic and idempotent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::{AppendError, Error};
use crate::codec::envelope::{Draft, Envelope};
use crate::codec::pack;
use crate::codec::segment::{Event, Header, Segment};
use crate::codec::{self, APPEND_BYTES_MAX};
use crate::domain::{Aggregate, Digest, EventKind, Partition, Position, SegmentNumber, Sequence, Timestamp};
use crate::metrics::Metrics;

/// Limits and names of one process's event store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of this writer in segment headers; for diagnosis only.
    pub writer: String,
    /// Partitions of a store that is created now; an existing store keeps its own number.
    pub partitions: u16,
    /// Bytes of appends that may wait per partition; more are refused with [`AppendError::Busy`].
    pub queue_bytes_max: usize,
    /// Size at which a segment takes no further append.
    pub segment_bytes_max: usize,
    /// Events at which a segment takes no further append.
    pub segment_events_max: usize,
    /// How long an append waits for an unresolved write before it answers [`AppendError::Unknown`].
    pub unresolved_answer_after_ms: u64,
    /// Bytes of recent segments kept in memory for readers of the tail, per partition.
    pub recent_bytes_max: usize,
    /// Bytes of older segments kept in memory for readers, over all partitions.
    pub cache_bytes_max: usize,
    /// Heads of aggregates kept in memory, per partition.
    pub heads_max: usize,
    /// Bytes of committed segments that may wait for the index; beyond it appends are refused with `Busy`.
    pub unindexed_bytes_max: usize,
    /// How the committer waits for further appends to share a segment with when it is busy.
    pub commit_linger: Option<Linger>,
    /// How long the indexer waits for further segments to share a transaction with; 0: not at all.
    pub index_linger_ms: u64,
    /// How long it takes at most to look for segments of other writers again, when idle; while they write it is looked
    /// for far more often. `None` when this process is the only writer.
    pub follow_ms: Option<u64>,
    /// How often the by-date index objects are written.
    pub by_date_ms: u64,
    /// Segments of a pack: the same in all processes of a store.
    pub pack_size: pack::Size,
    /// Where commits are counted.
    pub metrics: Metrics,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            writer: "carryall".into(),
            partitions: 1,
            queue_bytes_max: 32 * 1024 * 1024,
            segment_bytes_max: 4 * 1024 * 1024,
            segment_events_max: 4096,
            unresolved_answer_after_ms: 10_000,
            recent_bytes_max: 16 * 1024 * 1024,
            cache_bytes_max: 32 * 1024 * 1024,
            heads_max: 100_000,
            unindexed_bytes_max: 64 * 1024 * 1024,
            commit_linger: None,
            index_linger_ms: 0,
            follow_ms: None,
            by_date_ms: 60_000,
            pack_size: pack::Size::default(),
            metrics: Metrics::new(),
        }
    }
}

/// A wait for company, where what a segment costs is worth more than the wait.
#[derive(Debug, Clone, Copy)]
pub struct Linger {
    pub ms: u64,
    /// Requests of the last segment from which on the next one waits.
    pub requests_min: usize,
}

/// A future that the app spawns and owns. Ends after [`EventStore::close`], or with the error that stopped it.
pub struct Task {
    pub name: &'static str,
    pub future: Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>,
}

/// What opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// The store was created by this call.
    pub created: bool,
    /// Why the index had to be rebuilt, if it had to be.
    pub rebuilt: Option<Rebuilt>,
    /// Events folded into the index by this call.
    pub folded_events: u64,
}

/// Why an index was thrown away and folded again from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuilt {
    /// It was missing or empty while the log is not.
    Empty,
    /// It belongs to another store.
    OtherStore,
    /// It is ahead of the log (a bucket was restored).
    Ahead,
    /// Its digest differs from the log's.
    DigestDiffers,
}

/// What an append expects of its aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Any,
    /// A client that had to send `expected_seq` and did not: always a conflict, unless the id is known.
    Missing,
    /// `expected_seq` of a client: the rule of contract §2.
    Client(u64),
    /// The last domain event is this one (workers; 0 = none).
    LastDomain(Sequence),
    /// As `LastDomain`, the last one of the append before it to the same aggregate in the same `append_all`, which must
    /// have been written by that call (workers that decided several commands of one aggregate one after another).
    Chained,
    /// The last event is this one (0 = none).
    Exactly(Sequence),
}

/// Events to be written together or not at all: one command, or the domain events of one decision.
#[derive(Debug, Clone)]
pub struct Append {
    pub aggregate: Aggregate,
    pub expected: Expected,
    /// Not empty. Either one command, or domain events that share one `command_id` with indices 0, 1, 2 …
    pub drafts: Vec<Draft>,
    /// Sequence of the command (in this very stream) whose outcome the drafts are.
    pub outcome_of: Option<Sequence>,
    /// The caller drew the ids at random just now: no look-up is needed.
    pub ids_are_new: bool,
}

/// What an append gives.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The events as they are stored, in order.
    pub records: Vec<Record>,
    /// The ids existed: `records` are the stored ones (for domain events: the whole stored outcome).
    pub replayed: bool,
}

/// A stored event.
#[derive(Debug, Clone)]
pub struct Record {
    pub partition: Partition,
    pub segment: SegmentNumber,
    pub position: Position,
    pub sequence: Sequence,
    pub event_id: Uuid,
    pub aggregate: Aggregate,
    pub kind: EventKind,
    pub event_type: Arc<str>,
    pub topic: Arc<str>,
    /// Domain events: `metadata.command_id`.
    pub command_id: Option<Uuid>,
    /// Commands: fingerprint of the content.
    pub fingerprint: Option<Digest>,
    pub recorded_at: Timestamp,
    /// The envelope, a slice of the segment's bytes, without line feed.
    pub line: Bytes,
}

/// What a look at the log found.
#[derive(Debug)]
pub struct Selection {
    /// The events wanted, in order.
    pub records: Vec<Record>,
    /// Position after the last event looked at: `from` at the end of the log.
    pub next: Position,
    /// When the last event looked at was recorded.
    pub recorded_at: Timestamp,
}

impl Record {
    /// The envelope, parsed.
    pub fn envelope(&self) -> Result<Envelope<'_>, codec::Error> {
        Envelope::parse(&self.line)
    }

    /// A copy to be kept: its line is its own, so that it does not hold its whole segment in memory.
    #[must_use]
    pub fn detached(&self) -> Record {
        Record { line: Bytes::copy_from_slice(&self.line), ..self.clone() }
    }
}

impl Record {
    /// The event at this index of a segment.
    pub(super) fn of(segment: &Segment, index: usize) -> Option<Record> {
        segment.events.get(index).map(|event| Record::new(&segment.header, index, event))
    }

    /// The event with this index of the segment with this header.
    pub(super) fn new(header: &Header, index: usize, event: &Event) -> Record {
        Record {
            partition: header.partition,
            segment: header.segment,
            position: Position(header.first_position.0 + index as u64),
            sequence: event.sequence,
            event_id: event.event_id,
            aggregate: event.aggregate.clone(),
            kind: event.kind,
            event_type: event.event_type.clone(),
            topic: event.topic.clone(),
            command_id: event.command_id,
            fingerprint: event.fingerprint,
            recorded_at: header.recorded_at,
            line: event.line.clone(),
        }
    }
}

impl Append {
    /// Upper bound of what the events take in a segment.
    pub(super) fn bytes(&self) -> usize {
        self.drafts.iter().map(Draft::bytes_max).sum()
    }

    /// Refuses what is no single append, or too large for one.
    pub(super) fn check(&self, events_max: usize) -> Result<(), AppendError> {
        let malformed = |reason| Err(AppendError::Malformed { reason });
        let Some(first) = self.drafts.first() else { return malformed("no events") };
        if self.drafts.iter().any(|draft| draft.aggregate != self.aggregate) {
            return malformed("an event of another aggregate");
        }
        if first.kind == EventKind::Command && self.drafts.len() > 1 {
            return malformed("more than one command");
        }
        if self.drafts.iter().any(|draft| draft.kind != first.kind || draft.command_id != first.command_id) {
            return malformed("events of different decisions");
        }
        if first.kind == EventKind::Command && self.outcome_of.is_some() {
            return malformed("a command is no outcome");
        }
        let bytes = self.bytes();
        if bytes > APPEND_BYTES_MAX || self.drafts.len() > events_max {
            return Err(AppendError::TooLarge { bytes, events: self.drafts.len() });
        }
        Ok(())
    }
}
