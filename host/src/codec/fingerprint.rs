//! Fingerprint of a command's content: two commands with one id are the same command exactly when these are equal (I4).

use super::json::{Json, write_string};
use crate::domain::{Aggregate, Digest};

/// Name of the algorithm, written into every segment's footer.
pub const ALGORITHM: &str = "sha256-jcs-1";

/// SHA-256 of the RFC 8785 form of `{aggregate_id, aggregate_type, command_type, expected_seq, payload}`;
/// `expected_seq` is null when absent.
pub fn command(command_type: &str, aggregate: &Aggregate, expected_seq: Option<u64>, payload: &Json) -> Digest {
    let mut text = Vec::with_capacity(payload.as_str().len() + 256);
    text.extend_from_slice(br#"{"aggregate_id":"#);
    write_string(aggregate.id.as_str(), &mut text);
    text.extend_from_slice(br#","aggregate_type":"#);
    write_string(aggregate.kind.as_str(), &mut text);
    text.extend_from_slice(br#","command_type":"#);
    write_string(command_type, &mut text);
    text.extend_from_slice(br#","expected_seq":"#);
    match expected_seq {
        Some(sequence) => text.extend_from_slice(sequence.to_string().as_bytes()),
        None => text.extend_from_slice(b"null"),
    }
    text.extend_from_slice(br#","payload":"#);
    payload.write_canonical(&mut text);
    text.push(b'}');
    Digest::of(&text)
}
