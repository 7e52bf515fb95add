//! The registry of processed events. Claiming is one statement; so are its decisions: who wins a race is the key's to
//! say, never a read followed by a write (I6).

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::values::{Id, Time};
use super::{Database, get, unsigned, uuid, without_nul};
use crate::adapter::rows::{corrupt, int, limit};
use crate::domain::Timestamp;
use crate::port::Result;
use crate::port::registry::{Claim, ClaimFilter, ClaimRow, Claimed, Finished, Owner, Registry, Status};

/// Pages of the table that one step of `retire` looks through, so that no statement runs long.
const RETIRE_PAGES: i64 = 1_000;

// Of the moment, not of the statement's beginning.
const TIME: &str = "SELECT clock_timestamp()";

// An owner is `name#run`; what follows the name must read as a number, since a name may hold `#` itself.
// A row that another transaction wrote meanwhile is neither won nor seen: it answers nothing, which means in progress.
// What no version covers was called stale by one that is deleted, with the build that the row was of.
const CLAIM: &str = r"
WITH asked AS MATERIALIZED (
    SELECT DISTINCT ON (event_id) $1 AS handler, event_id, aggregate_id, sequence_number
      FROM unnest($2::uuid[], $3::text[], $4::bigint[]) AS a (event_id, aggregate_id, sequence_number)
     ORDER BY event_id
), won AS (
    INSERT INTO processed_events AS p (handler, event_id, aggregate_id, sequence_number, status, started_at, owner,
                                       heartbeat_at, processed_at, attempt_count)
    SELECT a.handler, a.event_id, a.aggregate_id, a.sequence_number,
           CASE WHEN v.last_sequence >= a.sequence_number THEN 'skipped_stale' ELSE 'processing' END,
           $5::timestamptz, $6 || $7::bigint::text, $5, CASE WHEN v.last_sequence >= a.sequence_number THEN $5 END, 1
      FROM asked a
      LEFT JOIN aggregate_versions v ON v.handler = a.handler AND v.aggregate_id = a.aggregate_id
     ORDER BY a.event_id
        ON CONFLICT (handler, event_id) DO UPDATE
       SET status = 'processing', started_at = excluded.started_at, owner = excluded.owner,
           heartbeat_at = excluded.heartbeat_at, processed_at = NULL, attempt_count = p.attempt_count + 1
     WHERE p.status = 'failed'
        OR (p.status = 'skipped_stale'
            AND NOT EXISTS (SELECT 1 FROM aggregate_versions v
                             WHERE v.handler = p.handler AND v.aggregate_id = p.aggregate_id
                               AND v.last_sequence >= p.sequence_number))
        OR (p.status = 'processing'
            AND (p.heartbeat_at <= $8
                 OR (p.owner = excluded.owner AND p.event_id = ANY ($9::uuid[]))
                 OR (left(p.owner, length($6)) = $6
                     AND CASE WHEN substr(p.owner, length($6) + 1) ~ '^(0|[1-9][0-9]{0,17})$'
                              THEN substr(p.owner, length($6) + 1)::bigint < $7 END)))
    RETURNING event_id, status, attempt_count
)
SELECT event_id, status, attempt_count, true FROM won
UNION ALL
SELECT p.event_id, p.status, p.attempt_count, false
  FROM asked a JOIN processed_events p ON p.handler = a.handler AND p.event_id = a.event_id
 WHERE a.event_id NOT IN (SELECT event_id FROM won)";

const HEARTBEAT: &str = "
WITH asked AS MATERIALIZED (
    SELECT $1 AS handler, unnest($2::uuid[]) AS event_id
), mine AS (
    SELECT p.handler, p.event_id
      FROM asked a JOIN processed_events p ON p.handler = a.handler AND p.event_id = a.event_id
     WHERE p.status = 'processing' AND p.owner = $3
     ORDER BY p.event_id FOR UPDATE OF p
)
UPDATE processed_events p SET heartbeat_at = greatest(p.heartbeat_at, $4)
  FROM mine WHERE p.handler = mine.handler AND p.event_id = mine.event_id
RETURNING p.event_id";

