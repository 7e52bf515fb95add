//! The registry of processed events: claims are taken, renewed and ended in memory ([`Ledger`]); the versions of their
//! aggregates, and rows of what these do not tell, are written when they ended, many in one transaction, with the
//! checkpoint that covers them (I6, I7, decision 0009). The table is asked
//! about a claim only when memory cannot tell: then nothing may go from memory to the table until it is answered.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::ledger::{Ledger, Row, Stored, Written};
use super::{Database, corrupt, failed, get, int, json, limit, unsigned};
use crate::domain::{Partition, Position, Sequence, Timestamp};
use crate::port::Result;
use crate::port::read_model::builds::Begun;
use crate::port::registry::{Claim, ClaimFilter, ClaimRow, Claimed, Finished, Owner, Registry, Status};

/// Ended claims that wait for a transaction: enough of them share pages, and a crash forgets no more than these.
const WAITING_MAX: usize = 4_096;
/// Rows looked at in one step of `retire`, so that no statement runs long.
const RETIRE_STEP: i64 = 20_000;

// Every claim asked about once, the versions of their aggregates, and whether anything of the consumer is unfinished.
const ASK: &str = "
SELECT 0, p.event_id, p.aggregate_id, p.sequence_number, p.status, p.started_at, p.heartbeat_at, p.processed_at,
       p.attempt_count, p.last_error
  FROM json_each($2) j CROSS JOIN processed_events p
 WHERE p.handler = $1 AND p.event_id = j.value
UNION ALL
SELECT 1, NULL, v.aggregate_id, v.last_sequence, NULL, NULL, NULL, NULL, NULL, NULL
  FROM json_each($3) j CROSS JOIN aggregate_versions v
 WHERE v.handler = $1 AND v.aggregate_id = j.value
UNION ALL
SELECT 2, NULL, NULL, EXISTS (
    SELECT 1 FROM processed_events WHERE handler = $1 AND status IN ('processing', 'failed', 'parked')
), NULL, NULL, NULL, NULL, NULL, NULL WHERE $4";

/// Writes rows ($1), of which so many ($2) are not done by now. What is done stays as it is.
macro_rules! write_rows {
    () => {
        "
INSERT INTO processed_events (handler, event_id, aggregate_id, sequence_number, status, started_at, owner,
                              heartbeat_at, processed_at, attempt_count, last_error)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
       value ->> 8, value ->> 9, value ->> 10
  FROM jsonb_each($1)
 WHERE true
    ON CONFLICT (handler, event_id) DO UPDATE
   SET status = excluded.status, started_at = excluded.started_at, owner = excluded.owner,
       heartbeat_at = excluded.heartbeat_at, processed_at = excluded.processed_at,
       attempt_count = excluded.attempt_count, last_error = excluded.last_error
 WHERE status <> 'done';
INSERT INTO guard (missing_claims) SELECT 1 WHERE changes() < $2;"
    };
}
pub(super) use write_rows;

/// A consumer's checkpoint on a partition, and the build that it writes.
type Checkpoint<'a> = (&'a str, Partition, Position, Option<&'a Begun>);

