//! Why a component is refused, and why a call gave no answer. A business refusal is neither: it is a verdict.

use std::fmt;

use super::limits::TEXT_BYTES_MAX;
use crate::error::{Classified, Kind};

/// A bound that a call met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// Instructions, counted by the engine.
    Fuel,
    /// Wall-clock time: the backstop behind fuel.
    Time,
    /// Bytes over all memories of the instance.
    Memory,
    /// Elements over all tables of the instance.
    Tables,
    /// Native stack of the guest.
    Stack,
    /// Bytes copied out of the guest in one call, or the size of one text in its answer.
    Output,
    /// Number of events, commands, reads or writes in an answer.
    Count,
    /// All pooled instances were busy for too long. The host's lack, not the handler's fault.
    Instances,
    /// What may be used in place ([`super::in_place`]): the call is made again elsewhere, and nobody hears of it.
    InPlace,
}

impl LimitKind {
    /// A stable name in snake_case.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitKind::Fuel => "fuel",
            LimitKind::Time => "time",
            LimitKind::Memory => "memory",
            LimitKind::Tables => "tables",
            LimitKind::Stack => "stack",
            LimitKind::Output => "output",
            LimitKind::Count => "count",
            LimitKind::Instances => "instances",
            LimitKind::InPlace => "in_place",
        }
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call that gave no answer. An outcome caused by a limit is recorded, never re-derived: fuel differs between
/// engine versions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The handler said it cannot do its job, or its answer breaks the contract.
    #[error("handler fault {code}: {message}")]
    Fault { code: String, message: String },
    /// The handler crashed.
    #[error("handler trapped: {message}")]
    Trap { message: String },
    /// The handler wanted more than it may have.
    #[error("handler met its {which} limit: {message}")]
    Limit { which: LimitKind, message: String },
}

impl Failure {
    pub(super) fn fault(code: &str, message: impl Into<String>) -> Failure {
        Failure::Fault { code: short(code), message: short(&message.into()) }
    }

    pub(super) fn trap(message: impl Into<String>) -> Failure {
        Failure::Trap { message: short(&message.into()) }
    }

    pub(super) fn limit(which: LimitKind, message: impl Into<String>) -> Failure {
        Failure::Limit { which, message: short(&message.into()) }
    }
}

impl Classified for Failure {
    fn kind(&self) -> Kind {
        match self {
            Failure::Limit { which: LimitKind::Instances | LimitKind::InPlace, .. } => Kind::Unavailable,
            Failure::Fault { .. } | Failure::Trap { .. } | Failure::Limit { .. } => Kind::Poison,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Failure::Fault { .. } => "handler_fault",
            Failure::Trap { .. } => "handler_trap",
            Failure::Limit { .. } => "handler_limit",
        }
    }
}

/// Why a component is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine could not be set up.
    #[error("the WebAssembly engine could not be set up: {message}")]
    Engine { message: String },
    /// The folder for compiled code cannot be used.
    #[error("the folder for compiled code cannot be used")]
    Cache {
        #[source]
        source: std::io::Error,
    },
    /// The bytes are no WebAssembly component, or use a feature that is off.
    #[error("not a usable WebAssembly component: {message}")]
    NotAComponent { message: String },
    /// The component is larger than what is accepted.
    #[error("the component has {bytes} bytes, {max} are allowed")]
    TooLarge { bytes: usize, max: usize },
    /// The component wants something from the host that no handler gets.
    #[error("import {name} is refused: {reason}")]
    RefusedImport { name: String, reason: String },
    /// The component lacks something its world demands, or has it with another signature.
    #[error("export {name} is missing or has another signature than the contract: {message}")]
    MissingExport { name: String, message: String },
    /// The exports fit no world of the contract.
    #[error("the exports fit no world of carryall:handler@0.1.0: {exports:?}")]
    UnknownWorld { exports: Vec<String> },
    /// `describe` gave no answer.
    #[error("describe failed")]
    Describe(#[source] Failure),
    /// The description is not acceptable.
    #[error("the description is not acceptable: {field}: {message}")]
    Contract { field: String, message: String },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Engine { .. } => Kind::Bug,
            Error::Cache { .. } => Kind::Unavailable,
            Error::Describe(failure) if failure.kind() == Kind::Unavailable => Kind::Unavailable,
            Error::NotAComponent { .. }
            | Error::TooLarge { .. }
            | Error::RefusedImport { .. }
            | Error::MissingExport { .. }
            | Error::UnknownWorld { .. }
            | Error::Describe(_)
            | Error::Contract { .. } => Kind::Invalid,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Engine { .. } => "sandbox_engine",
            Error::Cache { .. } => "sandbox_cache",
            Error::NotAComponent { .. } => "not_a_component",
            Error::TooLarge { .. } => "component_too_large",
            Error::RefusedImport { .. } => "refused_import",
            Error::MissingExport { .. } => "missing_export",
            Error::UnknownWorld { .. } => "unknown_world",
            Error::Describe(_) => "describe_failed",
            Error::Contract { .. } => "invalid_description",
        }
    }
}

/// Cuts a text from a guest to what may enter an error or an event.
pub(super) fn short(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    format!("{}…", &text[..end])
}
