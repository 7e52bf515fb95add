//! Command acceptance: what a client sends becomes one envelope in the log, or a refusal that says what to change. One
//! append is all it awaits on the way. Judges form and expectation only, never the payload: that is the handler's
//! (contract §2). Keeps I4 and I5: one id, one content; unknown is never reported as failed.

pub mod bundled;
mod error;
mod identity;
pub mod instance_id;
pub mod operations;

pub use error::Error;
pub use identity::{Identity, command_id};
pub use operations::Operations;

use std::sync::Arc;

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::codec::envelope::{ClientMetadata, CommandDraft, Draft};
use crate::codec::json::Json;
use crate::domain::{Aggregate, Partition, Position, Sequence, command_topic};
use crate::event_store::{Append, AppendError, Appended, EventStore, Expected, Record};
use crate::metrics::{Counter, Metrics};
use crate::port::clock::Clock;
use crate::sandbox::{Catalog, NotTaken, RESERVED_KINDS, World};

#[cfg(test)]
mod tests;

/// Name of this service in the envelopes it writes.
const SERVICE: &str = "carryall";
/// Actor of a command when neither a token nor the client names one.
const ANONYMOUS: &str = "anonymous";
/// Greatest length of `actor`, `correlation_id` and a command type, in bytes: they are repeated in every event.
const NAME_BYTES_MAX: usize = 255;
/// Greatest `expected_seq`: the greatest integer below which a double holds every one.
const SEQUENCE_MAX: u64 = (1 << 53) - 1;

/// What to do about an id that comes again with other content (`EVENT_STORE_IDEMPOTENCY_MISMATCH_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MismatchMode {
    /// Refuse.
    Error,
    /// Log, count, and answer as the first was answered.
    Warn,
}

/// A command as a route hands it over.
#[derive(Debug)]
pub struct Submission<'a> {
    pub identity: Identity,
    pub command_type: &'a str,
    pub aggregate: Aggregate,
    pub expected_seq: Option<u64>,
    pub payload: Json,
    /// As the client sent it.
    pub metadata: Option<&'a RawValue>,
    /// The token's subject, else what the client sent.
    pub actor: Option<&'a str>,
    /// From the header.
    pub correlation_id: Option<&'a str>,
    /// From the header; ignored when it is malformed, as W3C Trace Context asks.
    pub traceparent: Option<&'a str>,
}

/// A command in the log.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub command_id: Uuid,
    pub aggregate: Aggregate,
    pub sequence: Sequence,
    pub partition: Partition,
    pub position: Position,
    /// It was there before.
    pub replayed: bool,
}

/// The acceptance service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: EventStore,
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    mode: MismatchMode,
    mismatches: Counter,
}

impl Service {
    /// A service over the log.
    pub fn new(
        store: EventStore,
        catalog: Arc<Catalog>,
        clock: Arc<dyn Clock>,
        mode: MismatchMode,
        metrics: &Metrics,
    ) -> Service {
        let mismatches = metrics.idempotency_mismatches();
        Service { inner: Arc::new(Inner { store, catalog, clock, mode, mismatches }) }
    }

    /// The id of a command from what the client sent, see [`Identity::resolve`].
    pub fn identify(&self, body: Option<&str>, key: Option<&str>) -> Result<Identity, Error> {
        Identity::resolve(body, key, || self.inner.clock.ordered_id())
    }

    /// Writes the command, or tells why not. Idempotent by command id. When dropped before it returns, the command may
    /// or may not be written: send it again.
    pub async fn submit(&self, submission: Submission<'_>) -> Result<Accepted, Error> {
        let known = self.known(&submission);
        let identity = submission.identity;
        let expected = expectation(submission.command_type, submission.expected_seq)?;
        let draft = self.draft(submission, expected)?;
        if let Err(refusal) = known {
            // A handler may have been replaced since this command was first accepted: a retry gets the first answer.
            return match self.first(identity, &draft).await? {
                Some(record) => Ok(accepted(&record, true)),
                None => Err(refusal),
            };
        }
        let append = Append {
            aggregate: draft.aggregate.clone(),
            expected,
            drafts: vec![draft],
            outcome_of: None,
            ids_are_new: identity.made,
        };
        match self.inner.store.append(append).await {
            Ok(appended) => written(&appended, identity.command_id),
            Err(AppendError::Mismatch { event_id }) => self.mismatch(event_id).await,
            Err(error) => Err(refusal(error, identity.command_id)),
        }
    }

