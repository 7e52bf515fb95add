//! Index in memory: for tests and simulations. Folds again from the log at every start, as every index can.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use parking_lot::Mutex;
use uuid::Uuid;

use super::{Applied, EventRow, Head, Index, Lookup, Seen, SegmentRows, Watermark};
use crate::domain::{Aggregate, Digest, Partition, Position, SegmentNumber, Sequence};
use crate::port::{Error, Result};

/// Maps under one lock.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    state: Mutex<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    store: Option<Uuid>,
    watermarks: HashMap<Partition, Watermark>,
    segments: BTreeMap<(Partition, Position), SegmentNumber>,
    heads: HashMap<Aggregate, Head>,
    names: BTreeSet<Aggregate>,
    events: HashMap<Uuid, EventRow>,
    streams: BTreeMap<(Aggregate, Sequence), Uuid>,
}

impl MemoryIndex {
    /// An empty index.
    pub fn new() -> MemoryIndex {
        MemoryIndex::default()
    }

    /// An index of its own that holds the same: a backup.
    pub fn copy(&self) -> MemoryIndex {
        MemoryIndex { state: Mutex::new(self.state.lock().clone()) }
    }

    /// Becomes what a backup holds.
    pub fn restore(&self, backup: &MemoryIndex) {
        let state = backup.state.lock().clone();
        *self.state.lock() = state;
    }
}

impl State {
    fn watermark(&self, partition: Partition) -> Watermark {
        self.watermarks.get(&partition).cloned().unwrap_or(Watermark {
            segments: SegmentNumber(0),
            next_position: Position(0),
            digest: Digest([0; 32]),
        })
    }

    fn fold(&mut self, partition: Partition, rows: &SegmentRows) {
        self.segments.insert((partition, rows.first_position), rows.segment);
        for row in &rows.events {
            self.events.insert(row.event_id, row.clone());
            self.streams.insert((row.aggregate.clone(), row.sequence), row.event_id);
        }
        for (aggregate, head) in &rows.heads {
            self.heads.insert(aggregate.clone(), *head);
            self.names.insert(aggregate.clone());
        }
    }
}

/// The watermark after the segments, when they follow it and each other.
fn follow(from: &Watermark, segments: &[SegmentRows]) -> Option<Watermark> {
    segments.iter().try_fold(from.clone(), |at, rows| {
        let dense = rows.events.iter().zip(at.next_position.0..).all(|(row, position)| row.position.0 == position);
        let follows = rows.segment == at.segments && rows.first_position == at.next_position && dense;
        follows.then(|| Watermark {
            segments: SegmentNumber(at.segments.0 + 1),
            next_position: Position(at.next_position.0 + rows.events.len() as u64),
            digest: rows.digest,
        })
    })
}

#[async_trait]
impl Index for MemoryIndex {
    async fn store_id(&self) -> Result<Option<Uuid>> {
        Ok(self.state.lock().store)
    }

    async fn reset(&self, store_id: Uuid, seen: &Seen) -> Result<bool> {
        let mut state = self.state.lock();
        let is_same = |(partition, watermark): &(Partition, Watermark)| state.watermark(*partition) == *watermark;
        let unchanged = state.store == seen.store && seen.watermark.as_ref().is_none_or(is_same);
        if unchanged {
            *state = State { store: Some(store_id), ..State::default() };
        }
        Ok(unchanged)
    }

    async fn watermark(&self, partition: Partition) -> Result<Watermark> {
        Ok(self.state.lock().watermark(partition))
    }

    async fn apply(&self, partition: Partition, from: &Watermark, segments: &[SegmentRows]) -> Result<Applied> {
        let mut state = self.state.lock();
        let present = state.watermark(partition);
        if present != *from {
            return Ok(Applied::Moved(present));
        }
        let Some(to) = follow(from, segments) else {
            let reason = "segments that do not follow the watermark".to_owned();
            return Err(Error::Corrupt { what: "the index", reason });
        };
        segments.iter().for_each(|rows| state.fold(partition, rows));
        state.watermarks.insert(partition, to);
        Ok(Applied::Done)
    }

    async fn lookup(&self, partition: Partition, aggregates: &[Aggregate], ids: &[Uuid]) -> Result<Lookup> {
        let state = self.state.lock();
        Ok(Lookup {
            watermark: state.watermark(partition),
            heads: aggregates.iter().map(|a| state.heads.get(a).copied().unwrap_or_default()).collect(),
            events: ids.iter().map(|id| state.events.get(id).cloned()).collect(),
        })
    }

    async fn streams(&self, asked: &[(Aggregate, Sequence)], limit: usize) -> Result<Vec<Vec<EventRow>>> {
        let state = self.state.lock();
        let stream = |(aggregate, after): &(Aggregate, Sequence)| {
            let rows = state.streams.range((aggregate.clone(), Sequence(after.0.saturating_add(1)))..);
            let rows = rows.take_while(|((owner, _), _)| owner == aggregate).take(limit);
            rows.filter_map(|(_, id)| state.events.get(id).cloned()).collect()
        };
        Ok(asked.iter().map(stream).collect())
    }

    async fn locate(&self, partition: Partition, position: Position) -> Result<Option<(SegmentNumber, Position)>> {
        let state = self.state.lock();
        if position >= state.watermark(partition).next_position {
            return Ok(None);
        }
        let found = state.segments.range((partition, Position(0))..=(partition, position)).next_back();
        Ok(found.map(|((_, first), segment)| (*segment, *first)))
    }

    async fn aggregates(&self, kind: &str, after: Option<&str>, limit: usize) -> Result<Vec<Aggregate>> {
        let state = self.state.lock();
        let of_kind = state.names.iter().filter(|aggregate| aggregate.kind.as_str() == kind);
        let above = of_kind.filter(|aggregate| after.is_none_or(|after| aggregate.id.as_str() > after));
        Ok(above.take(limit).cloned().collect())
    }
}
