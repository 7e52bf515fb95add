//! What the services share: folded states of aggregates, how far consumers are, who waits for an outcome, and which
//! aggregates are parked. Reads the log and calls the sandbox; decides nothing and appends nothing but `Operations`
//! events.

pub mod claims;
pub mod completions;
pub mod consumer;
pub mod fold;
pub mod held;
pub mod intake;
pub mod offload;
pub mod outcome;
pub mod parking;
pub mod progress;
pub mod snapshots;
pub mod states;
pub mod upcast;

pub use claims::{Claims, finished};
pub use completions::Completions;
pub use consumer::{Batch, Consumer, Context, Item, Work};
pub use fold::{Folded, Stream};
pub use held::{Held, Place, WAITING_MAX};
pub use intake::Intake;
pub use offload::{call_guests, call_guests_for_each, offload};
pub use parking::{ParkRequest, Parking, Release, Stranger};
pub use progress::{ConsumerProgress, ConsumerState, Progress};
pub use snapshots::Snapshots;
pub use states::{Asked, At, States};
pub use upcast::{Presented, Upcasters};

use std::time::Duration;

use crate::domain::Aggregate;
use crate::error::{Classified, Kind};
use crate::{codec, event_store, port, sandbox};

#[cfg(test)]
mod tests;

/// How long those who follow the log wait when a part is away, before they try again.
const FOLLOW_RETRY: Duration = Duration::from_millis(500);

/// Why a state could not be given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No active handler decides for this aggregate type.
    #[error("no active handler for aggregates of type {kind}; upload and activate one that lists it in its kinds")]
    NoHandler { kind: String },
    /// The handler that decides for this aggregate type could not be loaded; it is tried again.
    #[error("the handler of aggregates of type {kind} does not serve: its component is damaged or missing")]
    HandlerMissing { kind: String },
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] event_store::Error),
    /// A stored event is no envelope.
    #[error("stored event of {aggregate} cannot be read")]
    Stored { aggregate: Aggregate, source: codec::Error },
    /// The handler's `evolve` failed on the history.
    #[error("handler {handler} cannot fold {aggregate} up to sequence {sequence}: {failure}")]
    Evolve { handler: String, aggregate: Aggregate, sequence: u64, failure: sandbox::Failure },
    /// Nothing brings a stored event to a version that the handler folds.
    #[error(
        "handler {handler} cannot read {event} at sequence {sequence} of {aggregate}: it folds {understood}, and no \
         active upcaster leads there"
    )]
    NotFolded { handler: String, aggregate: Aggregate, sequence: u64, event: String, understood: String },
    /// An upcaster that is in charge could not be loaded; it is tried again.
    #[error("an upcaster of aggregates of type {kind} does not serve: its component is damaged or missing")]
    UpcasterMissing { kind: String },
    /// An upcaster failed on a stored event.
    #[error("upcaster {upcaster} fails on sequence {sequence} of {aggregate}: {failure}")]
    Upcast { upcaster: String, aggregate: Aggregate, sequence: u64, failure: sandbox::Failure },
    /// Upcasters make of an event always another that the handler does not fold, or too many.
    #[error("upcasting sequence {sequence} of {aggregate} comes to no end; the last step was by {upcaster}")]
    UpcastEndless { upcaster: String, aggregate: Aggregate, sequence: u64 },
    /// The dead letters could not be read or written.
    #[error(transparent)]
    Port(#[from] port::Error),
    /// An `Operations` event could not be appended.
    #[error(transparent)]
    Append(#[from] event_store::AppendError),
    /// There is no such dead letter.
    #[error("there is no dead letter {id}")]
    NoDeadLetter { id: uuid::Uuid },
    /// The dead letter is not waiting any more.
    #[error("dead letter {id} is already {state}")]
    NotParked { id: uuid::Uuid, state: String },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NoHandler { .. } | Error::NoDeadLetter { .. } => Kind::NotFound,
            Error::HandlerMissing { .. } | Error::UpcasterMissing { .. } => Kind::Unavailable,
            Error::Log(source) => source.kind(),
            Error::Stored { .. } => Kind::Corrupt,
            // The sandbox had no room: nothing is known of the history.
            Error::Evolve { failure, .. } | Error::Upcast { failure, .. } if failure.kind() == Kind::Unavailable => {
                Kind::Unavailable
            }
            Error::Evolve { .. } | Error::Upcast { .. } => Kind::Poison,
            Error::NotFolded { .. } | Error::UpcastEndless { .. } => Kind::Poison,
            Error::Port(source) => source.kind(),
            Error::Append(source) => source.kind(),
            Error::NotParked { .. } => Kind::Conflict,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::NoHandler { .. } => "no_handler",
            Error::HandlerMissing { .. } => "handler_missing",
            Error::Log(source) => source.code(),
            Error::Stored { .. } => "stored_event_unreadable",
            Error::Evolve { .. } => "fold_failed",
            Error::NotFolded { .. } => "event_not_folded",
            Error::UpcasterMissing { .. } => "upcaster_missing",
            Error::Upcast { .. } => "upcast_failed",
            Error::UpcastEndless { .. } => "upcast_endless",
            Error::Port(source) => source.code(),
            Error::Append(source) => source.code(),
            Error::NoDeadLetter { .. } => "dead_letter_not_found",
            Error::NotParked { .. } => "dead_letter_not_parked",
        }
    }
}
