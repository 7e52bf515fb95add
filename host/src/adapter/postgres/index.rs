//! The index of the log. `apply` is one statement behind a compare-and-set of the watermark; `lookup` is one
//! statement, so heads, ids and watermark come from one snapshot (design §2).

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::values::{Id, Time};
use super::{Database, get, unsigned, uuid};
use crate::adapter::rows::{aggregate, by_stream, corrupt, digest, follow, int, limit, write_side};
use crate::domain::{
    Aggregate, AggregateId, AggregateType, Digest, EventKind, Partition, Position, SegmentNumber, Sequence,
};
use crate::port::Result;
use crate::port::index::{Applied, EventRow, Head, Index, Lookup, Seen, SegmentRows, Watermark};

// Another process that wants to empty the same database waits here, and then sees that it is not as it was.
const RESET_BEGIN: &[&str] = &["BEGIN", "LOCK TABLE store, log_watermarks IN ACCESS EXCLUSIVE MODE"];
const STORE: &str = "SELECT store_id FROM store";
const IS_AT: &str =
    "SELECT 1 FROM log_watermarks WHERE partition = $1 AND segments = $2 AND next_position = $3 AND digest = $4";
const RESET: &str = "TRUNCATE store, log_watermarks, log_segments, log_events, processed_events, aggregate_versions, \
     consumer_checkpoints, dead_letters, projection_builds, live_collections, documents, graph_nodes, graph_edge_sets, \
     graph_edges";
const BIND: &str = "INSERT INTO store VALUES (1, $1)";

// Whoever moves the watermark writes the rows; the other finds it moved and writes nothing.
const APPLY: &str = "
WITH moved AS (
    UPDATE log_watermarks SET segments = $5, next_position = $6, digest = $7
     WHERE partition = $1 AND segments = $2 AND next_position = $3 AND digest = $4
    RETURNING 1
), begun AS (
    INSERT INTO log_watermarks SELECT $1, $5, $6, $7 WHERE $2 = 0 AND $3 = 0
        ON CONFLICT DO NOTHING
    RETURNING 1
), mine AS (
    SELECT 1 FROM moved UNION ALL SELECT 1 FROM begun
), segments AS (
    INSERT INTO log_segments (partition, first_position, segment, digest, recorded_at)
    SELECT $1, s.* FROM unnest($8::bigint[], $9::bigint[], $10::bytea[], $11::timestamptz[]) s
     WHERE EXISTS (SELECT 1 FROM mine)
), events AS (
    INSERT INTO log_events (partition, position, event_id, stream, sequence_number, aggregate_type, aggregate_id,
                            segment, is_command, event_type, command_id, fingerprint)
    SELECT $1, e.* FROM unnest($12::bigint[], $13::uuid[], $14::bigint[], $15::bigint[], $16::text[], $17::text[],
                               $18::bigint[], $19::boolean[], $20::text[], $21::uuid[], $22::bytea[]) e
     WHERE EXISTS (SELECT 1 FROM mine)
), heads AS (
    INSERT INTO aggregate_versions AS v (handler, aggregate_id, last_sequence, last_command, last_domain, last_foreign,
                                         updated_at)
    SELECT h.*, $29 FROM unnest($23::text[], $24::text[], $25::bigint[], $26::bigint[], $27::bigint[], $28::bigint[]) h
     WHERE EXISTS (SELECT 1 FROM mine)
        ON CONFLICT (handler, aggregate_id) DO UPDATE
       SET last_sequence = excluded.last_sequence, updated_at = excluded.updated_at,
           last_command = excluded.last_command, last_domain = excluded.last_domain,
           last_foreign = excluded.last_foreign
     WHERE v.last_sequence < excluded.last_sequence
)
SELECT 1 FROM mine";

macro_rules! event_columns {
    () => {
        "e.partition::bigint, e.position, e.sequence_number, e.segment, e.fingerprint, e.event_id, e.command_id,
         e.aggregate_type, e.aggregate_id, e.event_type, e.is_command"
    };
}

