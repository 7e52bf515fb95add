//! Fingerprint of a command's content: two commands with one id are the same command exactly when these are equal (I4).

use super::json::Json;
use crate::domain::{Aggregate, Digest};

/// Name of the algorithm, written into every segment's footer.
pub const ALGORITHM: &str = "sha256-jcs-1";

/// SHA-256 of the RFC 8785 form of `{aggregate_id, aggregate_type, command_type, expected_seq, payload}`;
/// `expected_seq` is null when absent.
pub fn command(command_type: &str, aggregate: &Aggregate, expected_seq: Option<u64>, payload: &Json) -> Digest {
    let _ = (command_type, aggregate, expected_seq, payload);
    unimplemented!()
}
