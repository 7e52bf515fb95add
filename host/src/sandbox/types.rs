//! What goes into a handler and what comes out, free of WIT versions. Inputs borrow, so that a call copies each text
//! once, into the guest; outputs are checked values (see `check`).

use crate::codec::json::Json;
use crate::domain::{Aggregate, Timestamp};
use crate::port::read_model::{Change, DocumentKey};

/// An aggregate, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AggregateRef<'a> {
    pub kind: &'a str,
    pub id: &'a str,
}

impl<'a> From<&'a Aggregate> for AggregateRef<'a> {
    fn from(aggregate: &'a Aggregate) -> Self {
        AggregateRef { kind: aggregate.kind.as_str(), id: aggregate.id.as_str() }
    }
}

/// A name and a value that travel with a command or event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: &'a str,
    pub value: &'a str,
}

/// A header that a handler made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedHeader {
    pub name: String,
    pub value: String,
}

/// A command, as a handler sees it.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub target: AggregateRef<'a>,
    pub expected_seq: Option<u64>,
    /// JSON text.
    pub payload: &'a str,
    pub actor: Option<&'a str>,
    pub headers: &'a [Header<'a>],
}

/// A recorded domain event, as a handler sees it.
#[derive(Debug, Clone, Copy)]
pub struct RecordedEvent<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub schema_version: &'a str,
    pub source: AggregateRef<'a>,
    pub seq: u64,
    pub at: Timestamp,
    /// JSON text.
    pub data: &'a str,
    pub headers: &'a [Header<'a>],
}

/// The state of another aggregate that was read for a decision.
#[derive(Debug, Clone, Copy)]
pub struct ReadValue<'a> {
    pub source: AggregateRef<'a>,
    /// 0 when the aggregate has no event.
    pub seq: u64,
    pub schema_version: &'a str,
    /// JSON text; `None` when absent or deleted.
    pub state: Option<&'a str>,
}

/// An event that a decision wants appended.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub name: String,
    pub schema_version: String,
    pub data: Json,
    pub headers: Vec<OwnedHeader>,
}

/// A command that a decision issues for another aggregate.
#[derive(Debug, Clone)]
pub struct NewCommand {
    pub name: String,
    pub target: Aggregate,
    pub expected_seq: Option<u64>,
    pub payload: Json,
    pub headers: Vec<OwnedHeader>,
}

/// What a decision wants done. Has at least one event or command.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub events: Vec<NewEvent>,
    pub commands: Vec<NewCommand>,
}

/// One reason for a refusal. `pointer` is a JSON pointer into the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub code: String,
    pub message: String,
    pub pointer: Option<String>,
}

/// The answer of `decide`.
#[derive(Debug, Clone)]
pub enum Verdict {
    Accepted(Outcome),
    /// Valid, and changes nothing: recorded as `COMMAND_UNCHANGED`.
    Unchanged,
    /// A business refusal, with at least one problem: recorded as `COMMAND_FAILED`, never retried.
    Rejected(Vec<Problem>),
}

/// How much a newer class definition endangers what is stored under the older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Identical,
    Compatible,
    Breaking,
}

/// The answer of `compare`.
#[derive(Debug, Clone)]
pub struct Comparison {
    pub level: Level,
    pub findings: Vec<Problem>,
}

/// A document that was fetched for `project`. One that does not exist is left out.
#[derive(Debug, Clone, Copy)]
pub struct FetchedDocument<'a> {
    pub key: &'a DocumentKey,
    /// JSON text.
    pub body: &'a str,
}

/// A write of a projection, and the index of the event that caused it. Causes never decrease.
#[derive(Debug, Clone)]
pub struct CausedChange {
    pub cause: usize,
    pub change: Change,
}

/// An event as stored, before upcasting.
#[derive(Debug, Clone, Copy)]
pub struct StoredRef<'a> {
    pub name: &'a str,
    pub schema_version: &'a str,
    /// JSON text.
    pub data: &'a str,
}

/// An event after upcasting.
#[derive(Debug, Clone)]
pub struct Stored {
    pub name: String,
    pub schema_version: String,
    pub data: Json,
}
