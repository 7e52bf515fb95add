//! Why a read gives no answer.

use uuid::Uuid;

use crate::domain::{IdError, Partition, Position};
use crate::error::{Classified, Kind};
use crate::{codec, event_store, port, state};

/// A refusal or failure of a read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A parameter of the request is not allowed.
    #[error("{name}: {reason}")]
    Parameter { name: &'static str, reason: String },
    /// An identifier breaks its rule.
    #[error(transparent)]
    Id(#[from] IdError),
    /// There is no such thing.
    #[error("there is no {what} {id}")]
    NotFound { what: What, id: String },
    /// The projection has not come as far as the read must be.
    #[error("the projection has not reached what the consistency token asks for; try again")]
    Behind { wanted: Wanted, reached: Vec<(Partition, Position)> },
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] event_store::Error),
    /// A part of the host is away.
    #[error(transparent)]
    Port(#[from] port::Error),
    /// A state could not be folded.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A stored event is not what a writer of this store wrote.
    #[error("stored event {event_id} cannot be read")]
    Stored { event_id: Uuid, source: codec::Error },
}

/// What a consistency token waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The outcome of a command that is not decided yet.
    Outcome(Uuid),
    /// Positions to be projected.
    Positions(Vec<(Partition, Position)>),
}

/// What was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Command,
    Event,
    Aggregate,
    Instance,
    Class,
    Database,
    Document,
    Operation,
}

impl What {
    fn code(self) -> &'static str {
        match self {
            What::Command => "command_not_found",
            What::Event => "event_not_found",
            What::Aggregate => "aggregate_not_found",
            What::Instance => "instance_not_found",
            What::Class => "class_not_found",
            What::Database => "database_not_found",
            What::Document => "document_not_found",
            What::Operation => "operation_not_found",
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code().trim_end_matches("_not_found"))
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Parameter { .. } | Error::Id(_) => Kind::Invalid,
            Error::NotFound { .. } => Kind::NotFound,
            Error::Behind { .. } => Kind::Unavailable,
            Error::Log(source) => source.kind(),
            Error::Port(source) => source.kind(),
            Error::State(source) => source.kind(),
            Error::Stored { .. } => Kind::Corrupt,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Parameter { .. } => "invalid_parameter",
            Error::Id(_) => "invalid_identifier",
            Error::NotFound { what, .. } => what.code(),
            Error::Behind { .. } => "projection-behind",
            Error::Log(source) => source.code(),
            Error::Port(source) => source.code(),
            Error::State(source) => source.code(),
            Error::Stored { .. } => "stored_event_unreadable",
        }
    }
}