const DONE: &str = "
WITH asked AS MATERIALIZED (
    SELECT $1 AS handler, a.* FROM unnest($2::uuid[], $3::integer[]) AS a (event_id, attempt)
), mine AS (
    SELECT p.handler, p.event_id, p.aggregate_id, p.sequence_number
      FROM asked a JOIN processed_events p ON p.handler = a.handler AND p.event_id = a.event_id
     WHERE p.status = 'processing' AND p.owner = $4 AND p.attempt_count = a.attempt
     ORDER BY p.event_id FOR UPDATE OF p
), done AS (
    UPDATE processed_events p SET status = 'done', processed_at = $5, last_error = NULL
      FROM mine WHERE p.handler = mine.handler AND p.event_id = mine.event_id
    RETURNING p.event_id
), versions AS (
    INSERT INTO aggregate_versions AS v (handler, aggregate_id, last_sequence, updated_at)
    SELECT $1, aggregate_id, max(sequence_number), $5 FROM mine GROUP BY aggregate_id ORDER BY aggregate_id
        ON CONFLICT (handler, aggregate_id) DO UPDATE
       SET last_sequence = excluded.last_sequence, updated_at = excluded.updated_at
     WHERE v.last_sequence < excluded.last_sequence
)
SELECT event_id FROM done";

const FAIL: &str = "
WITH asked AS MATERIALIZED (
    SELECT $1 AS handler, a.* FROM unnest($2::uuid[], $3::integer[]) AS a (event_id, attempt)
), mine AS (
    SELECT p.handler, p.event_id
      FROM asked a JOIN processed_events p ON p.handler = a.handler AND p.event_id = a.event_id
     WHERE p.status = 'processing' AND p.owner = $4 AND p.attempt_count = a.attempt
     ORDER BY p.event_id FOR UPDATE OF p
)
UPDATE processed_events p SET status = $5, last_error = $6, heartbeat_at = greatest(p.heartbeat_at, $7)
  FROM mine WHERE p.handler = mine.handler AND p.event_id = mine.event_id
RETURNING p.event_id";

const RELEASE: &str = "
UPDATE processed_events SET status = 'failed', owner = NULL, processed_at = NULL, heartbeat_at = $3
 WHERE handler = $1 AND event_id = $2 AND status <> 'done'
RETURNING event_id";

macro_rules! columns {
    () => {
        "p.handler, p.event_id, p.aggregate_id, p.sequence_number, p.status, p.started_at, p.owner, p.heartbeat_at, \
         p.processed_at, p.attempt_count, p.last_error "
    };
}

// The first comparison alone is where the range begins; the second is exact.
const ROWS: &str = concat!(
    "SELECT ",
    columns!(),
    "FROM processed_events p
 WHERE p.handler >= $3 AND ($4::uuid IS NULL OR (p.handler, p.event_id) > ($3, $4))
   AND ($1::text IS NULL OR p.handler = $1) AND ($2::text IS NULL OR p.status = $2)
 ORDER BY p.handler, p.event_id LIMIT $5"
);

// Handlers are found by jumping from one to the next, so that ids are sought and never searched for.
const ROWS_BY_ID: &str = concat!(
    "
WITH RECURSIVE known (name) AS (
    SELECT min(handler) FROM processed_events
    UNION ALL
    SELECT (SELECT min(handler) FROM processed_events WHERE handler > name) FROM known WHERE name IS NOT NULL
),
handlers (name) AS (
    SELECT $1::text COLLATE \"C\" WHERE $1 IS NOT NULL UNION ALL SELECT name FROM known WHERE $1 IS NULL
), asked AS MATERIALIZED (
    SELECT h.name AS handler, i.id AS event_id
      FROM handlers h CROSS JOIN (SELECT DISTINCT unnest($6::uuid[]) AS id) i
)
SELECT ",
    columns!(),
    "
  FROM asked a JOIN processed_events p ON p.handler = a.handler AND p.event_id = a.event_id
 WHERE ($2::text IS NULL OR p.status = $2)
   AND ($4::uuid IS NULL OR (p.handler, p.event_id) > ($3, $4))
 ORDER BY p.handler, p.event_id LIMIT $5"
);