const LOOKUP: &str = concat!(
    "
SELECT 0, 0::bigint, segments, next_position, NULL::bigint, NULL::bigint, digest, NULL::uuid, NULL::uuid, NULL::text,
       NULL::text, NULL::text, NULL::boolean
  FROM log_watermarks WHERE partition = $1
UNION ALL
SELECT 1, a.slot, v.last_sequence, v.last_command, v.last_domain, v.last_foreign, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL
  FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS a (handler, id, slot)
  JOIN aggregate_versions v ON v.handler = a.handler AND v.aggregate_id = a.id
UNION ALL
SELECT 2, a.slot, ",
    event_columns!(),
    "
  FROM unnest($4::uuid[]) WITH ORDINALITY AS a (id, slot)
  JOIN log_events e ON e.event_id = a.id"
);

const STREAMS: &str = concat!(
    "SELECT a.slot - 1, ",
    event_columns!(),
    "
  FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) WITH ORDINALITY AS a (stream, after, kind, id, slot)
 CROSS JOIN LATERAL (
    SELECT * FROM log_events
     WHERE stream = a.stream AND sequence_number > a.after AND aggregate_type = a.kind AND aggregate_id = a.id
     ORDER BY sequence_number LIMIT $5) e
 ORDER BY a.slot, e.sequence_number"
);

const LOCATE: &str = "
SELECT segment, first_position FROM log_segments
 WHERE partition = $1 AND first_position <= $2
   AND EXISTS (SELECT 1 FROM log_watermarks w WHERE w.partition = $1 AND w.next_position > $2)
 ORDER BY first_position DESC, segment DESC LIMIT 1";

const AGGREGATES: &str = "
SELECT aggregate_id FROM aggregate_versions
 WHERE handler = $1 AND aggregate_id > $2 ORDER BY aggregate_id LIMIT $3";

/// Statements that run for every command, read or write, for the test of their plans.
#[cfg(test)]
pub(super) const BUSY_SQL: &[&str] = &[APPLY, LOOKUP, STREAMS, LOCATE, AGGREGATES];

#[async_trait]
impl Index for Database {
    async fn store_id(&self) -> Result<Option<Uuid>> {
        let rows = self.inner.pool.read(STORE, Arguments::default()).await?;
        rows.first().map(|row| uuid(row, 0)).transpose()
    }

    async fn reset(&self, store_id: Uuid, seen: &Seen) -> Result<bool> {
        let mut session = self.inner.pool.session().await?;
        for statement in RESET_BEGIN {
            session.run(statement, Arguments::default()).await?;
        }
        let rows = session.run(STORE, Arguments::default()).await?;
        let mut unchanged = rows.first().map(|row| uuid(row, 0)).transpose()? == seen.store;
        if let Some((partition, watermark)) = &seen.watermark {
            let arguments = Arguments::default()
                .with(i32::from(partition.0))
                .with(int(watermark.segments.0))
                .with(int(watermark.next_position.0))
                .with(watermark.digest.0.to_vec());
            unchanged &= !session.run(IS_AT, arguments).await?.is_empty();
        }
        if unchanged {
            session.run(RESET, Arguments::default()).await?;
            session.run(BIND, Arguments::default().with(Id(store_id))).await?;
        }
        session.run("COMMIT", Arguments::default()).await?;
        session.finish();
        Ok(unchanged)
    }

    async fn watermark(&self, partition: Partition) -> Result<Watermark> {
        Ok(self.lookup(partition, &[], &[]).await?.watermark)
    }

