//! The index of the log. `apply` is one transaction behind a compare-and-set of the watermark; `lookup` is one
//! statement, so heads, ids and watermark come from one snapshot (design §2).

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::ledger::Ledger;
use super::{Database, Hex, corrupt, failed, get, int, json, limit, unsigned};
use crate::adapter::rows::{aggregate, by_stream, digest, follow, write_side};
use crate::domain::{
    Aggregate, AggregateId, AggregateType, Digest, EventKind, Partition, Position, SegmentNumber, Sequence,
};
use crate::port::Result;
use crate::port::index::{Applied, EventRow, Head, Index, Lookup, Seen, SegmentRows, Watermark};

/// Bits of `place` that hold the position; the partition is above them.
const POSITION_BITS: u32 = 44;

const RESET: &str = "
BEGIN IMMEDIATE;
DELETE FROM store;
DELETE FROM log_watermarks;
DELETE FROM log_segments;
DELETE FROM log_events;
DELETE FROM processed_events;
DELETE FROM aggregate_versions;
DELETE FROM consumer_checkpoints;
DELETE FROM dead_letters;
DELETE FROM projection_builds;
DELETE FROM live_collections;
DELETE FROM documents;
INSERT INTO documents_text (documents_text) VALUES ('delete-all');
DELETE FROM graph_nodes;
DELETE FROM graph_edge_sets;
DELETE FROM graph_edges;
INSERT INTO store VALUES (1, $1);
COMMIT";

// `OR ROLLBACK`: what ends the transaction needs no journal to undo the statement alone.
const APPLY: &str = "
BEGIN IMMEDIATE;
INSERT INTO log_watermarks
SELECT $1, $5, $6, $7
 WHERE ($2 = 0 AND $3 = 0) OR EXISTS (SELECT 1 FROM log_watermarks WHERE partition = $1)
    ON CONFLICT (partition) DO UPDATE
   SET segments = excluded.segments, next_position = excluded.next_position, digest = excluded.digest
 WHERE segments = $2 AND next_position = $3 AND digest = $4;
INSERT INTO guard (missing_watermark) SELECT 1 WHERE changes() = 0;
INSERT INTO log_segments
SELECT $1, value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3 FROM jsonb_each($8);
INSERT INTO aggregate_versions
SELECT value ->> 0, value ->> 1, value ->> 2, $11, value ->> 3, value ->> 4, value ->> 5, value ->> 6
  FROM jsonb_each($10)
 WHERE true
    ON CONFLICT (handler, aggregate_id) DO UPDATE
   SET last_sequence = excluded.last_sequence, updated_at = excluded.updated_at,
       last_command = excluded.last_command, last_domain = excluded.last_domain, last_foreign = excluded.last_foreign,
       stream = coalesce(stream, excluded.stream)
 WHERE last_sequence < excluded.last_sequence;
INSERT OR ROLLBACK INTO log_events
SELECT value ->> 0, unhex(value ->> 1), value ->> 2,
       (SELECT stream FROM aggregate_versions
         WHERE handler = 'write_side:' || (j.value ->> 4) AND aggregate_id = j.value ->> 5),
       value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, unhex(value ->> 9),
       unhex(value ->> 10)
  FROM jsonb_each($9) j;
COMMIT";

// `$4`: those of the ids that may be derived, with their index in `$3`. Each age of each partition is one seek for each
// of them (decision 0025).
const LOOKUP: &str = "
WITH RECURSIVE ages (age, last) AS (
    SELECT (partition << 44) >> 19, ((partition << 44) + next_position) >> 19 FROM log_watermarks
     WHERE json_array_length($4) > 0
    UNION ALL
    SELECT age + 1, last FROM ages WHERE age < last
)
SELECT 0, 0, segments, next_position, digest, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM log_watermarks WHERE partition = $1
UNION ALL
SELECT 1, j.key, v.last_sequence, v.last_command, v.last_domain, v.last_foreign, NULL, NULL, NULL, NULL, NULL, NULL
  FROM jsonb_each($2) j CROSS JOIN aggregate_versions v
 WHERE v.handler = j.value ->> 0 AND v.aggregate_id = j.value ->> 1
