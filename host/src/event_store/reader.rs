//! Reads: streams of aggregates, events by id, the log in order. Overlay first, then the index, then segments; what the
//! overlay held before the index was asked is in one of the two, so that nothing committed is ever missed.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::judge::Known;
use super::log::Log;
use super::view::EventAt;
use super::{Error, Record, Selection};
use crate::codec::segment::Event;
use crate::domain::{Aggregate, Digest, EventKind, Position, SegmentNumber, Sequence, Timestamp};
use crate::port::index::{EventRow, Head};

fn contradiction(reason: String) -> Error {
    Error::Index { reason }
}

impl Log {
    /// The record of a row of the index.
    pub(super) async fn record(&self, row: &EventRow) -> Result<Record, Error> {
        let segment = self.segment(row.segment).await?;
        let index = row.position.0.checked_sub(segment.header.first_position.0);
        let record = index.and_then(|index| Record::of(&segment, usize::try_from(index).ok()?));
        record
            .filter(|record| record.event_id == row.event_id)
            .ok_or_else(|| contradiction(format!("segment {} does not hold event {}", row.segment, row.event_id)))
    }

    /// The record of an event, wherever it was found.
    pub(super) async fn known(&self, known: &Known) -> Result<Record, Error> {
        match known {
            Known::Memory(EventAt { segment, index }) => {
                Record::of(segment, *index).ok_or_else(|| contradiction("an event has left its segment".into()))
            }
            Known::Row(row) => self.record(row).await,
        }
    }

    /// The event and, for a domain event, those of the same decision that follow it in its segment.
    pub(super) async fn decision(&self, first: &Record) -> Result<Vec<Record>, Error> {
        let mut records = vec![first.clone()];
        if first.kind == EventKind::Command {
            return Ok(records);
        }
        let segment = self.segment(first.segment).await?;
        let begin = usize::try_from(first.position.0 - segment.header.first_position.0)
            .map_err(|_| contradiction("a position beyond its segment".into()))?;
        for index in begin + 1..segment.events.len() {
            let event = &segment.events[index];
            let same = event.kind == EventKind::Domain && event.aggregate == first.aggregate;
            if !same || event.command_id.is_none() || event.command_id != first.command_id {
                break;
            }
            records.extend(Record::of(&segment, index));
        }
        Ok(records)
    }