    fn known(&self, submission: &Submission<'_>) -> Result<(), Error> {
        let kind = submission.aggregate.kind.as_str();
        if RESERVED_KINDS.contains(&kind) {
            return Err(Error::ReservedType { kind: kind.into() });
        }
        let active = self.inner.catalog.active();
        let Err(not_taken) = active.takes(kind, submission.command_type) else { return Ok(()) };
        let handler = match not_taken {
            NotTaken::By(handler) => handler,
            NotTaken::HandlerMissing => return Err(Error::HandlerMissing { kind: kind.into() }),
            NotTaken::NoHandler => {
                let deciding = active.iter().filter(|h| matches!(h.handler.world(), World::Instance | World::Ontology));
                let kinds =
                    deciding.flat_map(|h| h.handler.description().kinds.iter().map(ToString::to_string)).collect();
                return Err(Error::UnknownAggregateType { kind: kind.into(), known: list(kinds) });
            }
        };
        let commands = &handler.handler.description().commands;
        Err(Error::UnknownCommandType {
            command_type: identity::cut(submission.command_type),
            kind: kind.into(),
            handler: handler.name.to_string(),
            known: list(commands.iter().map(|command| command.name.clone()).collect()),
        })
    }

    fn draft(&self, submission: Submission<'_>, expected: Expected) -> Result<Draft, Error> {
        let command_id = submission.identity.command_id;
        check_batch(&submission.aggregate, command_id)?;
        let metadata = match submission.metadata {
            Some(raw) if raw.get() != "null" => ClientMetadata::parse(&Json::parse(raw.get().as_bytes())?)?,
            _ => ClientMetadata::default(),
        };
        let actor = submission.actor.unwrap_or(ANONYMOUS);
        short("actor", actor)?;
        let correlation_id = match submission.correlation_id.or(metadata.correlation_id.as_deref()) {
            Some(given) => {
                short("correlation_id", given)?;
                given.to_owned()
            }
            None => command_id.to_string(),
        };
        let given = submission.traceparent.filter(|text| is_traceparent(text));
        let traceparent = match (given, metadata.traceparent) {
            (Some(header), _) => header.to_owned(),
            (None, Some(text)) if is_traceparent(&text) => text,
            (None, Some(_)) => return Err(malformed_traceparent()),
            (None, None) => self.new_trace(command_id),
        };
        let draft = CommandDraft {
            command_id,
            command_type: submission.command_type,
            aggregate: &submission.aggregate,
            expected_seq: match expected {
                Expected::Client(sequence) => Some(sequence),
                _ => None,
            },
            payload: &submission.payload,
            actor,
            occurred_at: self.inner.clock.now(),
            correlation_id: &correlation_id,
            causation_id: None,
            traceparent: Some(&traceparent),
            extra: metadata.extra.as_ref(),
            topic: command_topic(&submission.aggregate.kind).into(),
            service: SERVICE,
        };
        Ok(draft.build()?)
    }

    /// A trace begins at the command: trace id = command id, span id drawn.
    fn new_trace(&self, command_id: Uuid) -> String {
        let span = self.inner.clock.random_id().as_u128() as u64 | 1;
        format!("00-{}-{span:016x}-00", command_id.simple())
    }

    /// The stored command of this id and content.
    async fn first(&self, identity: Identity, draft: &Draft) -> Result<Option<Record>, Error> {
        if identity.made {
            return Ok(None);
        }
        let found = self.inner.store.find(&[identity.command_id]).await?.into_iter().next().flatten();
        Ok(found.filter(|record| record.fingerprint.is_some() && record.fingerprint == draft.fingerprint))
    }

