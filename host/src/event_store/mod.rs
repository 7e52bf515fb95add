//! The event log: appends, reads, and the view that appends are judged against (design §2). The only commit point is
//! one `put_new` of a segment. Keeps I1 to I5. Never holds a lock over I/O; spawns nothing (the app spawns its tasks).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use crate::codec::{self, envelope::Draft, envelope::Envelope};
use crate::domain::{Aggregate, Digest, EventKind, Partition, Position, SegmentNumber, Sequence, Timestamp};
use crate::error::{Classified, Kind};
use crate::port;
use crate::port::clock::Clock;
use crate::port::index::{Head, Index};
use crate::port::object_store::ObjectStore;

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
        }
    }
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

impl Record {
    /// The envelope, parsed.
    pub fn envelope(&self) -> Result<Envelope<'_>, codec::Error> {
        Envelope::parse(&self.line)
    }
}

/// Why an append was not done, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The expectation does not hold; nothing was written.
    #[error("{aggregate} is at {actual}, not as expected ({expected:?})")]
    Conflict { aggregate: Aggregate, expected: Option<u64>, actual: u64 },
    /// The id exists with other content; nothing was written.
    #[error("event {event_id} exists with other content")]
    Mismatch { event_id: Uuid },
    /// Too much waits already; nothing was written.
    #[error("the event log takes no more appends at the moment")]
    Busy,
    /// Not known yet; the store goes on resolving it, and a retry with the same id gets the truth.
    #[error("whether event {event_id} was written is not known yet")]
    Unknown { event_id: Uuid },
    /// More than one append may hold; nothing was written.
    #[error("an append of {bytes} bytes and {events} events is over the limits")]
    TooLarge { bytes: usize, events: usize },
    /// The drafts do not form one append; a bug of the caller.
    #[error("malformed append: {reason}")]
    Malformed { reason: &'static str },
    /// A part is away; nothing was written.
    #[error(transparent)]
    Unavailable(#[from] port::Error),
    /// The store stopped since it met this.
    #[error("the event log stopped: {reason}")]
    Stopped { reason: String },
    /// The store is closed; nothing was written.
    #[error("the event log is closed")]
    Closed,
}

impl Classified for AppendError {
    fn kind(&self) -> Kind {
        match self {
            AppendError::Conflict { .. } => Kind::Conflict,
            AppendError::Mismatch { .. } | AppendError::TooLarge { .. } => Kind::Invalid,
            AppendError::Busy | AppendError::Closed | AppendError::Stopped { .. } => Kind::Unavailable,
            AppendError::Unknown { .. } => Kind::Unknown,
            AppendError::Malformed { .. } => Kind::Bug,
            AppendError::Unavailable(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            AppendError::Conflict { .. } => "optimistic_concurrency_conflict",
            AppendError::Mismatch { .. } => "idempotency_mismatch",
            AppendError::Busy => "overloaded",
            AppendError::Unknown { .. } => "outcome_unknown",
            AppendError::TooLarge { .. } => "append_too_large",
            AppendError::Malformed { .. } => "malformed_append",
            AppendError::Unavailable(error) => error.code(),
            AppendError::Stopped { .. } => "event_log_stopped",
            AppendError::Closed => "shutting_down",
        }
    }
}

/// A failure of opening, reading or of a task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Port(#[from] port::Error),
    /// The object under this key is not what a writer of this store wrote.
    #[error("{key}: {source}")]
    Object { key: String, source: codec::Error },
    /// The object under this key is no successor of what is before it in this store.
    #[error("{key}: {reason}")]
    Chain { key: String, reason: String },
    /// The index contradicts the log.
    #[error("the index contradicts the log: {reason}")]
    Index { reason: String },
    /// A partition this store does not have.
    #[error("there is no partition {0}")]
    NoPartition(Partition),
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Port(error) => error.kind(),
            Error::Object { .. } | Error::Chain { .. } | Error::Index { .. } => Kind::Corrupt,
            Error::NoPartition(_) => Kind::NotFound,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Port(error) => error.code(),
            Error::Object { .. } => "corrupt_object",
            Error::Chain { .. } => "broken_chain",
            Error::Index { .. } => "index_contradicts_log",
            Error::NoPartition(_) => "no_such_partition",
        }
    }
}

