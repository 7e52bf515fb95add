//! Replay: history through a handler version, off to the side. Decides stored commands again with the code and on the
//! states that the log says they were decided with (I8), and compares what a read model holds with another one made
//! from the log alone (I1, I6). Appends nothing, writes no read model, and trusts no cache: what it reads is the log.

mod decisions;
mod models;
mod order;
mod probe;
mod report;
mod streams;

#[cfg(test)]
mod tests;

pub use decisions::{Again, Decisions};
pub use models::compare;
pub use order::Order;
pub use probe::seen;
pub use report::{Checked, Finding, Invariant, Report};
pub use streams::Load;

use crate::error::{Classified, Kind};
use crate::{codec, event_store, port, state};

/// Why nothing could be found out. What is wrong with the data is a finding, not an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] event_store::Error),
    #[error(transparent)]
    Port(#[from] port::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("a stored event cannot be read: {0}")]
    Stored(#[from] codec::Error),
    /// The component that made an event is not there any more.
    #[error("the handler {digest} cannot be loaded: {reason}")]
    Handler { digest: crate::domain::Digest, reason: String },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Log(error) => error.kind(),
            Error::Port(error) => error.kind(),
            Error::State(error) => error.kind(),
            Error::Stored(error) => error.kind(),
            Error::Handler { .. } => Kind::Corrupt,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Log(error) => error.code(),
            Error::Port(error) => error.code(),
            Error::State(error) => error.code(),
            Error::Stored(error) => error.code(),
            Error::Handler { .. } => "handler_missing",
        }
    }
}