// Walks the table in the order it lies on disk, so that no index needs to know when a row ended. What is not covered by
// `aggregate_versions` stays: without its row it would run again.
const RETIRE: &str = "
WITH old AS (
    SELECT p.handler, p.event_id FROM processed_events p
     WHERE p.ctid >= format('(%s,0)', $1::bigint)::tid AND p.ctid < format('(%s,0)', $2::bigint)::tid
       AND p.status IN ('done', 'skipped_stale') AND p.processed_at < $3
       AND EXISTS (SELECT 1 FROM aggregate_versions v
                    WHERE v.handler = p.handler AND v.aggregate_id = p.aggregate_id
                      AND v.last_sequence >= p.sequence_number)
     LIMIT $4
       FOR UPDATE OF p SKIP LOCKED
)
DELETE FROM processed_events p USING old
 WHERE p.handler = old.handler AND p.event_id = old.event_id
RETURNING 1";

const PAGES: &str = "SELECT pg_relation_size('processed_events') / current_setting('block_size')::bigint + 1";

/// Statements that run for every command, read or write, for the test of their plans.
#[cfg(test)]
pub(super) const BUSY_SQL: &[&str] = &[CLAIM, HEARTBEAT, DONE, FAIL, RELEASE, ROWS, ROWS_BY_ID, RETIRE];

#[async_trait]
impl Registry for Database {
    async fn time(&self, _: Timestamp) -> Result<Timestamp> {
        let rows = self.inner.pool.read(TIME, Arguments::default()).await?;
        let row = rows.first().ok_or_else(|| corrupt("no row of the time"))?;
        get::<Time>(row, 0).map(|Time(time)| time)
    }

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
        let unsure = self.note_sent(handler, owner, claims);
        let arguments = Arguments::default()
            .with(handler)
            .with(claims.iter().map(|c| Id(c.event_id)).collect::<Vec<_>>())
            .with(claims.iter().map(|c| c.aggregate_id.as_str()).collect::<Vec<_>>())
            .with(claims.iter().map(|c| int(c.sequence.0)).collect::<Vec<_>>())
            .with(Time(now))
            .with(format!("{}#", owner.name))
            .with(int(owner.run))
            .with(Time(now.plus_ms(-lease_ms)))
            .with(unsure);
        let rows = self.inner.pool.write(CLAIM, arguments).await?;
        self.note_answered(handler, owner, claims);
        let mut answers = HashMap::with_capacity(claims.len());
        for row in &rows {
            let claimed = match (get::<&str>(row, 1)?, get::<bool>(row, 3)?) {
                ("skipped_stale", _) => Claimed::Stale,
                (_, true) => Claimed::Yes { attempt: attempt(row, 2)? },
                ("done", false) => Claimed::DuplicateDone,
                ("parked", false) => Claimed::Parked,
                (_, false) => Claimed::InProgress,
            };
            answers.insert(uuid(row, 0)?, claimed);
        }
        // A second mention of an event in one call finds the first one's claim.
        Ok(claims
            .iter()
            .map(|claim| match answers.get_mut(&claim.event_id) {
                Some(answer @ Claimed::Yes { .. }) => std::mem::replace(answer, Claimed::InProgress),
                Some(answer) => answer.clone(),
                None => Claimed::InProgress,
            })
            .collect())
    }

    async fn heartbeat(&self, handler: &str, owner: &Owner, ids: &[Uuid], now: Timestamp) -> Result<Vec<Uuid>> {
        let arguments = Arguments::default()
            .with(handler)
            .with(ids.iter().map(|id| Id(*id)).collect::<Vec<_>>())
            .with(owner.to_string())
            .with(Time(now));
        lost(ids.iter().copied(), &self.inner.pool.write(HEARTBEAT, arguments).await?)
    }

    async fn done(&self, handler: &str, owner: &Owner, finished: &[Finished], now: Timestamp) -> Result<Vec<Uuid>> {
        if finished.is_empty() {
            return Ok(Vec::new());
        }
        let arguments = fenced(handler, owner, finished).with(Time(now));
        lost(finished.iter().map(|f| f.event_id), &self.inner.pool.write(DONE, arguments).await?)
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
        let arguments = fenced(handler, owner, events).with(status.as_str()).with(without_nul(error)).with(Time(now));
        lost(events.iter().map(|e| e.event_id), &self.inner.pool.write(FAIL, arguments).await?)
    }

    async fn rows(&self, filter: &ClaimFilter) -> Result<Vec<ClaimRow>> {
        // A handler asked for is where the range begins, too.
        let handler = filter.handler.as_deref();
        let (from, after_id) = match &filter.after {
            Some((after, id)) if handler.is_none_or(|handler| handler <= after.as_str()) => {
                (after.as_str(), Some(Id(*id)))
            }
            _ => (handler.unwrap_or_default(), None),
        };
        let arguments = Arguments::default()
            .with(handler)
            .with(filter.status.map(Status::as_str))
            .with(from)
            .with(after_id)
            .with(limit(filter.limit));
        let rows = if filter.event_ids.is_empty() {
            self.inner.pool.read(ROWS, arguments).await?
        } else {
            let ids: Vec<_> = filter.event_ids.iter().map(|id| Id(*id)).collect();
            self.inner.pool.read(ROWS_BY_ID, arguments.with(ids)).await?
        };
        rows.iter().map(claim_row).collect()
    }

    async fn release(&self, handler: &str, event_id: Uuid, now: Timestamp) -> Result<bool> {
        let arguments = Arguments::default().with(handler).with(Id(event_id)).with(Time(now));
        Ok(!self.inner.pool.write(RELEASE, arguments).await?.is_empty())
    }

    async fn retire(&self, before: Timestamp, count: usize) -> Result<u64> {
        let rows = self.inner.pool.read(PAGES, Arguments::default()).await?;
        let pages: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
        let (mut deleted, mut looked) = (0, 0);
        // Once through the table from where the last call ended, round its end.
        while deleted < count && looked < pages + RETIRE_PAGES {
            let from = Some(*self.inner.retire_from.lock()).filter(|from| *from < pages).unwrap_or(0);
            let to = from + RETIRE_PAGES;
            let arguments = Arguments::default().with(from).with(to).with(Time(before)).with(limit(count - deleted));
            let gone = self.inner.pool.write(RETIRE, arguments).await?.len();
            deleted += gone;
            // What the limit left over on these pages is the next call's.
            if deleted < count {
                *self.inner.retire_from.lock() = to;
                looked += RETIRE_PAGES;
            }
        }
        Ok(deleted as u64)
    }
}

