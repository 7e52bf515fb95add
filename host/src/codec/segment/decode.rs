//! Reading a segment of another writer, or an old one. The bytes are untrusted: every count, digest, checksum, offset
//! and line is checked, and what does not fit is refused with the reason, never guessed.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Event, FORMAT, FooterLine, Header, HeaderLine, Segment};
use crate::codec::envelope::Envelope;
use crate::codec::{Error, fingerprint};
use crate::domain::{Aggregate, Digest, EventKind, Sequence};

fn refuse(reason: impl Into<String>) -> Error {
    Error::Segment { reason: reason.into() }
}

fn parse_header(line: &[u8]) -> Result<Header, Error> {
    let line: HeaderLine<'_> = serde_json::from_slice(line).map_err(|error| refuse(format!("header: {error}")))?;
    if line.format != FORMAT {
        return Err(refuse(format!("format {:?}, this release reads {FORMAT:?}", line.format)));
    }
    Ok(line.header.into_owned())
}

/// The first line alone: enough to see whose segment it is.
pub fn decode_header(bytes: &[u8]) -> Result<Header, Error> {
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| refuse("no header line"))?;
    parse_header(&bytes[..end])
}

/// A segment of which every byte is known to be what its footer says; its events are read when they are asked for.
#[derive(Debug, Clone)]
pub struct Frame {
    pub header: Header,
    pub digest: Digest,
    pub bytes: Bytes,
    lines: Vec<Range<usize>>,
    contents: Vec<Option<Digest>>,
}

impl Frame {
    /// One event, checked by itself; `None` behind the last.
    pub fn event(&self, index: usize) -> Result<Option<Event>, Error> {
        let Some((range, content)) = self.lines.get(index).zip(self.contents.get(index)) else { return Ok(None) };
        Reader::default().event(self.bytes.slice(range.clone()), *content).map(Some)
    }
}

/// Checks a segment but for its events.
pub fn frame(bytes: Bytes) -> Result<Frame, Error> {
    let (body, footer) = split_footer(&bytes)?;
    let footer: FooterLine<'_> = serde_json::from_slice(footer).map_err(|error| refuse(format!("footer: {error}")))?;
    let crc = crc32c::crc32c(body);
    if crc != footer.crc32c {
        return Err(refuse(format!("crc32c is {crc}, the footer says {}", footer.crc32c)));
    }
    let digest = Digest::of(body);
    if digest != footer.digest {
        return Err(refuse(format!("digest is {digest}, the footer says {}", footer.digest)));
    }
    if footer.fingerprints.alg != fingerprint::ALGORITHM {
        return Err(refuse(format!("unknown fingerprint algorithm {:?}", footer.fingerprints.alg)));
    }
    let header = decode_header(body)?;
    let lines = event_lines(body)?;
    let offsets = lines.iter().map(|range| range.start as u64);
    let count = u32::try_from(lines.len()).map_err(|_| refuse("too many events"))?;
    if count == 0 || count != header.count {
        return Err(refuse(format!("{count} events, the header says {}", header.count)));
    }
    if !offsets.eq(footer.offsets.iter().copied()) || footer.fingerprints.values.len() != lines.len() {
        return Err(refuse("the footer's offsets or fingerprints do not fit the events"));
    }
    if header.first_position.0.checked_add(u64::from(count)).is_none() {
        return Err(refuse("a position that cannot be"));
    }
    let contents = footer.fingerprints.values;
    Ok(Frame { header, digest, lines, contents, bytes })
}

/// The whole segment, checked.
pub fn decode(bytes: Bytes) -> Result<Segment, Error> {
    let Frame { header, digest, bytes, lines, contents } = frame(bytes)?;
    let mut reader = Reader::default();
    let mut events = Vec::with_capacity(lines.len());
    for (range, content) in lines.into_iter().zip(contents) {
        let index = events.len();
        let event = reader.event(bytes.slice(range), content);
        events.push(event.map_err(|error| refuse(format!("event {index}: {error}")))?);
    }
    Ok(Segment { header, digest, events, bytes })
}

/// Everything before the footer line, and the footer line.
fn split_footer(bytes: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let without_end = bytes.strip_suffix(b"\n").ok_or_else(|| refuse("it is cut: no line feed at the end"))?;
    let last = without_end.iter().rposition(|b| *b == b'\n').ok_or_else(|| refuse("it is cut: no footer"))?;
    Ok((&bytes[..=last], &without_end[last + 1..]))
}

/// Ranges of the lines after the first, without their line feeds.
fn event_lines(body: &[u8]) -> Result<Vec<Range<usize>>, Error> {
    // As text, line feeds are looked for many bytes at a time.
    let text = std::str::from_utf8(body).map_err(|error| refuse(format!("it is no text: {error}")))?;
    let mut ranges = Vec::new();
    let mut start = 0;
    for (end, _) in text.match_indices('\n') {
        ranges.push(start..end);
        start = end + 1;
    }
    Ok(ranges.split_off(1))
}

/// What lines of one segment share and must agree on.
#[derive(Default)]
struct Reader {
    names: Vec<Arc<str>>,
    aggregates: HashMap<(String, String), Aggregate>,
    last: HashMap<Aggregate, Sequence>,
    ids: HashSet<uuid::Uuid>,
}

impl Reader {
    fn event(&mut self, line: Bytes, content: Option<Digest>) -> Result<Event, Error> {
        let envelope = Envelope::parse(&line)?;
        let metadata = envelope.metadata()?;
        let aggregate = self.aggregate(&envelope)?;
        let sequence = envelope.sequence_number;
        let dense = match self.last.insert(aggregate.clone(), sequence) {
            Some(before) => before.0.checked_add(1) == Some(sequence.0),
            None => sequence.0 > 0,
        };
        if !dense {
            return Err(refuse(format!("{aggregate} cannot go on with sequence number {sequence}")));
        }
        if !self.ids.insert(envelope.event_id) {
            return Err(refuse(format!("event id {} occurs twice", envelope.event_id)));
        }
        if content.is_some() != (metadata.kind == EventKind::Command) {
            return Err(refuse("commands have a fingerprint, domain events have none"));
        }
        let (event_type, topic) = (self.name(&envelope.event_type), self.name(&metadata.kafka_topic));
        let (event_id, kind, command_id) = (envelope.event_id, metadata.kind, metadata.command_id);
        let command_id = command_id.filter(|_| kind == EventKind::Domain);
        Ok(Event { event_id, aggregate, sequence, kind, event_type, topic, command_id, fingerprint: content, line })
    }

    /// Equal aggregates share their texts.
    fn aggregate(&mut self, envelope: &Envelope<'_>) -> Result<Aggregate, Error> {
        let name = (envelope.aggregate_type.to_string(), envelope.aggregate_id.to_string());
        if let Some(known) = self.aggregates.get(&name) {
            return Ok(known.clone());
        }
        let aggregate = envelope.aggregate()?;
        self.aggregates.insert(name, aggregate.clone());
        Ok(aggregate)
    }

    /// Equal names share their text; a segment has few different ones.
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.iter().find(|name| name.as_ref() == text) {
            return known.clone();
        }
        let name: Arc<str> = text.into();
        self.names.push(name.clone());
        name
    }
}
