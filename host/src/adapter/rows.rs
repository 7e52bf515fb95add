//! What the SQL adapters share: how things of the ports become columns, and what rows must never say. Names no vendor.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::{Aggregate, AggregateId, AggregateType, Digest, IdError, Position, SegmentNumber};
use crate::port::index::{EventRow, SegmentRows, Watermark};
use crate::port::read_model::builds::{Build, State};
use crate::port::read_model::{Batch, Document, DocumentKey, Edge, EventChanges, Filter, Node, Query, matching};
use crate::port::registry::Finished;
use crate::port::{Error, Result};

/// What errors call either of them.
pub(super) const WHAT: &str = "the database";

pub(super) fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt { what: WHAT, reason: reason.into() }
}

/// SQL integers are signed; no count of this program reaches 2^63.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn aggregate(kind: &str, id: &str) -> Result<Aggregate> {
    let refused = |error: IdError| corrupt(error.to_string());
    Ok(Aggregate { kind: AggregateType::parse(kind).map_err(refused)?, id: AggregateId::parse(id).map_err(refused)? })
}

/// Rows of streams, each with the index of the stream asked for, in the order asked.
pub(super) fn by_stream(
    asked: usize,
    rows: impl Iterator<Item = Result<(u64, EventRow)>>,
) -> Result<Vec<Vec<EventRow>>> {
    let mut streams = vec![Vec::new(); asked];
    for row in rows {
        let (index, row) = row?;
        let stream = usize::try_from(index).ok().and_then(|index| streams.get_mut(index));
        stream.ok_or_else(|| corrupt("a row answers no question"))?.push(row);
    }
    Ok(streams)
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest> {
    bytes.try_into().map(Digest).map_err(|_| corrupt("a digest has not 32 bytes"))
}

/// A document from its columns.
pub(super) fn document(
    (collection, id): (String, String),
    owner: (&str, &str),
    version: u64,
    body: String,
) -> Result<Document> {
    Ok(Document {
        key: DocumentKey { collection, id },
        body: Arc::from(RawValue::from_string(body).map_err(|_| corrupt("a document is no JSON"))?),
        owner: aggregate(owner.0, owner.1)?,
        version,
    })
}

/// An edge from its columns: source, predicate and target.
pub(super) fn edge([source_kind, source_id, predicate, target_kind, target_id]: [String; 5]) -> Edge {
    let (source, target) = (Node { kind: source_kind, id: source_id }, Node { kind: target_kind, id: target_id });
    Edge { source, predicate, target }
}

/// A build from its columns.
pub(super) fn build(name: String, handler: String, state: &str, asked: u64, id: Uuid) -> Result<Build> {
    let state = State::parse(state).ok_or_else(|| corrupt(format!("{state} is no state of a build")))?;
    Ok(Build { name, handler, state, asked, id })
}

/// Candidates fetched at once when a filter may drop some.
const FILTER_STEP: usize = 256;

/// Rows to ask for at once in a search.
pub(super) fn search_step(query: &Query) -> usize {
    if query.filters.is_empty() { query.limit } else { query.limit.max(FILTER_STEP) }
}

/// Whether a candidate is what the filters ask for.
pub(super) fn passes(document: &Document, filters: &[Filter]) -> Result<bool> {
    if filters.is_empty() {
        return Ok(true);
    }
    let body: Value = serde_json::from_str(document.body.get()).map_err(|_| corrupt("a document is no JSON"))?;
    Ok(matching::passes(&body, filters))
}

/// The watermark after these segments; refuses segments that do not follow one another (I2).
pub(super) fn follow(from: &Watermark, segments: &[SegmentRows]) -> Result<Watermark> {
    let mut at = from.clone();
    for segment in segments {
        let dense = (at.next_position.0..).zip(&segment.events).all(|(position, event)| event.position.0 == position);
        if segment.segment != at.segments || segment.first_position != at.next_position || !dense {
            return Err(corrupt(format!("segment {} does not follow segment count {}", segment.segment, at.segments)));
        }
        at = Watermark {
            segments: SegmentNumber(segment.segment.0 + 1),
            next_position: Position(at.next_position.0 + segment.events.len() as u64),
            digest: segment.digest,
        };
    }
    Ok(at)
}

/// The `handler` of the heads of a type's streams.
pub(super) fn write_side(kind: &str) -> String {
    format!("write_side:{kind}")
}

/// Each claim of a batch once, without those lost.
pub(super) fn ours<'a>(batch: &'a Batch<'_>, lost: &HashSet<Uuid>) -> Vec<&'a Finished> {
    let mut seen = HashSet::with_capacity(batch.finished.len());
    batch.finished.iter().filter(|f| !lost.contains(&f.event_id) && seen.insert(f.event_id)).collect()
}

/// Events of a batch that are neither lost nor foreign, with their index.
pub(super) fn left<'a>(
    events: &'a [EventChanges],
    lost: &HashSet<Uuid>,
    foreign: &HashSet<usize>,
) -> impl Iterator<Item = (usize, &'a EventChanges)> {
    events.iter().enumerate().filter(|(index, event)| !lost.contains(&event.event_id) && !foreign.contains(index))
}
