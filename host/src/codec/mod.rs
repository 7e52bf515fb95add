//! Bytes that are kept for ever: envelopes, segments, fingerprints, checkpoints. Pure: no I/O, no clock. Readers accept
//! every byte sequence ever released (I9) and refuse, without panicking, what was never written.

pub mod checkpoint;
pub mod envelope;
pub mod fingerprint;
pub mod json;
pub mod pack;
pub mod segment;
pub mod snapshot;
pub mod store;

use crate::error::{Classified, Kind};

/// Greatest size of one envelope line in bytes (contract §1).
pub const ENVELOPE_BYTES_MAX: usize = 768 * 1024;
/// Greatest size of all envelope lines of one append in bytes (contract §1).
pub const APPEND_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Why bytes or values are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is no JSON this system takes.
    #[error(transparent)]
    Json(#[from] json::Error),
    /// A field of an envelope is missing or of the wrong form.
    #[error("envelope: {reason}")]
    Envelope { reason: String },
    /// Metadata names a key that only the host writes.
    #[error("metadata key {key:?} is reserved")]
    ReservedMetadata { key: String },
    /// Metadata is not a JSON object.
    #[error("metadata must be a JSON object")]
    MetadataNotObject,
    /// A metadata value that must be a string is none.
    #[error("metadata {key:?} must be a string")]
    MetadataNotText { key: String },
    /// The envelope would be longer than [`ENVELOPE_BYTES_MAX`].
    #[error("an envelope of {bytes} bytes is over the limit of {max} bytes")]
    TooLarge { bytes: usize, max: usize },
    /// Bytes of a segment that no writer wrote.
    #[error("segment: {reason}")]
    Segment { reason: String },
    /// Bytes of `meta/store.json` that this release cannot read.
    #[error("store: {reason}")]
    Store { reason: String },
    /// Bytes of a pack that nobody wrote.
    #[error("pack: {reason}")]
    Pack { reason: String },
    /// Bytes of a snapshot that nobody wrote.
    #[error("snapshot: {reason}")]
    Snapshot { reason: String },
    /// Bytes of a checkpoint that no relay wrote.
    #[error("checkpoint: {reason}")]
    Checkpoint { reason: String },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Json(_) | Error::Envelope { .. } | Error::ReservedMetadata { .. } => Kind::Invalid,
            Error::MetadataNotObject | Error::MetadataNotText { .. } | Error::TooLarge { .. } => Kind::Invalid,
            Error::Segment { .. } | Error::Store { .. } => Kind::Corrupt,
            Error::Checkpoint { .. } | Error::Snapshot { .. } | Error::Pack { .. } => Kind::Corrupt,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Json(error) => error.code(),
            Error::Envelope { .. } => "invalid_envelope",
            Error::ReservedMetadata { .. } => "reserved_metadata",
            Error::MetadataNotObject | Error::MetadataNotText { .. } => "invalid_metadata",
            Error::TooLarge { .. } => "envelope_too_large",
            Error::Segment { .. } => "corrupt_segment",
            Error::Store { .. } => "corrupt_store_meta",
            Error::Checkpoint { .. } => "corrupt_checkpoint",
            Error::Snapshot { .. } => "corrupt_snapshot",
            Error::Pack { .. } => "corrupt_pack",
        }
    }
}
