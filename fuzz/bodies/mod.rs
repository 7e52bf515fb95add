//! What is fuzzed: each function takes bytes from outside and panics when the host breaks a promise about them. Used by
//! the targets of cargo-fuzz in this folder, and by a short run in the ordinary tests (`host/tests/fuzz`).

pub mod guests;
pub mod http;

use bytes::Bytes;
use carryall::codec::envelope::Envelope;
use carryall::codec::json::Json;
use carryall::codec::segment;

/// A target, by the name of its folder of seeds.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] = [
    ("segment", segment),
    ("envelope", envelope),
    ("http_body", http::body),
    ("lifting", guests::lifting),
    ("upload", guests::upload),
];

/// A segment of another writer: refused, or whole, and then every number in it fits.
pub fn segment(data: &[u8]) {
    let Ok(segment) = segment::decode(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(segment.bytes, data);
    assert_eq!(segment.events.len(), segment.header.count as usize);
    assert_eq!(segment::decode_header(data).expect("the header of a whole segment"), segment.header);
    for event in &segment.events {
        let envelope = Envelope::parse(&event.line).expect("an envelope of a whole segment");
        assert_eq!(envelope.event_id, event.event_id);
        assert_eq!(envelope.sequence_number, event.sequence);
    }
}

/// A line of the log or a message of the bus: refused, or read the same way every time. What the scanner takes, every
/// reader of JSON takes, and its canonical form is one.
pub fn envelope(data: &[u8]) {
    if let Ok(envelope) = Envelope::parse(data) {
        let again = Envelope::parse(data).expect("what was read once is read again");
        assert_eq!((again.event_id, again.sequence_number), (envelope.event_id, envelope.sequence_number));
        // Both may refuse; neither may panic.
        let _metadata = envelope.metadata();
        let _command = envelope.command();
    }
    if let Ok(json) = Json::parse(data) {
        serde_json::from_str::<serde::de::IgnoredAny>(json.as_str()).expect("any reader reads what the scanner takes");
        let again = Json::parse(json.as_str().as_bytes()).expect("its own text");
        assert_eq!(again.as_str(), json.as_str());
    }
}