/// The event log of one store, as one process sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {}

impl EventStore {
    /// Opens the log: creates `meta/store.json` if there is none, brings the index to the log's end (throws it away and
    /// folds again when it must), and gives the tasks to spawn: nothing is appended before they run.
    pub async fn open(
        options: Options,
        objects: Arc<dyn ObjectStore>,
        index: Arc<dyn Index>,
        clock: Arc<dyn Clock>,
    ) -> Result<(EventStore, Vec<Task>, OpenReport), Error> {
        let _ = (options, objects, index, clock);
        unimplemented!()
    }

    /// Takes no more appends, finishes those taken, lets the tasks end. Returns when all is written and indexed.
    pub async fn close(&self) {
        unimplemented!()
    }

    /// Id of the store.
    pub fn store_id(&self) -> Uuid {
        unimplemented!()
    }

    /// Number of partitions.
    pub fn partitions(&self) -> u16 {
        unimplemented!()
    }

    /// Partition of an aggregate.
    pub fn partition_of(&self, aggregate: &Aggregate) -> Partition {
        Partition::of(aggregate, self.partitions())
    }

    /// Writes events, or tells why not. Idempotent by event id. When dropped before it returns, the events may or may
    /// not be written: ask again with the same ids.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let _ = append;
        unimplemented!()
    }

    /// Appends enqueued together, so that they share segments; each succeeds or fails for itself. Answers in the order
    /// given.
    pub async fn append_all(&self, appends: Vec<Append>) -> Vec<Result<Appended, AppendError>> {
        let _ = appends;
        unimplemented!()
    }

    /// Head of an aggregate, up to the committed end.
    pub async fn head(&self, aggregate: &Aggregate) -> Result<Head, Error> {
        let _ = aggregate;
        unimplemented!()
    }

    /// Heads of aggregates, in the order given.
    pub async fn heads(&self, aggregates: &[Aggregate]) -> Result<Vec<Head>, Error> {
        let _ = aggregates;
        unimplemented!()
    }

    /// Events of one aggregate with a sequence above `after`, oldest first, up to the committed end.
    pub async fn stream(&self, aggregate: &Aggregate, after: Sequence, limit: usize) -> Result<Vec<Record>, Error> {
        let _ = (aggregate, after, limit);
        unimplemented!()
    }

    /// Events by id, over all partitions, in the order asked.
    pub async fn find(&self, ids: &[Uuid]) -> Result<Vec<Option<Record>>, Error> {
        let _ = ids;
        unimplemented!()
    }

    /// The log in order, from a position. Cheap at the tail. Empty at the end.
    pub async fn read(&self, partition: Partition, from: Position, limit: usize) -> Result<Vec<Record>, Error> {
        let _ = (partition, from, limit);
        unimplemented!()
    }

    /// The domain events that are the outcome of a command; empty while it is undecided.
    pub async fn outcome(&self, command_id: Uuid) -> Result<Vec<Record>, Error> {
        let _ = command_id;
        unimplemented!()
    }

    /// Position that the next event of a partition gets.
    pub fn end(&self, partition: Partition) -> Position {
        let _ = partition;
        unimplemented!()
    }

    /// Follows the end of a partition.
    pub fn watch_end(&self, partition: Partition) -> watch::Receiver<Position> {
        let _ = partition;
        unimplemented!()
    }

    /// The segment that holds a position, or will hold it when it is the end.
    pub async fn segment_of(&self, partition: Partition, position: Position) -> Result<SegmentNumber, Error> {
        let _ = (partition, position);
        unimplemented!()
    }

    /// First position that the index does not have yet.
    pub fn indexed_to(&self, partition: Partition) -> Position {
        let _ = partition;
        unimplemented!()
    }

    /// Aggregates of a type with an id above `after`, in byte order of the id, up to the committed end.
    pub async fn aggregates(&self, kind: &str, after: Option<&str>, limit: usize) -> Result<Vec<Aggregate>, Error> {
        let _ = (kind, after, limit);
        unimplemented!()
    }
}
