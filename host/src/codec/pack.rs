//! A pack: consecutive segments of a partition, 256 by default, verbatim, in one object, so that a log of small
//! segments is read in few requests. Derived and discardable, never the only copy: `events/` stays the truth (I1). The
//! same segments always give the same bytes, so that whoever writes one writes it alike. Trusts no byte on the way in;
//! whether the pack is of this history is for its reader to find out.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Error;
use crate::domain::{Digest, Partition, SegmentNumber};

/// Where they lie.
pub const FOLDER: &str = "indexes/segments/";
/// Bytes of segments that are packed: larger ones are read quickly enough by themselves, and a reader holds a pack.
pub const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Events of segments that are packed: about as many as have room, and known without reading the segments.
pub const EVENTS_MAX: u64 = 8_192;

const FORMAT: &str = "carryall-pack-1";

/// Segments of a pack: one request instead of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Default for Size {
    fn default() -> Size {
        Size(256)
    }
}

impl Size {
    /// Key of the pack that holds a segment.
    pub fn key(self, partition: Partition, segment: SegmentNumber) -> String {
        format!("{FOLDER}{:04}/{:016}.ndjson", partition.0, self.first(segment).0)
    }

    /// First segment of the pack that holds this one.
    pub fn first(self, segment: SegmentNumber) -> SegmentNumber {
        SegmentNumber(segment.0 - segment.0 % self.0)
    }

    /// Last segment of the pack that holds this one.
    pub fn last(self, segment: SegmentNumber) -> SegmentNumber {
        SegmentNumber(self.first(segment).0 + (self.0 - 1))
    }
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    format: Cow<'a, str>,
    store: Uuid,
    partition: Partition,
    first_segment: SegmentNumber,
    count: u64,
}

#[derive(Serialize, Deserialize)]
struct Footer {
    /// Offset of each segment from the start of the object.
    offsets: Vec<u64>,
    /// CRC-32C of all bytes before the footer line.
    crc32c: u32,
    /// Digest of the last segment: with the chain, of the whole history up to there.
    digest: Digest,
}

/// A pack whose frame was checked; its segments were not.
#[derive(Debug, Clone)]
pub struct Pack {
    pub store: Uuid,
    pub partition: Partition,
    pub first: SegmentNumber,
    /// Digest of the last segment.
    pub digest: Digest,
    ranges: Vec<Range<usize>>,
    bytes: Bytes,
}

impl Pack {
    /// The bytes of a segment, as they lie under `events/`.
    pub fn segment(&self, number: SegmentNumber) -> Option<Bytes> {
        let index = usize::try_from(number.0.checked_sub(self.first.0)?).ok()?;
        self.ranges.get(index).map(|range| self.bytes.slice(range.clone()))
    }
}

/// Puts the segments from `first` on, all that are of one pack, into one object. `digest` is that of the last.
pub fn encode(store: Uuid, partition: Partition, first: SegmentNumber, segments: &[Bytes], digest: Digest) -> Bytes {
    let count = segments.len() as u64;
    assert!(first.0.is_multiple_of(count), "a pack begins at a multiple of its size");
    let header = Header { format: FORMAT.into(), store, partition, first_segment: first, count };
    let mut out = serde_json::to_vec(&header).expect("plain fields always serialise");
    out.push(b'\n');
    let mut offsets = Vec::with_capacity(segments.len());
    for segment in segments {
        offsets.push(out.len() as u64);
        out.extend_from_slice(segment);
    }
    let footer = Footer { offsets, crc32c: crc32c::crc32c(&out), digest };
    serde_json::to_writer(&mut out, &footer).expect("plain fields always serialise");
    out.push(b'\n');
    Bytes::from(out)
}

fn refuse(reason: impl Into<String>) -> Error {
    Error::Pack { reason: reason.into() }
}

/// Reads the frame of a pack of this size.
pub fn decode(bytes: Bytes, size: Size) -> Result<Pack, Error> {
    let line = |line: &[u8]| line.iter().position(|b| *b == b'\n').ok_or_else(|| refuse("no header line"));
    let header_end = line(&bytes)? + 1;
    let header: Header<'_> =
        serde_json::from_slice(&bytes[..header_end]).map_err(|error| refuse(format!("header: {error}")))?;
    if header.format != FORMAT {
        return Err(refuse(format!("format {:?}, this release reads {FORMAT:?}", header.format)));
    }
    let without_end = bytes.strip_suffix(b"\n").ok_or_else(|| refuse("it is cut: no line feed at the end"))?;
    let body = without_end.iter().rposition(|b| *b == b'\n').ok_or_else(|| refuse("it is cut: no footer"))? + 1;
    let footer: Footer =
        serde_json::from_slice(&without_end[body..]).map_err(|error| refuse(format!("footer: {error}")))?;
    let crc = crc32c::crc32c(&bytes[..body]);
    if crc != footer.crc32c {
        return Err(refuse(format!("crc32c is {crc}, the footer says {}", footer.crc32c)));
    }
    if header.count != size.0 || footer.offsets.len() as u64 != size.0 {
        let (found, Size(wanted)) = (footer.offsets.len(), size);
        return Err(refuse(format!("{found} segments, the header says {}; a pack has {wanted}", header.count)));
    }
    if size.first(header.first_segment) != header.first_segment {
        return Err(refuse(format!("it begins at segment {}", header.first_segment)));
    }
    let starts = footer.offsets.iter().map(|offset| usize::try_from(*offset).unwrap_or(usize::MAX));
    let ends = starts.clone().skip(1).chain([body]);
    let ranges: Vec<Range<usize>> = starts.zip(ends).map(|(start, end)| start..end).collect();
    // The first begins behind the header, each ends where the next begins, and the last before the footer.
    if ranges[0].start != header_end || ranges.iter().any(|range| range.start >= range.end || range.end > body) {
        return Err(refuse("the footer's offsets do not fit the segments"));
    }
    let (store, partition, first) = (header.store, header.partition, header.first_segment);
    Ok(Pack { store, partition, first, digest: footer.digest, ranges, bytes })
}
