//! Strict JSON text: what may enter the log. One scanner refuses what two readers could understand differently
//! (duplicate keys, lone surrogates, numbers a double cannot hold exactly), compacts what it takes, and gives the
//! canonical form of RFC 8785 that fingerprints are computed over. Never changes a byte inside a string or a number.

mod canonical;
mod number;
mod scan;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::error::{Classified, Kind};

/// Nesting allowed in a JSON text; more is refused, so that no reader overflows its stack.
pub const DEPTH_MAX: usize = 128;

/// Why a text is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at {pointer:?} (byte {offset})")]
pub struct Error {
    pub reason: Reason,
    /// JSON pointer (RFC 6901) to the value; empty for the whole text.
    pub pointer: String,
    /// Byte offset in the text.
    pub offset: usize,
}

/// What is wrong with a JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("no JSON")]
    Syntax,
    #[error("text that is no UTF-8")]
    Encoding,
    #[error("a key that occurs twice")]
    DuplicateKey,
    #[error("half of a surrogate pair")]
    LoneSurrogate,
    #[error("a number that a double cannot hold exactly (send it as a string)")]
    InexactNumber,
    #[error("deeper nesting than 128")]
    TooDeep,
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }

    fn code(&self) -> &'static str {
        match self.reason {
            Reason::Syntax | Reason::Encoding => "invalid_json",
            Reason::DuplicateKey => "duplicate_key",
            Reason::LoneSurrogate => "lone_surrogate",
            Reason::InexactNumber => "inexact_number",
            Reason::TooDeep => "json_too_deep",
        }
    }
}

/// A checked, compacted JSON text. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Arc<str>);

impl Json {
    /// Checks and compacts a text.
    pub fn parse(text: &[u8]) -> Result<Json, Error> {
        scan::compact(text).map(|compact| Json(compact.into()))
    }

    /// `{}`.
    pub fn empty_object() -> Json {
        Json("{}".into())
    }

    /// `null`.
    pub fn null() -> Json {
        Json("null".into())
    }

    /// The text of any value; refused like a text is (a `u64` that no double holds).
    pub fn from_value<T: serde::Serialize + ?Sized>(value: &T) -> Result<Json, Error> {
        match serde_json::to_vec(value) {
            Ok(text) => Json::parse(&text),
            Err(_) => Err(Error { reason: Reason::Syntax, pointer: String::new(), offset: 0 }),
        }
    }

    /// The compact text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the text is an object.
    pub fn is_object(&self) -> bool {
        self.0.starts_with('{')
    }

    /// The text as serde_json's raw value, for embedding.
    pub fn to_raw(&self) -> Box<RawValue> {
        RawValue::from_string(self.0.to_string()).expect("a checked text is JSON")
    }

    /// The parsed value.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::from_str(&self.0).expect("a checked text is JSON")
    }

    /// The canonical form of RFC 8785.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len());
        self.write_canonical(&mut out);
        out
    }

    /// Appends the canonical form of RFC 8785.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        canonical::write(&self.0, out);
    }
}

/// Appends a string token, with the fewest escapes.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    canonical::write_string(text, out);
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}
