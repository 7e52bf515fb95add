//! What can go wrong with the event log, and what a caller does about it.

use uuid::Uuid;

use crate::codec;
use crate::domain::{Aggregate, Partition};
use crate::error::{Classified, Kind};
use crate::port;

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

impl AppendError {
    /// The same word for another request of the same fate.
    pub(super) fn again(&self) -> AppendError {
        match self {
            AppendError::Closed => AppendError::Closed,
            AppendError::Stopped { reason } => AppendError::Stopped { reason: reason.clone() },
            _ => AppendError::Busy,
        }
    }
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
