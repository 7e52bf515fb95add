//! Words of the domain as types: aggregates, numbers, digests, time. Pure: reads no clock and does no I/O.
//! Identifiers are compared byte for byte; nothing is trimmed, folded or normalised; what is not allowed is refused.

mod id;
mod time;

pub use id::{
    Aggregate, AggregateId, AggregateType, ClassName, DatabaseName, IdError, InstanceId, command_topic, event_topic,
    snake_case,
};
pub use time::{ParseTimestampError, Timestamp};

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

#[cfg(test)]
mod tests;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Number of an event within its aggregate: 1, 2, 3 … without gap (I2). 0 stands for "none yet".
    Sequence(u64)
}
number! {
    /// Number of an event within its partition: 0, 1, 2 … without gap (I2).
    Position(u64)
}
number! {
    /// Number of a segment within its partition: 0, 1, 2 … without gap.
    SegmentNumber(u64)
}
number! {
    /// A partition of the log.
    Partition(u16)
}

impl Partition {
    /// The partition an aggregate lives in: first 8 bytes of SHA-256(`type/id`), big-endian, modulo `count`.
    pub fn of(aggregate: &Aggregate, count: u16) -> Partition {
        if count <= 1 {
            return Partition(0);
        }
        let digest = Sha256::digest(format!("{}/{}", aggregate.kind, aggregate.id));
        let mut head = [0u8; 8];
        head.copy_from_slice(&digest[..8]);
        let slot = u64::from_be_bytes(head) % u64::from(count);
        Partition(u16::try_from(slot).expect("a remainder of a u16 fits a u16"))
    }
}

/// A SHA-256 digest; shown and stored as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// A text that is not 64 lower-case hex digits.
#[derive(Debug, Clone, thiserror::Error)]
#[error("a digest is 64 lower-case hex digits, got {0:?}")]
pub struct ParseDigestError(pub String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        f.write_str(std::str::from_utf8(&text).expect("hex digits are ASCII"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseDigestError(text.chars().take(80).collect());
        let bytes = text.as_bytes();
        if bytes.len() != 64 || !bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(refused());
        }
        let mut out = [0u8; 32];
        for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            let digit = |b: u8| if b <= b'9' { b - b'0' } else { b - b'a' + 10 };
            *slot = digit(pair[0]) << 4 | digit(pair[1]);
        }
        Ok(Digest(out))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether an event asks (`command`) or states what happened (`domain`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Command,
    Domain,
}

/// Where events come from by derivation, so that a re-run writes the same ids (I4, I6).
pub mod derived_id {
    use super::Uuid;

    /// Id of the `index`-th domain event of a command.
    pub fn domain_event(command_id: Uuid, index: usize) -> Uuid {
        v5(&format!("carryall:{command_id}:{index}"))
    }

    /// Id of the `index`-th command that the decision of a command issued.
    pub fn issued_command(command_id: Uuid, index: usize) -> Uuid {
        v5(&format!("carryall:{command_id}:command:{index}"))
    }

    /// Instance id of a create whose data names none.
    pub fn instance(command_id: Uuid) -> Uuid {
        v5(&format!("carryall:{command_id}:instance"))
    }

    /// Command id of an `Idempotency-Key` that is no UUID.
    pub fn idempotency_key(key: &str) -> Uuid {
        v5(&format!("carryall:idempotency-key:{key}"))
    }

    fn v5(name: &str) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
    }
}

/// Names of event types with a meaning for the host.
pub mod event_type {
    /// The command was refused, given up, discarded, or its predecessor failed.
    pub const COMMAND_FAILED: &str = "COMMAND_FAILED";
    /// The command was valid and changes nothing.
    pub const COMMAND_UNCHANGED: &str = "COMMAND_UNCHANGED";

    /// Whether `evolve` and `project` never see this domain event.
    pub fn is_host_outcome(event_type: &str) -> bool {
        event_type.starts_with("COMMAND_")
    }
}
