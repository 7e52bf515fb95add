//! Why a command was not accepted. Nothing was written, but for [`Error::Unknown`], where that is not known.

use uuid::Uuid;

use crate::codec::{self, json};
use crate::domain::{Aggregate, IdError};
use crate::error::{Classified, Kind};
use crate::{event_store, port, state};

/// A refusal or failure of command acceptance or of an operator's action.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A member of the request is missing or not allowed.
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    /// An identifier breaks its rule.
    #[error(transparent)]
    Id(#[from] IdError),
    /// Two places of the request say different things.
    #[error("{what} disagree; {advice}")]
    Disagree { what: &'static str, advice: &'static str },
    /// A JSON text in the request is not taken.
    #[error(transparent)]
    Json(#[from] json::Error),
    /// A command of the host itself, or of its own aggregates.
    #[error("aggregates of type {kind} are written by the host only")]
    ReservedType { kind: String },
    /// Metadata names a key that only the host writes.
    #[error("metadata key {key:?} is written by the host only; leave it out")]
    ReservedMetadata { key: String },
    /// No active handler decides for this aggregate type.
    #[error(
        "no active handler decides for aggregates of type {kind:?}; upload and activate one that lists it in `kinds` \
         (known now: {known})"
    )]
    UnknownAggregateType { kind: String, known: String },
    /// The handler of the type could not be loaded.
    #[error("the handler of aggregates of type {kind} does not serve at the moment; its operator knows why")]
    HandlerMissing { kind: String },
    /// The active handler does not accept such a command.
    #[error("handler {handler} takes no {command_type:?} for aggregates of type {kind}; it takes: {known}")]
    UnknownCommandType { command_type: String, kind: String, handler: String, known: String },
    /// The expectation does not hold (`expected` missing: none was sent where one is needed).
    #[error("{aggregate} is at sequence {actual}, the request says {}", said(*expected))]
    Conflict { aggregate: Aggregate, expected: Option<u64>, actual: u64 },
    /// The id was used for a command with other content.
    #[error("command {command_id} was accepted before with other content")]
    Mismatch { command_id: Uuid },
    /// The command is over a limit.
    #[error("{what} of {bytes} bytes is over the limit of {max} bytes")]
    TooLarge { what: &'static str, bytes: usize, max: usize },
    /// Too much waits already.
    #[error("too many commands wait already; nothing was written")]
    Busy,
    /// It is not known whether the command was written.
    #[error("whether command {command_id} was written is not known yet; ask for its status or send it again as it is")]
    Unknown { command_id: Uuid },
    /// The log takes nothing, for a reason the client cannot change.
    #[error("the event log takes no commands at the moment")]
    Log(#[source] event_store::AppendError),
    /// The log could not be read.
    #[error("the event log cannot be read at the moment")]
    Read(#[from] event_store::Error),
    /// A part of the host is away.
    #[error(transparent)]
    Port(#[from] port::Error),
    /// Dead letters: not found, or not waiting.
    #[error(transparent)]
    State(#[from] state::Error),
    /// There is no such claim.
    #[error("handler {handler} holds no claim of event {event_id}, or the event is done")]
    NoClaim { handler: String, event_id: Uuid },
}

fn said(expected: Option<u64>) -> String {
    expected.map_or_else(|| "nothing".to_owned(), |sequence| sequence.to_string())
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Field { .. } | Error::Id(_) | Error::Disagree { .. } | Error::Json(_) => Kind::Invalid,
            Error::ReservedType { .. } | Error::ReservedMetadata { .. } => Kind::Invalid,
            Error::UnknownAggregateType { .. } | Error::UnknownCommandType { .. } => Kind::Invalid,
            Error::Mismatch { .. } | Error::TooLarge { .. } => Kind::Invalid,
            Error::Conflict { .. } => Kind::Conflict,
            Error::Busy | Error::HandlerMissing { .. } => Kind::Unavailable,
            Error::Unknown { .. } => Kind::Unknown,
            Error::Log(source) => source.kind(),
            Error::Read(source) => source.kind(),
            Error::Port(source) => source.kind(),
            Error::State(source) => source.kind(),
            Error::NoClaim { .. } => Kind::NotFound,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Field { .. } => "invalid_field",
            Error::Id(_) => "invalid_identifier",
            Error::Disagree { .. } => "contradicting_request",
            Error::Json(source) => source.code(),
            Error::ReservedType { .. } => "reserved_aggregate_type",
            Error::ReservedMetadata { .. } => "reserved_metadata",
            Error::UnknownAggregateType { .. } => "unknown_aggregate_type",
            Error::HandlerMissing { .. } => "handler_missing",
            Error::UnknownCommandType { .. } => "unknown_command_type",
            Error::Conflict { .. } => "optimistic_concurrency_conflict",
            Error::Mismatch { .. } => "idempotency_mismatch",
            Error::TooLarge { .. } => "too_large",
            Error::Busy => "overloaded",
            Error::Unknown { .. } => "outcome_unknown",
            Error::Log(source) => source.code(),
            Error::Read(source) => source.code(),
            Error::Port(source) => source.code(),
            Error::State(source) => source.code(),
            Error::NoClaim { .. } => "claim_not_found",
        }
    }
}

impl From<codec::Error> for Error {
    fn from(error: codec::Error) -> Error {
        match error {
            codec::Error::Json(error) => Error::Json(error),
            codec::Error::ReservedMetadata { key } => Error::ReservedMetadata { key },
            codec::Error::TooLarge { bytes, max } => Error::TooLarge { what: "an envelope", bytes, max },
            codec::Error::MetadataNotObject => {
                Error::Field { field: "metadata", reason: "it must be a JSON object".into() }
            }
            other => Error::Field { field: "metadata", reason: other.to_string() },
        }
    }
}
