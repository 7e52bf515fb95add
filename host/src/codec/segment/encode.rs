//! Writing a segment: lines are copied once, nothing is serialised again.

use std::borrow::Cow;

use bytes::Bytes;

use super::{Event, FORMAT, Fingerprints, FooterLine, Header, HeaderLine, Segment};
use crate::codec::envelope::Draft;
use crate::codec::fingerprint;
use crate::domain::{Digest, Sequence};

/// What header and footer need beyond a fixed part for each event: offset, fingerprint, separators.
const FOOTER_BYTES_AN_EVENT: usize = 90;
const FRAME_BYTES: usize = 1024;

/// Builds the segment that holds these events with these numbers. `header.count` is set from them.
pub fn encode(header: Header, events: &[(&Draft, Sequence)]) -> Segment {
    assert!(!events.is_empty(), "a segment holds at least one event");
    let count = u32::try_from(events.len()).expect("a segment's events are bounded far below 2^32");
    let header = Header { count, ..header };
    let size: usize = events.iter().map(|(draft, _)| draft.bytes_max() + FOOTER_BYTES_AN_EVENT).sum();
    let mut out = Vec::with_capacity(size + FRAME_BYTES);
    let line = HeaderLine { format: Cow::Borrowed(FORMAT), header: Cow::Borrowed(&header) };
    serde_json::to_writer(&mut out, &line).expect("plain fields always serialise");
    out.push(b'\n');
    let mut ranges = Vec::with_capacity(events.len());
    for (draft, sequence) in events {
        let start = out.len();
        draft.write_line(*sequence, &mut out);
        ranges.push(start..out.len());
        out.push(b'\n');
    }
    let digest = Digest::of(&out);
    let footer = FooterLine {
        offsets: ranges.iter().map(|range| range.start as u64).collect(),
        crc32c: crc32c::crc32c(&out),
        fingerprints: Fingerprints {
            alg: Cow::Borrowed(fingerprint::ALGORITHM),
            values: events.iter().map(|(draft, _)| draft.fingerprint).collect(),
        },
        digest,
    };
    serde_json::to_writer(&mut out, &footer).expect("plain fields always serialise");
    out.push(b'\n');
    let bytes = Bytes::from(out);
    let events = events.iter().zip(ranges).map(|((draft, sequence), range)| Event {
        event_id: draft.event_id,
        aggregate: draft.aggregate.clone(),
        sequence: *sequence,
        kind: draft.kind,
        event_type: draft.event_type.clone(),
        topic: draft.topic.clone(),
        command_id: draft.command_id,
        fingerprint: draft.fingerprint,
        line: bytes.slice(range),
    });
    Segment { events: events.collect(), header, digest, bytes }
}