    async fn apply(&self, partition: Partition, from: &Watermark, segments: &[SegmentRows]) -> Result<Applied> {
        let Some(last) = segments.last() else { return Ok(Applied::Done) };
        let to = follow(from, segments)?;
        let arguments = Arguments::default()
            .with(i32::from(partition.0))
            .with(int(from.segments.0))
            .with(int(from.next_position.0))
            .with(&from.digest.0[..])
            .with(int(to.segments.0))
            .with(int(to.next_position.0))
            .with(&to.digest.0[..])
            .with(segments.iter().map(|s| int(s.first_position.0)).collect::<Vec<_>>())
            .with(segments.iter().map(|s| int(s.segment.0)).collect::<Vec<_>>())
            .with(segments.iter().map(|s| &s.digest.0[..]).collect::<Vec<_>>())
            .with(segments.iter().map(|s| Time(s.recorded_at)).collect::<Vec<_>>());
        let arguments = with_heads(with_events(arguments, segments), segments).with(Time(last.recorded_at));
        if self.inner.pool.write(APPLY, arguments).await?.is_empty() {
            return Ok(Applied::Moved(self.watermark(partition).await?));
        }
        Ok(Applied::Done)
    }

    async fn lookup(&self, partition: Partition, aggregates: &[Aggregate], ids: &[Uuid]) -> Result<Lookup> {
        let arguments = Arguments::default()
            .with(i32::from(partition.0))
            .with(aggregates.iter().map(|a| write_side(a.kind.as_str())).collect::<Vec<_>>())
            .with(aggregates.iter().map(|a| a.id.as_str()).collect::<Vec<_>>())
            .with(ids.iter().map(|id| Id(*id)).collect::<Vec<_>>());
        let rows = self.inner.pool.read(LOOKUP, arguments).await?;
        let mut found = Lookup {
            watermark: Watermark { segments: SegmentNumber(0), next_position: Position(0), digest: Digest([0; 32]) },
            heads: vec![Head::default(); aggregates.len()],
            events: vec![None; ids.len()],
        };
        let nowhere = || corrupt("a row answers no question");
        for row in &rows {
            // Ordinality counts from one.
            let slot = usize::try_from(unsigned(row, 1)?).map_err(|_| nowhere())?.wrapping_sub(1);
            match get::<i32>(row, 0)? {
                0 => {
                    found.watermark = Watermark {
                        segments: SegmentNumber(unsigned(row, 2)?),
                        next_position: Position(unsigned(row, 3)?),
                        digest: digest(get(row, 6)?)?,
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
        let arguments = Arguments::default()
            .with(asked.iter().map(|(aggregate, _)| stream_key(aggregate)).collect::<Vec<_>>())
            .with(asked.iter().map(|(_, after)| int(after.0)).collect::<Vec<_>>())
            .with(asked.iter().map(|(aggregate, _)| aggregate.kind.as_str()).collect::<Vec<_>>())
            .with(asked.iter().map(|(aggregate, _)| aggregate.id.as_str()).collect::<Vec<_>>())
            .with(limit(count));
        let rows = self.inner.pool.read(STREAMS, arguments).await?;
        by_stream(asked.len(), rows.iter().map(|row| Ok((unsigned(row, 0)?, event_row(row, 1)?))))
    }

    async fn locate(&self, partition: Partition, position: Position) -> Result<Option<(SegmentNumber, Position)>> {
        let arguments = Arguments::default().with(i32::from(partition.0)).with(int(position.0));
        let rows = self.inner.pool.read(LOCATE, arguments).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some((SegmentNumber(unsigned(row, 0)?), Position(unsigned(row, 1)?))))
    }

    async fn aggregates(&self, kind: &str, after: Option<&str>, count: usize) -> Result<Vec<Aggregate>> {
        let kind = AggregateType::parse(kind).map_err(|error| corrupt(error.to_string()))?;
        let arguments =
            Arguments::default().with(write_side(kind.as_str())).with(after.unwrap_or_default()).with(limit(count));
        let aggregate = |row| {
            let id = AggregateId::parse(get(row, 0)?).map_err(|error| corrupt(error.to_string()))?;
            Ok(Aggregate { kind: kind.clone(), id })
        };
        self.inner.pool.read(AGGREGATES, arguments).await?.iter().map(aggregate).collect()
    }
}

fn with_events(arguments: Arguments, segments: &[SegmentRows]) -> Arguments {
    let events: Vec<&EventRow> = segments.iter().flat_map(|s| &s.events).collect();
    let numbers = |field: fn(&EventRow) -> u64| events.iter().map(|e| int(field(e))).collect::<Vec<_>>();
    arguments
        .with(numbers(|e| e.position.0))
        .with(events.iter().map(|e| Id(e.event_id)).collect::<Vec<_>>())
        .with(events.iter().map(|e| stream_key(&e.aggregate)).collect::<Vec<_>>())
        .with(numbers(|e| e.sequence.0))
        .with(events.iter().map(|e| e.aggregate.kind.as_str()).collect::<Vec<_>>())
        .with(events.iter().map(|e| e.aggregate.id.as_str()).collect::<Vec<_>>())
        .with(numbers(|e| e.segment.0))
        .with(events.iter().map(|e| e.kind == EventKind::Command).collect::<Vec<_>>())
        .with(events.iter().map(|e| &*e.event_type).collect::<Vec<_>>())
        .with(events.iter().map(|e| e.command_id.map(Id)).collect::<Vec<_>>())
        .with(events.iter().map(|e| e.fingerprint.as_ref().map(|d| &d.0[..])).collect::<Vec<_>>())
}

/// Each aggregate once, the head of its last segment, in the order of keys.
fn with_heads(arguments: Arguments, segments: &[SegmentRows]) -> Arguments {
    let mut heads: BTreeMap<(String, &str), Head> = BTreeMap::new();
    for (aggregate, head) in segments.iter().flat_map(|s| &s.heads) {
        let slot = heads.entry((write_side(aggregate.kind.as_str()), aggregate.id.as_str())).or_insert(*head);
        if slot.last < head.last {
            *slot = *head;
        }
    }
    let numbers = |field: fn(&Head) -> u64| heads.values().map(|head| int(field(head))).collect::<Vec<_>>();
    arguments
        .with(heads.keys().map(|(handler, _)| handler.as_str()).collect::<Vec<_>>())
        .with(heads.keys().map(|(_, id)| *id).collect::<Vec<_>>())
        .with(numbers(|head| head.last.0))
        .with(numbers(|head| head.last_command.0))
        .with(numbers(|head| head.last_domain.0))
        .with(numbers(|head| head.last_foreign.0))
}

fn event_row(row: &PgRow, first: usize) -> Result<EventRow> {
    let partition = u16::try_from(unsigned(row, first)?).map_err(|_| corrupt("a partition is no small number"))?;
    let fingerprint: Option<&[u8]> = get(row, first + 4)?;
    Ok(EventRow {
        event_id: uuid(row, first + 5)?,
        partition: Partition(partition),
        segment: SegmentNumber(unsigned(row, first + 3)?),
        position: Position(unsigned(row, first + 1)?),
        aggregate: aggregate(get(row, first + 7)?, get(row, first + 8)?)?,
        sequence: Sequence(unsigned(row, first + 2)?),
        kind: if get::<bool>(row, first + 10)? { EventKind::Command } else { EventKind::Domain },
        event_type: get::<&str>(row, first + 9)?.into(),
        command_id: get::<Option<Id>>(row, first + 6)?.map(|id| id.0),
        fingerprint: fingerprint.map(digest).transpose()?,
    })
}

/// A compact key of an aggregate; readers check the full names.
fn stream_key(aggregate: &Aggregate) -> i64 {
    let digest = Digest::of(format!("{}/{}", aggregate.kind, aggregate.id).as_bytes());
    let mut head = [0u8; 8];
    head.copy_from_slice(&digest.0[..8]);
    i64::from_be_bytes(head)
}
