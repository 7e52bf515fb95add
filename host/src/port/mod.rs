//! Ports: what the services need from the world, as narrow object-safe traits. Each has a written contract, an
//! in-memory implementation, and one conformance suite that every implementation passes.

pub mod bus;
pub mod clock;
pub mod index;
pub mod object_store;
pub mod read_model;
pub mod registry;

use crate::error::{Classified, Kind};
use crate::failpoint;

/// A failure of something behind a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The part is away, overloaded or timed out. A write may or may not have taken effect; every write of these
    /// ports can be repeated.
    #[error("{what} is not available: {reason}")]
    Unavailable {
        /// Which part, in words: "the database", "the object store".
        what: &'static str,
        /// The cause as the part told it.
        reason: String,
    },
    /// The part answered something that cannot be: a broken row, an impossible count.
    #[error("{what} holds what was never written: {reason}")]
    Corrupt { what: &'static str, reason: String },
    /// The part refuses for good: credentials, permissions, a full disk is `Unavailable`.
    #[error("{what} refused: {reason}")]
    Refused { what: &'static str, reason: String },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Unavailable { .. } => Kind::Unavailable,
            Error::Corrupt { .. } => Kind::Corrupt,
            Error::Refused { .. } => Kind::Unavailable,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Unavailable { .. } => "part_unavailable",
            Error::Corrupt { .. } => "part_corrupt",
            Error::Refused { .. } => "part_refused",
        }
    }
}

/// What every port call gives.
pub type Result<T> = std::result::Result<T, Error>;

/// A fail point before a call of a port: armed with `error`, the part behind it is away.
pub fn fail_at(point: &'static str) -> Result<()> {
    failpoint::fail(point).map_err(|injected| Error::Unavailable { what: "a part", reason: injected.to_string() })
}
