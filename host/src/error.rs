//! The kinds of failure. Each module has an enum of its own; what a caller does about it depends on the kind alone,
//! and is decided in two places only: the HTTP mapping and the loops of the services.

/// What a failure means for the one who meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A business refusal: recorded, told to the sender, never retried.
    Rejected,
    /// The caller's view is out of date: read again, then decide again.
    Conflict,
    /// A part is away or overloaded: nothing is lost, try again later.
    Unavailable,
    /// It is not known whether the write took effect: ask again with the same id, never assume a failure.
    Unknown,
    /// The input is wrong and stays wrong: tell the caller what to change.
    Invalid,
    /// The thing asked for does not exist.
    NotFound,
    /// A message or event that no retry can make work: park it.
    Poison,
    /// Stored bytes are not what was written: stop and let an operator look.
    Corrupt,
    /// A broken assumption of this program.
    Bug,
}

impl Kind {
    /// Whether the same request may succeed later without a change.
    pub fn retryable(self) -> bool {
        matches!(self, Kind::Unavailable | Kind::Unknown)
    }
}

/// Implemented by the error enum of every module.
pub trait Classified: std::error::Error {
    /// What the failure means for the caller.
    fn kind(&self) -> Kind;
    /// A stable name in snake_case, part of the public contract.
    fn code(&self) -> &'static str;
}