    pub(super) async fn heads(&self, aggregates: &[Aggregate]) -> Result<Vec<Head>, Error> {
        let (mut heads, missing): (Vec<Option<Head>>, Vec<Aggregate>) = {
            let view = self.view.lock();
            let heads: Vec<Option<Head>> = aggregates.iter().map(|aggregate| view.head(aggregate)).collect();
            let missing = aggregates.iter().zip(&heads).filter(|(_, head)| head.is_none()).map(|(a, _)| a.clone());
            let missing = missing.collect();
            (heads, missing)
        };
        if !missing.is_empty() {
            let found = self.shared.index.lookup(self.partition, &missing, &[]).await?;
            let mut view = self.view.lock();
            for (aggregate, head) in missing.iter().zip(&found.heads) {
                view.learn(aggregate, *head, &found.watermark);
            }
            let mut found = found.heads.into_iter();
            heads.iter_mut().filter(|head| head.is_none()).for_each(|head| *head = found.next());
        }
        Ok(heads.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The index is asked once for all aggregates, and a segment read once.
    pub(super) async fn streams(
        &self,
        asked: &[(Aggregate, Sequence)],
        limit: usize,
    ) -> Result<Vec<Vec<Record>>, Error> {
        let mut streams: Vec<Vec<Record>> = vec![Vec::new(); asked.len()];
        let mut overlays: Vec<Vec<EventAt>> = Vec::with_capacity(asked.len());
        let mut in_index: Vec<usize> = Vec::new();
        {
            let view = self.view.lock();
            for (place, (aggregate, after)) in asked.iter().enumerate() {
                if limit == 0 || view.head(aggregate).is_some_and(|head| head.last <= *after) {
                    overlays.push(Vec::new());
                    continue;
                }
                let overlay = view.stream(aggregate);
                let first = overlay.first().map(|at| at.segment.events[at.index].sequence);
                if first.is_none_or(|first| first.0 > after.0.saturating_add(1)) {
                    in_index.push(place);
                }
                overlays.push(overlay);
            }
        }
        if !in_index.is_empty() {
            let wanted: Vec<_> = in_index.iter().map(|place| asked[*place].clone()).collect();
            let found = self.shared.index.streams(&wanted, limit).await?;
            let rows = in_index.into_iter().zip(found);
            let mut rows: Vec<(usize, EventRow)> =
                rows.flat_map(|(place, rows)| rows.into_iter().map(move |row| (place, row))).collect();
            rows.sort_unstable_by_key(|(_, row)| row.position);
            let (places, rows): (Vec<usize>, Vec<EventRow>) = rows.into_iter().unzip();
            for (place, record) in places.into_iter().zip(self.records(rows).await?) {
                streams[place].push(record);
            }
        }
        for (((aggregate, after), overlay), records) in asked.iter().zip(overlays).zip(&mut streams) {
            for at in overlay {
                let next = records.last().map_or(*after, |record: &Record| record.sequence);
                if records.len() < limit && at.segment.events[at.index].sequence > next {
                    records.extend(Record::of(&at.segment, at.index));
                }
            }
            let dense =
                records.iter().zip(after.0.saturating_add(1)..).all(|(record, sequence)| record.sequence.0 == sequence);
            if !dense {
                return Err(contradiction(format!("the stream of {aggregate} has a gap after {after}")));
            }
        }
        Ok(streams)
    }

    /// Fills in the events among `ids` that this partition's overlay holds.
    pub(super) fn find_in_memory(&self, ids: &[Uuid], found: &mut [Option<Record>]) {
        let view = self.view.lock();
        for (id, found) in ids.iter().zip(found) {
            if let Some(at) = view.event(id) {
                *found = Record::of(&at.segment, at.index);
            }
        }
    }

    pub(super) async fn select(
        &self,
        from: Position,
        limit: usize,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Selection, Error> {
        let end = *self.end.borrow();
        let mut selection = Selection { records: Vec::new(), next: from, recorded_at: Timestamp(0) };
        if from >= end || limit == 0 {
            return Ok(selection);
        }
        let last = Position(from.0.saturating_add(limit as u64)).min(end);
        let mut segment = self.holding(from).await?;
        loop {
            let skip = usize::try_from(selection.next.0 - segment.header.first_position.0)
                .map_err(|_| contradiction("a position beyond its segment".into()))?;
            let take = usize::try_from(last.0 - selection.next.0).unwrap_or(usize::MAX);
            let looked_at = segment.events.iter().enumerate().skip(skip).take(take);
            selection.next.0 += looked_at.len() as u64;
            selection.recorded_at = segment.header.recorded_at;
            let found = looked_at.filter(|(_, event)| wanted(event));
            selection.records.extend(found.filter_map(|(index, _)| Record::of(&segment, index)));
            if selection.next >= last {
                return Ok(selection);
            }
            segment = self.segment(SegmentNumber(segment.header.segment.0 + 1)).await?;
        }
    }

    /// The segment that holds a committed position.
    async fn holding(&self, position: Position) -> Result<Arc<crate::codec::segment::Segment>, Error> {
        let in_memory = self.view.lock().holding(position);
        if let Some(segment) = in_memory {
            return Ok(segment);
        }
        match self.shared.index.locate(self.partition, position).await? {
            Some((number, _)) => {
                let segment = self.segment(number).await?;
                if segment.header.first_position <= position && position < segment.next_position() {
                    return Ok(segment);
                }
                Err(contradiction(format!("segment {number} does not hold position {position}")))
            }
            None => Err(contradiction(format!("no segment is known to hold position {position}"))),
        }
    }

    pub(super) async fn segment_of(&self, position: Position) -> Result<SegmentNumber, Error> {
        let end = {
            let view = self.view.lock();
            view.end().clone()
        };
        if position >= end.next_position {
            return Ok(end.segments);
        }
        Ok(self.holding(position).await?.header.segment)
    }

    pub(super) async fn before_segment(&self, number: SegmentNumber) -> Result<Option<(Digest, Position)>, Error> {
        let end = self.view.lock().end().clone();
        if number > end.segments {
            // Another process may have written on since this one looked: the store knows.
            let before = self.fetch(SegmentNumber(number.0 - 1)).await?;
            return Ok(before.map(|segment| (segment.digest, segment.next_position())));
        }
        if number == end.segments {
            return Ok(Some((end.digest, end.next_position)));
        }
        let segment = self.segment(number).await?;
        Ok(Some((segment.header.prev_digest, segment.header.first_position)))
    }

    /// Aggregates of a type with an id above `after`, those of the overlay included.
    pub(super) fn overlay_aggregates(&self, kind: &str, after: Option<&str>, into: &mut BTreeSet<Aggregate>) {
        let view = self.view.lock();
        let above = |aggregate: &&Aggregate| after.is_none_or(|after| aggregate.id.as_str() > after);
        into.extend(view.touched(kind).filter(above).cloned());
    }
}
