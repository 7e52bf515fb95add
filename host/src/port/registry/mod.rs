//! Registry of processed events: leases, attempts and the per-aggregate watermark of each consumer. It makes effects
//! happen once per (handler, event id) whatever is redelivered, reordered, killed or paused (I6). Derived: what is
//! *done* can be told from the log.

pub mod memory;

#[cfg(test)]
pub mod conformance;
#[cfg(test)]
mod tests;

pub use memory::MemoryRegistry;

use async_trait::async_trait;
use uuid::Uuid;

use super::Result;
use crate::domain::{Sequence, Timestamp};

/// Status of a row of `processed_events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Processing,
    Done,
    Failed,
    SkippedStale,
    Parked,
}

impl Status {
    /// The text in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Processing => "processing",
            Status::Done => "done",
            Status::Failed => "failed",
            Status::SkippedStale => "skipped_stale",
            Status::Parked => "parked",
        }
    }

    /// The status that this text in the table names.
    pub fn parse(text: &str) -> Option<Status> {
        let all = [Status::Processing, Status::Done, Status::Failed, Status::SkippedStale, Status::Parked];
        all.into_iter().find(|status| status.as_str() == text)
    }
}

/// Who claims: one run of one process. A later run of the same process has a greater `run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `PROCESSED_EVENT_OWNER`: host and instance.
    pub name: String,
    /// Number of this run of that process. Stored together as `name#run`.
    pub run: u64,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.name, self.run)
    }
}

/// An event that a consumer wants to handle.
#[derive(Debug, Clone)]
pub struct Claim {
    pub event_id: Uuid,
    pub aggregate_id: String,
    pub sequence: Sequence,
}

/// What a claim gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// Ours: handle it. Every later write names this attempt.
    Yes { attempt: u32 },
    /// Its effect exists.
    DuplicateDone,
    /// Another owner holds a live lease: do not acknowledge, let the aggregate wait.
    InProgress,
    /// No row exists and the aggregate is past this sequence: it was handled and its row retired. Recorded as
    /// `skipped_stale`.
    Stale,
    /// The event waits in the dead letters.
    Parked,
}

/// A finished event.
#[derive(Debug, Clone)]
pub struct Finished {
    pub event_id: Uuid,
    pub aggregate_id: String,
    pub sequence: Sequence,
    pub attempt: u32,
}

/// A row, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ClaimRow {
    pub handler: String,
    pub event_id: Uuid,
    pub aggregate_id: String,
    pub sequence_number: u64,
    pub status: String,
    pub started_at: Option<Timestamp>,
    pub owner: Option<String>,
    pub heartbeat_at: Option<Timestamp>,
    pub processed_at: Option<Timestamp>,
    pub attempt_count: u32,
    pub last_error: Option<String>,
}

/// Which rows to list.
#[derive(Debug, Clone, Default)]
pub struct ClaimFilter {
    pub handler: Option<String>,
    pub status: Option<Status>,
    pub event_ids: Vec<Uuid>,
    /// Rows after this (handler, event id).
    pub after: Option<(String, Uuid)>,
    pub limit: usize,
}

/// The registry. All calls are safe to repeat. A `claim` whose answer was lost (an error, a dropped future) may have
/// taken its claims: repeat it as the next run of the same owner, which takes them over at once.
#[async_trait]
pub trait Registry: Send + Sync + std::fmt::Debug {
    /// The time by which leases are held, when the caller's clock says `here`: where processes share the registry, its
    /// own, since theirs need not agree.
    async fn time(&self, here: Timestamp) -> Result<Timestamp> {
        Ok(here)
    }
    /// Claims many events of one handler in one statement, in the order given. A row whose lease is older than
    /// `lease_ms`, or that an earlier run of the same owner holds, is taken over with `attempt + 1`; so is a `failed`
    /// one. `Stale` only where no row exists.
    async fn claim(
        &self,
        handler: &str,
        owner: &Owner,
        claims: &[Claim],
        lease_ms: i64,
        now: Timestamp,
    ) -> Result<Vec<Claimed>>;
    /// Renews leases; gives those that are no longer ours.
    async fn heartbeat(&self, handler: &str, owner: &Owner, ids: &[Uuid], now: Timestamp) -> Result<Vec<Uuid>>;
    /// Marks events done and advances `aggregate_versions` (greatest sequence wins), fenced by owner and attempt, in
    /// one transaction; gives the ids that were no longer ours.
    async fn done(&self, handler: &str, owner: &Owner, finished: &[Finished], now: Timestamp) -> Result<Vec<Uuid>>;
    /// Ends attempts without an effect: `Failed` (claimable again) or `Parked`. Fenced like `done`; gives the ids that
    /// were no longer ours.
    async fn fail(
        &self,
        handler: &str,
        owner: &Owner,
        events: &[Finished],
        status: Status,
        error: &str,
        now: Timestamp,
    ) -> Result<Vec<Uuid>>;
    /// Rows that match, ordered by handler and event id.
    async fn rows(&self, filter: &ClaimFilter) -> Result<Vec<ClaimRow>>;
    /// Makes a row claimable at once (status `failed`, no owner), whatever its status but `done`; gives whether there
    /// was one.
    async fn release(&self, handler: &str, event_id: Uuid, now: Timestamp) -> Result<bool>;
    /// Deletes `done` and `skipped_stale` rows older than `before` that `aggregate_versions` covers; at most `limit`.
    async fn retire(&self, before: Timestamp, limit: usize) -> Result<u64>;
}

/// A parked event.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeadLetter {
    /// UUID of the dead letter: derived from handler and event id.
    pub id: Uuid,
    pub handler: String,
    pub event_id: Option<Uuid>,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub sequence_number: u64,
    /// `fault`, `trap`, `limit`, `blocked` (a later event of a parked aggregate), `not-in-log`, `not-an-envelope`.
    pub reason: String,
    pub error: String,
    pub parked_at: Timestamp,
    /// `parked`, `released`, `discarded`.
    pub state: String,
    /// Where the bytes came from, when they are no event of the log.
    pub coordinates: Option<String>,
    /// Sequence of the event that says so in the handler's stream of `Operations`.
    pub operation: Sequence,
}

/// Dead letters: an index of what is parked, derived from the `Operations` streams of the log.
#[async_trait]
pub trait DeadLetters: Send + Sync + std::fmt::Debug {
    /// Adds, or overwrites by id, unless a later operation is known: processes lag, and begin anew. Gives whether the
    /// letter is now as given.
    async fn put(&self, letter: &DeadLetter) -> Result<bool>;
    async fn get(&self, id: Uuid) -> Result<Option<DeadLetter>>;
    /// Those in a state (all: `None`), ordered by id, after an id.
    async fn list(&self, state: Option<&str>, after: Option<Uuid>, limit: usize) -> Result<Vec<DeadLetter>>;
}
