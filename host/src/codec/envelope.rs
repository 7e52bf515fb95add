//! EventEnvelope (contract §1): the only shape of an event, in storage and on the bus. A prepared event holds its line
//! up to and including `"sequence_number":`; the committer appends the digits and `}`, so that nothing is ever
//! serialised twice. Parsing borrows; unknown fields stay in the line.

mod build;
mod parse;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::json::Json;
use crate::domain::{Aggregate, Digest, EventKind, Sequence, Timestamp};

/// A stored envelope, borrowed from its line.
#[derive(Debug, Clone)]
pub struct Envelope<'a> {
    pub event_id: Uuid,
    pub event_type: Cow<'a, str>,
    pub aggregate_type: Cow<'a, str>,
    pub aggregate_id: Cow<'a, str>,
    pub occurred_at: Timestamp,
    pub actor: Cow<'a, str>,
    /// Command: see [`CommandData`]. Domain event: the handler's data.
    pub data: &'a RawValue,
    /// See [`Metadata`].
    pub metadata: &'a RawValue,
    pub schema_version: Cow<'a, str>,
    pub sequence_number: Sequence,
}

/// `data` of a command.
#[derive(Debug, Clone)]
pub struct CommandData<'a> {
    pub command_id: Uuid,
    pub command_type: Cow<'a, str>,
    pub expected_seq: Option<u64>,
    pub payload: &'a RawValue,
}

/// `metadata` of any event. Unknown keys stay in the raw text.
#[derive(Debug, Clone)]
pub struct Metadata<'a> {
    pub kind: EventKind,
    pub kafka_topic: Cow<'a, str>,
    pub service: Cow<'a, str>,
    /// Domain events: the command of this very stream whose outcome this is.
    pub command_id: Option<Uuid>,
    pub correlation_id: Option<Cow<'a, str>>,
    pub causation_id: Option<Uuid>,
    pub handler: Option<HandlerRef>,
    pub read_set: Vec<ReadRef>,
    pub traceparent: Option<Cow<'a, str>>,
    /// Domain events, on the last event of an outcome: how many commands the decision issued.
    pub issued: Option<u32>,
}

/// The code that made an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandlerRef {
    pub name: Arc<str>,
    pub version: Arc<str>,
    pub digest: Digest,
    pub revision: u64,
    /// Digests of the upcasters that stood between the stored events of this stream and the handler, in the order of
    /// their first call.
    #[serde(default)]
    pub upcasters: Vec<Digest>,
}

/// Another aggregate's state that a decision read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRef {
    pub aggregate_type: Arc<str>,
    pub aggregate_id: Arc<str>,
    /// Sequence of the last event folded; 0 = absent.
    pub sequence_number: Sequence,
    /// The handler that folded it.
    pub handler_digest: Option<Digest>,
    /// The upcasters before that handler; left out when none was called.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub upcasters: Arc<[Digest]>,
}

/// A prepared event: everything but its sequence number.
#[derive(Debug, Clone)]
pub struct Draft {
    pub event_id: Uuid,
    pub aggregate: Aggregate,
    pub kind: EventKind,
    pub event_type: Arc<str>,
    pub topic: Arc<str>,
    /// Domain events: `metadata.command_id`.
    pub command_id: Option<Uuid>,
    /// Commands: fingerprint of the content.
    pub fingerprint: Option<Digest>,
    /// The line up to and including `"sequence_number":`.
    pub line_head: Bytes,
}

/// What the envelope of a command is made of. `event_id` = `command_id`, `event_type` = `<COMMAND_TYPE>_REQUESTED`.
#[derive(Debug, Clone)]
pub struct CommandDraft<'a> {
    pub command_id: Uuid,
    pub command_type: &'a str,
    pub aggregate: &'a Aggregate,
    pub expected_seq: Option<u64>,
    pub payload: &'a Json,
    pub actor: &'a str,
    pub occurred_at: Timestamp,
    pub correlation_id: &'a str,
    pub causation_id: Option<Uuid>,
    pub traceparent: Option<&'a str>,
    /// Further members of `metadata`: an object without reserved keys.
    pub extra: Option<&'a Json>,
    /// Usually `command_topic(&aggregate.kind)`.
    pub topic: Arc<str>,
    pub service: &'a str,
}

/// What the envelope of a domain event is made of. `event_id` is derived from command id and index.
#[derive(Debug, Clone)]
pub struct DomainDraft<'a> {
    /// The command of this very stream whose outcome this is; in a stream without commands, the operation that made it.
    pub command_id: Uuid,
    pub index: usize,
    pub event_type: &'a str,
    pub aggregate: &'a Aggregate,
    pub occurred_at: Timestamp,
    pub actor: &'a str,
    pub data: &'a Json,
    pub correlation_id: &'a str,
    pub causation_id: Option<Uuid>,
    pub handler: Option<&'a HandlerRef>,
    pub read_set: &'a [ReadRef],
    pub traceparent: Option<&'a str>,
    /// `MAJOR.MINOR.PATCH`.
    pub schema_version: &'a str,
    /// On the last event of an outcome: how many commands the decision issued.
    pub issued: Option<u32>,
    /// Further members of `metadata`: an object without reserved keys.
    pub extra: Option<&'a Json>,
    /// Usually `event_topic(&aggregate.kind)`.
    pub topic: Arc<str>,
    pub service: &'a str,
}

/// Metadata as a client sends it, taken apart.
#[derive(Debug, Clone, Default)]
pub struct ClientMetadata {
    pub correlation_id: Option<String>,
    pub traceparent: Option<String>,
    /// The other members, for `extra`; `None` when there are none.
    pub extra: Option<Json>,
}