impl Database {
    /// Notes claims as sent; gives those of them that were sent before without an answer.
    fn note_sent(&self, handler: &str, owner: &Owner, claims: &[Claim]) -> Vec<Id> {
        let mut unsure = self.inner.unsure.lock();
        let by = unsure.entry((handler.to_owned(), owner.to_string())).or_default();
        let before: HashSet<Uuid> = claims.iter().map(|c| c.event_id).filter(|id| by.contains(id)).collect();
        by.extend(claims.iter().map(|c| c.event_id));
        before.into_iter().map(Id).collect()
    }

    fn note_answered(&self, handler: &str, owner: &Owner, claims: &[Claim]) {
        let mut unsure = self.inner.unsure.lock();
        if let Some(by) = unsure.get_mut(&(handler.to_owned(), owner.to_string())) {
            for claim in claims {
                by.remove(&claim.event_id);
            }
        }
    }
}

/// The first four of a statement that ends claims of this owner, each with its attempt.
fn fenced(handler: &str, owner: &Owner, events: &[Finished]) -> Arguments {
    Arguments::default()
        .with(handler)
        .with(events.iter().map(|e| Id(e.event_id)).collect::<Vec<_>>())
        .with(events.iter().map(|e| attempt_column(e.attempt)).collect::<Vec<_>>())
        .with(owner.to_string())
}

fn lost(asked: impl Iterator<Item = Uuid>, ours: &[PgRow]) -> Result<Vec<Uuid>> {
    let ours = ours.iter().map(|row| uuid(row, 0)).collect::<Result<HashSet<_>>>()?;
    Ok(asked.filter(|id| !ours.contains(id)).collect())
}

fn attempt(row: &PgRow, column: usize) -> Result<u32> {
    u32::try_from(get::<i32>(row, column)?).map_err(|_| corrupt("an attempt is no small number"))
}

pub(super) fn attempt_column(attempt: u32) -> i32 {
    i32::try_from(attempt).unwrap_or(i32::MAX)
}

fn claim_row(row: &PgRow) -> Result<ClaimRow> {
    let time = |column| Ok(get::<Option<Time>>(row, column)?.map(|time| time.0));
    Ok(ClaimRow {
        handler: get(row, 0)?,
        event_id: uuid(row, 1)?,
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