const WRITE: &str = concat!(
    "BEGIN IMMEDIATE;",
    write_rows!(),
    "
INSERT INTO aggregate_versions (handler, aggregate_id, last_sequence, updated_at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each($3)
 WHERE true
    ON CONFLICT (handler, aggregate_id) DO UPDATE
   SET last_sequence = excluded.last_sequence, updated_at = excluded.updated_at
 WHERE last_sequence < excluded.last_sequence;
INSERT INTO consumer_checkpoints SELECT $4, $5, $6
 WHERE $4 IS NOT NULL
   AND ($7 IS NULL
        OR EXISTS (SELECT 1 FROM projection_builds WHERE name = $7 AND id = $8 AND state <> 'dropping'))
    ON CONFLICT (consumer, partition) DO UPDATE
   SET position = excluded.position WHERE position < excluded.position;
COMMIT"
);

// A handler asked for is where the range begins, too; a blob is above every text.
const ROWS: &str = "
SELECT handler, event_id, aggregate_id, sequence_number, status, started_at, owner, heartbeat_at, processed_at,
       attempt_count, last_error
  FROM processed_events
 WHERE (handler, event_id) > ($3, $4) AND handler <= coalesce($1, x'') AND ($2 IS NULL OR status = $2)
 ORDER BY handler, event_id LIMIT $5";

// Handlers are found by jumping from one to the next, so that ids are sought and never searched for.
const ROWS_BY_ID: &str = "
WITH RECURSIVE known (name) AS (
    SELECT min(handler) FROM processed_events
    UNION ALL
    SELECT (SELECT min(handler) FROM processed_events WHERE handler > name) FROM known WHERE name IS NOT NULL
),
handlers (name) AS (SELECT $1 WHERE $1 IS NOT NULL UNION ALL SELECT name FROM known WHERE $1 IS NULL)
SELECT p.handler, p.event_id, p.aggregate_id, p.sequence_number, p.status, p.started_at, p.owner, p.heartbeat_at,
       p.processed_at, p.attempt_count, p.last_error
  FROM handlers h CROSS JOIN (SELECT DISTINCT value FROM json_each($2)) j CROSS JOIN processed_events p
 WHERE p.handler = h.name AND p.event_id = j.value";

// The rows of one step that may go, and its last row, from which the next step goes on.
const RETIRABLE: &str = "
SELECT handler, event_id, may_go FROM (
    SELECT p.handler, p.event_id, row_number() OVER (ORDER BY p.handler, p.event_id) AS place,
           p.status IN ('done', 'skipped_stale') AND p.processed_at < $3 AND EXISTS (
               SELECT 1 FROM aggregate_versions v
                WHERE v.handler = p.handler AND v.aggregate_id = p.aggregate_id
                  AND v.last_sequence >= p.sequence_number) AS may_go
      FROM processed_events p
     WHERE (p.handler, p.event_id) > ($1, $2)
     ORDER BY p.handler, p.event_id LIMIT $4)
 WHERE may_go OR place = $4";

const RETIRE: &str = "
DELETE FROM processed_events
 WHERE (handler, event_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($1))
   AND status IN ('done', 'skipped_stale') AND processed_at < $2
RETURNING event_id";

/// Strings of statements that run for every command, read or write, for the test of their plans.
#[cfg(test)]
pub(super) const BUSY_SQL: &[&str] = &[ASK, WRITE, ROWS_BY_ID, RETIRE];

impl Database {
    /// Writes what ended in memory, and drops of it what needs no row; with `all`, writes rows for these and the open
    /// claims as well. A consumer's checkpoint goes into the same transaction, so that none is ahead of what it covers
    /// (I7).
    pub(super) async fn write_claims(&self, all: bool, checkpoint: Option<Checkpoint<'_>>) -> Result<()> {
        let _one_at_a_time = self.inner.writing_claims.lock().await;
        let unwritten = self.inner.ledger.lock().unwritten(all);
        if unwritten.is_empty() && checkpoint.is_none() {
            return Ok(());
        }
        let build = checkpoint.and_then(|(.., build)| build);
        let versions = &unwritten.versions;
        let versions: Vec<_> = versions.iter().map(|(h, id, version, at)| (h, id, version, at.0)).collect();
        let arguments = rows_arguments(&unwritten.rows, 0)
            .with(json(&versions))
            .with(checkpoint.map(|(consumer, ..)| consumer.to_owned()))
            .with(checkpoint.map(|(_, partition, ..)| i64::from(partition.0)))
            .with(checkpoint.map(|(_, _, position, _)| int(position.0)))
            .with(build.map(|build| build.name.clone()))
            .with(build.map(|build| build.id.to_string()));
        self.inner.writer.run(WRITE, arguments).await.map_err(failed)?;
        self.forget(|ledger| {
            ledger.written(&unwritten);
            ledger.ask_again();
        })
        .await;
        Ok(())
    }

    /// Sees to it that not too many ended claims wait in memory.
    pub(super) async fn make_room(&self) -> Result<()> {
        if self.inner.ledger.lock().waiting() >= WAITING_MAX {
            self.write_claims(false, None).await?;
        }
        Ok(())
    }

    /// Lets rows go from memory to the table, while no claim is between the two.
    pub(super) async fn forget(&self, change: impl FnOnce(&mut Ledger)) {
        let _no_claim_is_under_way = self.inner.claiming.write().await;
        change(&mut self.inner.ledger.lock());
    }

    /// What the table holds of claims.
    async fn stored(&self, handler: &str, claims: &[&Claim], unfinished: bool) -> Result<Stored> {
        let ids: Vec<Uuid> = claims.iter().map(|claim| claim.event_id).collect();
        let mut versions: HashMap<String, u64> = claims.iter().map(|c| (c.aggregate_id.clone(), 0)).collect();
        let names: Vec<&String> = versions.keys().collect();
        let arguments =
            Arguments::default().with(handler.to_owned()).with(json(&ids)).with(json(&names)).with(unfinished);
        let mut stored = Stored::default();
        for row in &self.inner.readers.run(ASK, arguments).await.map_err(failed)? {
            match get::<i64>(row, 0)? {
                0 => {
                    stored.rows.insert(event_id(row, 1)?, stored_row(row)?);
                }
                1 => {
                    versions.insert(get(row, 2)?, unsigned(row, 3)?);
                }
                _ => stored.unfinished = Some(unsigned(row, 3)? == 1),
            }
        }
        stored.versions = versions;
        Ok(stored)
    }

    /// Rows of some events, from memory and table, without writing: clients that wait for a command ask this often.
    async fn rows_by_id(&self, filter: &ClaimFilter) -> Result<Vec<ClaimRow>> {
        let _rows_stay = self.inner.claiming.read().await;
        let arguments = Arguments::default().with(filter.handler.clone()).with(json(&filter.event_ids));
        let mut rows: BTreeMap<(String, Uuid), ClaimRow> = BTreeMap::new();
        for row in &self.inner.readers.run(ROWS_BY_ID, arguments).await.map_err(failed)? {
            let row = claim_row(row)?;
            rows.insert((row.handler.clone(), row.event_id), row);
        }
        for (handler, id, row) in self.inner.ledger.lock().rows(filter.handler.as_deref(), &filter.event_ids) {
            let key = (handler.to_owned(), id);
            // What the table has as done is: a call whose answer was lost left it open in memory.
            if rows.get(&key).is_none_or(|stored| stored.status != Status::Done.as_str()) {
                rows.insert(key, row.seen(handler, id));
            }
        }
        let wanted = |(key, row): &(_, ClaimRow)| {
            filter.after.as_ref().is_none_or(|after| key > after)
                && filter.status.is_none_or(|status| row.status == status.as_str())
        };
        Ok(rows.into_iter().filter(wanted).take(filter.limit).map(|(_, row)| row).collect())
    }
}

/// Rows, and how many of them must not be done already.
pub(super) fn rows_arguments(rows: &[Written], rows_min: usize) -> Arguments {
    let rows: Vec<_> = rows
        .iter()
        .map(|(handler, id, row, _)| {
            let owner = row.owner.as_ref().map(Owner::to_string);
            let times = (row.started_at.map(|t| t.0), row.heartbeat_at.map(|t| t.0), row.processed_at.map(|t| t.0));
            let (started, heartbeat, processed) = times;
            let (status, attempt, error) = (row.status.as_str(), row.attempt, row.last_error.as_deref());
            (handler, id, &row.aggregate_id, row.sequence, status, started, owner, heartbeat, processed, attempt, error)
        })
        .collect();
    Arguments::default().with(json(&rows)).with(limit(rows_min))
}

#[async_trait]
impl Registry for Database {
    async fn claim(
        &self,
        handler: &str,
        owner: &Owner,
        claims: &[Claim],
        lease_ms: i64,
        now: Timestamp,
    ) -> Result<Vec<Claimed>> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        // Between the look at the table and the claim no row may go from memory to the table.
        let _rows_stay = self.inner.claiming.read().await;
        let (unknown, unfinished) = {
            let ledger = self.inner.ledger.lock();
            (ledger.unknown(handler, claims), ledger.must_ask(handler))
        };
        let stored =
            if unknown.is_empty() { Stored::default() } else { self.stored(handler, &unknown, unfinished).await? };
        Ok(self.inner.ledger.lock().claim(handler, owner, claims, lease_ms, now, stored))
    }

    async fn heartbeat(&self, handler: &str, owner: &Owner, ids: &[Uuid], now: Timestamp) -> Result<Vec<Uuid>> {
        Ok(self.inner.ledger.lock().heartbeat(handler, owner, ids, now))
    }

    async fn done(&self, handler: &str, owner: &Owner, finished: &[Finished], now: Timestamp) -> Result<Vec<Uuid>> {
        // Before anything changes: an error leaves the claims open.
        self.make_room().await?;
        Ok(self.inner.ledger.lock().done(handler, owner, finished, now))
    }

    async fn fail(
        &self,
        handler: &str,
        owner: &Owner,
        events: &[Finished],
        status: Status,
        error: &str,
        now: Timestamp,
    ) -> Result<Vec<Uuid>> {
        let mut ledger = self.inner.ledger.lock();
        let lost = events.iter().filter(|event| !ledger.fail(handler, owner, event, status, error, now));
        Ok(lost.map(|event| event.event_id).collect())
    }

    async fn rows(&self, filter: &ClaimFilter) -> Result<Vec<ClaimRow>> {
        if !filter.event_ids.is_empty() {
            return self.rows_by_id(filter).await;
        }
        self.write_claims(true, None).await?;
        let first = (filter.handler.clone().unwrap_or_default(), String::new());
        let (after_handler, after_id) = match &filter.after {
            Some((handler, id)) => first.max((handler.clone(), id.to_string())),
            None => first,
        };
        let arguments = Arguments::default()
            .with(filter.handler.clone())
            .with(filter.status.map(Status::as_str).map(str::to_owned))
            .with(after_handler)
            .with(after_id)
            .with(limit(filter.limit));
        self.inner.readers.run(ROWS, arguments).await.map_err(failed)?.iter().map(claim_row).collect()
    }

    async fn release(&self, handler: &str, event_id: Uuid, now: Timestamp) -> Result<bool> {
        let _rows_stay = self.inner.claiming.read().await;
        let claim = Claim { event_id, aggregate_id: String::new(), sequence: Sequence(0) };
        let stored = self.stored(handler, &[&claim], false).await?.rows.remove(&event_id);
        Ok(self.inner.ledger.lock().release(handler, event_id, stored, now))
    }

    async fn retire(&self, before: Timestamp, count: usize) -> Result<u64> {
        self.write_claims(false, None).await?;
        let mut deleted = 0;
        while deleted < count as u64 {
            let (handler, id) = self.inner.retire_from.lock().clone();
            let arguments = Arguments::default().with(handler).with(id).with(before.0).with(RETIRE_STEP);
            let rows = self.inner.readers.run(RETIRABLE, arguments).await.map_err(failed)?;
            let mut keys: Vec<(&str, &str)> = Vec::new();
            let mut reached = ("", "");
            for row in &rows {
                if deleted + keys.len() as u64 == count as u64 {
                    break;
                }
                reached = (get(row, 0)?, get(row, 1)?);
                if get(row, 2)? {
                    keys.push(reached);
                }
            }
            if !keys.is_empty() {
                let arguments = Arguments::default().with(json(&keys)).with(before.0);
                deleted += self.inner.writer.run(RETIRE, arguments).await.map_err(failed)?.len() as u64;
            }
            *self.inner.retire_from.lock() = (reached.0.to_owned(), reached.1.to_owned());
            if rows.is_empty() {
                break;
            }
        }
        Ok(deleted)
    }
}

