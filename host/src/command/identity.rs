//! The id of a command: given in the body, given as `Idempotency-Key`, or made. Pure. What is recognised as a UUID is
//! taken as the id itself, so that both ways of naming one command meet (contract §2, I4).

use uuid::Uuid;

use super::Error;
use crate::domain::derived_id;

/// Greatest length of an `Idempotency-Key` in characters.
pub const KEY_CHARS_MAX: usize = 255;

/// The id of a command that is about to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub command_id: Uuid,
    /// The host drew it just now: nobody can have used it before.
    pub made: bool,
}

impl Identity {
    /// From what the client sent; `fresh` is used when it sent nothing.
    pub fn resolve(
        body: Option<&str>,
        idempotency_key: Option<&str>,
        fresh: impl FnOnce() -> Uuid,
    ) -> Result<Identity, Error> {
        let named = body.map(command_id).transpose()?;
        let keyed = idempotency_key.map(from_key).transpose()?;
        match (named, keyed) {
            (Some(named), Some(keyed)) if named != keyed => Err(Error::Disagree {
                what: "command_id and Idempotency-Key",
                advice: "send one of them, or the same UUID in both",
            }),
            (Some(id), _) | (None, Some(id)) => Ok(Identity { command_id: id, made: false }),
            (None, None) => Ok(Identity { command_id: fresh(), made: true }),
        }
    }
}

/// A command id as a client writes it.
pub fn command_id(text: &str) -> Result<Uuid, Error> {
    hyphenated(text).ok_or_else(|| Error::Field {
        field: "command_id",
        reason: format!("{:?} is no UUID such as 123e4567-e89b-12d3-a456-426614174000", cut(text)),
    })
}

fn from_key(key: &str) -> Result<Uuid, Error> {
    let characters = key.chars().count();
    if characters == 0 || characters > KEY_CHARS_MAX || key.chars().any(char::is_control) {
        return Err(Error::Field {
            field: "Idempotency-Key",
            reason: format!("it must have 1 to {KEY_CHARS_MAX} characters and no control characters"),
        });
    }
    Ok(hyphenated(key).unwrap_or_else(|| derived_id::idempotency_key(key)))
}

/// Only the common form is a UUID here: braces, URNs and bare hex digits are other strings.
fn hyphenated(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

/// A text short enough to be quoted in an answer.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