UNION ALL
SELECT 2, j.key, e.place, e.event_id, e.sequence_number, e.aggregate_type, e.aggregate_id, e.segment, e.is_command,
       e.event_type, e.command_id, e.fingerprint
  FROM json_each($3) j CROSS JOIN log_events e
 WHERE e.is_derived = 0 AND e.event_id = unhex(j.value)
UNION ALL
SELECT 2, j.value ->> 0, e.place, e.event_id, e.sequence_number, e.aggregate_type, e.aggregate_id, e.segment,
       e.is_command, e.event_type, e.command_id, e.fingerprint
  FROM jsonb_each($4) j CROSS JOIN ages CROSS JOIN log_events e
 WHERE e.is_derived = 1 AND e.place >> 19 = ages.age AND e.event_id = unhex(j.value ->> 1)";

// Sequences have no gap, so a bound on them is the limit of each stream.
const STREAMS: &str = "
SELECT j.key, e.place, e.event_id, e.sequence_number, e.aggregate_type, e.aggregate_id, e.segment, e.is_command,
       e.event_type, e.command_id, e.fingerprint
  FROM jsonb_each($1) j CROSS JOIN log_events e
 WHERE e.stream = (SELECT stream FROM aggregate_versions
                    WHERE handler = j.value ->> 0 AND aggregate_id = j.value ->> 1)
   AND e.sequence_number > j.value ->> 2 AND e.sequence_number <= (j.value ->> 2) + $2
 ORDER BY j.key, e.sequence_number";

const LOCATE: &str = "
SELECT segment, first_position FROM log_segments
 WHERE partition = $1 AND first_position <= $2
   AND EXISTS (SELECT 1 FROM log_watermarks w WHERE w.partition = $1 AND w.next_position > $2)
 ORDER BY first_position DESC, segment DESC LIMIT 1";

const AGGREGATES: &str = "
SELECT aggregate_id FROM aggregate_versions
 WHERE handler = $1 AND aggregate_id > $2 ORDER BY aggregate_id LIMIT +$3";

/// Strings of statements that run for every command, read or write, for the test of their plans.
#[cfg(test)]
pub(super) const BUSY_SQL: &[&str] = &[APPLY, LOOKUP, STREAMS, LOCATE, AGGREGATES];

#[async_trait]
impl Index for Database {
    async fn store_id(&self) -> Result<Option<Uuid>> {
        let rows = self.inner.readers.run("SELECT store_id FROM store", Arguments::default()).await.map_err(failed)?;
        let Some(row) = rows.first() else { return Ok(None) };
        let text: &str = get(row, 0)?;
        text.parse().map(Some).map_err(|_| corrupt("the store id is no UUID"))
    }

    /// One process owns the folder: nobody changes the database between the look and the reset.
    async fn reset(&self, store_id: Uuid, seen: &Seen) -> Result<bool> {
        if self.store_id().await? != seen.store {
            return Ok(false);
        }
        if let Some((partition, watermark)) = &seen.watermark
            && self.watermark(*partition).await? != *watermark
        {
            return Ok(false);
        }
        let arguments = Arguments::default().with(store_id.to_string());
        self.inner.writer.run(RESET, arguments).await.map_err(failed)?;
        self.forget(|ledger| *ledger = Ledger::default()).await;
        Ok(true)
    }

    async fn watermark(&self, partition: Partition) -> Result<Watermark> {
        Ok(self.lookup(partition, &[], &[]).await?.watermark)
    }