fn event_id(row: &SqliteRow, column: usize) -> Result<Uuid> {
    get::<&str>(row, column)?.parse().map_err(|_| corrupt("an event id is no UUID"))
}

fn attempt(row: &SqliteRow, column: usize) -> Result<u32> {
    u32::try_from(unsigned(row, column)?).map_err(|_| corrupt("an attempt is no small number"))
}

/// A row of [`ASK`].
fn stored_row(row: &SqliteRow) -> Result<Row> {
    let time = |column| Ok(get::<Option<i64>>(row, column)?.map(Timestamp));
    let status = get::<&str>(row, 4)?;
    Ok(Row {
        aggregate_id: get(row, 2)?,
        sequence: unsigned(row, 3)?,
        status: Status::parse(status).ok_or_else(|| corrupt(format!("{status} is no status of a claim")))?,
        started_at: time(5)?,
        owner: None,
        heartbeat_at: time(6)?,
        processed_at: time(7)?,
        attempt: attempt(row, 8)?,
        last_error: get(row, 9)?,
        in_table: true,
    })
}

impl Row {
    fn seen(&self, handler: &str, event_id: Uuid) -> ClaimRow {
        ClaimRow {
            handler: handler.to_owned(),
            event_id,
            aggregate_id: self.aggregate_id.clone(),
            sequence_number: self.sequence,
            status: self.status.as_str().to_owned(),
            started_at: self.started_at,
            owner: self.owner.as_ref().map(Owner::to_string),
            heartbeat_at: self.heartbeat_at,
            processed_at: self.processed_at,
            attempt_count: self.attempt,
            last_error: self.last_error.clone(),
        }
    }
}

fn claim_row(row: &SqliteRow) -> Result<ClaimRow> {
    let time = |column| Ok(get::<Option<i64>>(row, column)?.map(Timestamp));
    Ok(ClaimRow {
        handler: get(row, 0)?,
        event_id: event_id(row, 1)?,
        aggregate_id: get(row, 2)?,
        sequence_number: unsigned(row, 3)?,
        status: get(row, 4)?,
        started_at: time(5)?,
        owner: get(row, 6)?,
        heartbeat_at: time(7)?,
        processed_at: time(8)?,
        attempt_count: attempt(row, 9)?,
        last_error: get(row, 10)?,
    })
}