    async fn mismatch(&self, command_id: Uuid) -> Result<Accepted, Error> {
        self.inner.mismatches.add(1);
        if self.inner.mode == MismatchMode::Error {
            return Err(Error::Mismatch { command_id });
        }
        tracing::warn!(%command_id, "a command id came again with other content; answered as the first time");
        match self.inner.store.find(&[command_id]).await?.into_iter().next().flatten() {
            Some(record) => Ok(accepted(&record, true)),
            None => Err(Error::Mismatch { command_id }),
        }
    }
}

/// Create expects 0, update and delete must say, anything else may (contract §2).
fn expectation(command_type: &str, expected_seq: Option<u64>) -> Result<Expected, Error> {
    match expected_seq {
        Some(sequence) if sequence > SEQUENCE_MAX => {
            Err(Error::Field { field: "expected_seq", reason: format!("it must be at most {SEQUENCE_MAX}") })
        }
        Some(sequence) => Ok(Expected::Client(sequence)),
        None if command_type.starts_with("CREATE_") || command_type.starts_with("BULK_CREATE_") => {
            Ok(Expected::Client(0))
        }
        None if command_type.starts_with("UPDATE_") || command_type.starts_with("DELETE_") => Ok(Expected::Missing),
        None => Ok(Expected::Any),
    }
}

/// The batch of a bulk create is named by its command.
fn check_batch(aggregate: &Aggregate, command_id: Uuid) -> Result<(), Error> {
    if aggregate.kind.as_str() != "InstanceBatch" {
        return Ok(());
    }
    match aggregate.id.as_str().rsplit(':').next() {
        Some(last) if last == command_id.to_string() => Ok(()),
        _ => Err(Error::Field {
            field: "aggregate_id",
            reason: format!("the id of this batch must end in its command id, {command_id}"),
        }),
    }
}

fn short(field: &'static str, text: &str) -> Result<(), Error> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        let reason = format!("it must have 1 to {NAME_BYTES_MAX} bytes and no control characters");
        return Err(Error::Field { field, reason });
    }
    Ok(())
}

/// `version-trace-parent-flags` in lower-case hex, as W3C Trace Context has it.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    match parts.as_slice() {
        [version, trace, parent, flags] => {
            hex(version, 2)
                && *version != "ff"
                && hex(trace, 32)
                && !zero(trace)
                && hex(parent, 16)
                && !zero(parent)
                && hex(flags, 2)
        }
        _ => false,
    }
}

fn malformed_traceparent() -> Error {
    Error::Field { field: "metadata.traceparent", reason: "it must be as W3C Trace Context defines it".into() }
}

fn written(appended: &Appended, command_id: Uuid) -> Result<Accepted, Error> {
    match appended.records.first() {
        Some(record) => Ok(accepted(record, appended.replayed)),
        None => Err(Error::Unknown { command_id }),
    }
}

fn accepted(record: &Record, replayed: bool) -> Accepted {
    Accepted {
        command_id: record.event_id,
        aggregate: record.aggregate.clone(),
        sequence: record.sequence,
        partition: record.partition,
        position: record.position,
        replayed,
    }
}

fn refusal(error: AppendError, command_id: Uuid) -> Error {
    match error {
        AppendError::Conflict { aggregate, expected, actual } => Error::Conflict { aggregate, expected, actual },
        AppendError::Mismatch { event_id } => Error::Mismatch { command_id: event_id },
        AppendError::Busy => Error::Busy,
        AppendError::Unknown { .. } => Error::Unknown { command_id },
        AppendError::TooLarge { bytes, .. } => {
            Error::TooLarge { what: "an append", bytes, max: crate::codec::APPEND_BYTES_MAX }
        }
        other => Error::Log(other),
    }
}

fn list(mut names: Vec<String>) -> String {
    names.sort_unstable();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