    async fn apply(&self, partition: Partition, from: &Watermark, segments: &[SegmentRows]) -> Result<Applied> {
        let Some(last) = segments.last() else { return Ok(Applied::Done) };
        let to = follow(from, segments)?;
        let segment_rows: Vec<_> =
            segments.iter().map(|s| (s.first_position.0, s.segment.0, Hex(&s.digest.0), s.recorded_at.0)).collect();
        let event_rows: Vec<_> = segments.iter().flat_map(|s| &s.events).map(event_columns).collect();
        let head_rows: Vec<_> = segments.iter().flat_map(head_columns).collect();
        let arguments = Arguments::default()
            .with(i64::from(partition.0))
            .with(int(from.segments.0))
            .with(int(from.next_position.0))
            .with(from.digest.0.to_vec())
            .with(int(to.segments.0))
            .with(int(to.next_position.0))
            .with(to.digest.0.to_vec())
            .with(json(&segment_rows))
            .with(json(&event_rows))
            .with(json(&head_rows))
            .with(last.recorded_at.0);
        match self.inner.writer.run(APPLY, arguments).await {
            Ok(_) => Ok(Applied::Done),
            Err(error) if error.to_string().contains("watermark_is_expected") => {
                Ok(Applied::Moved(self.watermark(partition).await?))
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn lookup(&self, partition: Partition, aggregates: &[Aggregate], ids: &[Uuid]) -> Result<Lookup> {
        let names: Vec<_> = aggregates.iter().map(|a| (write_side(a.kind.as_str()), a.id.as_str())).collect();
        let hex: Vec<_> = ids.iter().map(|id| Hex(id.as_bytes())).collect();
        let derived: Vec<_> = hex.iter().enumerate().filter(|(index, _)| may_be_derived(&ids[*index])).collect();
        let arguments =
            Arguments::default().with(i64::from(partition.0)).with(json(&names)).with(json(&hex)).with(json(&derived));
        let rows = self.inner.readers.run(LOOKUP, arguments).await.map_err(failed)?;
        let mut found = Lookup {
            watermark: Watermark { segments: SegmentNumber(0), next_position: Position(0), digest: Digest([0; 32]) },
            heads: vec![Head::default(); aggregates.len()],
            events: vec![None; ids.len()],
        };
        let nowhere = || corrupt("a row answers no question");
        for row in &rows {
            let slot = usize::try_from(unsigned(row, 1)?).map_err(|_| nowhere())?;
            match get::<i64>(row, 0)? {
                0 => {
                    found.watermark = Watermark {
                        segments: SegmentNumber(unsigned(row, 2)?),
                        next_position: Position(unsigned(row, 3)?),
                        digest: digest(get(row, 4)?)?,
                    };
                }
                1 => {
                    *found.heads.get_mut(slot).ok_or_else(nowhere)? = Head {
                        last: Sequence(unsigned(row, 2)?),
                        last_command: Sequence(unsigned(row, 3)?),
                        last_domain: Sequence(unsigned(row, 4)?),
                        last_foreign: Sequence(unsigned(row, 5)?),
                    };
                }
                _ => {
                    let event = event_row(row, 2)?;
                    let slot = found.events.get_mut(slot).ok_or_else(nowhere)?;
                    // An id in two partitions is the checker's to find; here the partition asked goes first.
                    if slot.is_none() || event.partition == partition {
                        *slot = Some(event);
                    }
                }
            }
        }
        Ok(found)
    }

    async fn streams(&self, asked: &[(Aggregate, Sequence)], count: usize) -> Result<Vec<Vec<EventRow>>> {
        let name = |(aggregate, after): &(Aggregate, Sequence)| {
            (write_side(aggregate.kind.as_str()), aggregate.id.as_str().to_owned(), after.0)
        };
        let arguments = Arguments::default().with(json(&asked.iter().map(name).collect::<Vec<_>>())).with(limit(count));
        let rows = self.inner.readers.run(STREAMS, arguments).await.map_err(failed)?;
        by_stream(asked.len(), rows.iter().map(|row| Ok((unsigned(row, 0)?, event_row(row, 1)?))))
    }

    async fn locate(&self, partition: Partition, position: Position) -> Result<Option<(SegmentNumber, Position)>> {
        let arguments = Arguments::default().with(i64::from(partition.0)).with(int(position.0));
        let rows = self.inner.readers.run(LOCATE, arguments).await.map_err(failed)?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some((SegmentNumber(unsigned(row, 0)?), Position(unsigned(row, 1)?))))
    }

    async fn aggregates(&self, kind: &str, after: Option<&str>, count: usize) -> Result<Vec<Aggregate>> {
        let kind = AggregateType::parse(kind).map_err(|error| corrupt(error.to_string()))?;
        let arguments = Arguments::default()
            .with(write_side(kind.as_str()))
            .with(after.unwrap_or_default().to_owned())
            .with(limit(count));
        let rows = self.inner.readers.run(AGGREGATES, arguments).await.map_err(failed)?;
        let aggregate = |row| {
            let id = AggregateId::parse(get(row, 0)?).map_err(|error| corrupt(error.to_string()))?;
            Ok(Aggregate { kind: kind.clone(), id })
        };
        rows.iter().map(aggregate).collect()
    }
}

fn place(event: &EventRow) -> i64 {
    i64::from(event.partition.0) << POSITION_BITS | int(event.position.0)
}

/// Whether an id may be one that is derived from a command's: what the indexes by id are divided by.
fn may_be_derived(id: &Uuid) -> bool {
    id.get_version_num() == 5
}

/// Heads with the place of the first event of each aggregate in the segment: it names the stream when it is new.
fn head_columns(segment: &SegmentRows) -> impl Iterator<Item = impl serde::Serialize + '_> + '_ {
    let mut first: HashMap<&Aggregate, i64> = HashMap::with_capacity(segment.heads.len());
    for event in &segment.events {
        first.entry(&event.aggregate).or_insert_with(|| place(event));
    }
    segment.heads.iter().map(move |(aggregate, head)| {
        let (command, domain) = (head.last_command.0, head.last_domain.0);
        let handler = write_side(aggregate.kind.as_str());
        let stream = first.get(aggregate);
        (handler, aggregate.id.as_str(), head.last.0, command, domain, head.last_foreign.0, stream.copied())
    })
}

fn event_columns(event: &EventRow) -> impl serde::Serialize + '_ {
    (
        place(event),
        Hex(event.event_id.as_bytes()),
        i64::from(event.kind == EventKind::Domain && may_be_derived(&event.event_id)),
        event.sequence.0,
        event.aggregate.kind.as_str(),
        event.aggregate.id.as_str(),
        event.segment.0,
        i64::from(event.kind == EventKind::Command),
        &*event.event_type,
        event.command_id.as_ref().map(|id| Hex(id.as_bytes())),
        event.fingerprint.as_ref().map(|digest| Hex(&digest.0)),
    )
}

fn event_row(row: &SqliteRow, first: usize) -> Result<EventRow> {
    let place = unsigned(row, first)?;
    let partition = u16::try_from(place >> POSITION_BITS).map_err(|_| corrupt("a place has no partition"))?;
    let command_id: Option<&[u8]> = get(row, first + 8)?;
    let fingerprint: Option<&[u8]> = get(row, first + 9)?;
    Ok(EventRow {
        event_id: uuid(get(row, first + 1)?)?,
        partition: Partition(partition),
        segment: SegmentNumber(unsigned(row, first + 5)?),
        position: Position(place & ((1 << POSITION_BITS) - 1)),
        aggregate: aggregate(get(row, first + 3)?, get(row, first + 4)?)?,
        sequence: Sequence(unsigned(row, first + 2)?),
        kind: if get::<i64>(row, first + 6)? == 1 { EventKind::Command } else { EventKind::Domain },
        event_type: get::<&str>(row, first + 7)?.into(),
        command_id: command_id.map(uuid).transpose()?,
        fingerprint: fingerprint.map(digest).transpose()?,
    })
}

fn uuid(bytes: &[u8]) -> Result<Uuid> {
    Uuid::from_slice(bytes).map_err(|_| corrupt("an event id has not 16 bytes"))
}
