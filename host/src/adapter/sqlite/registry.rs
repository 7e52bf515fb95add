//! The registry of processed events. Claiming is one statement; so are its decisions: who wins a race is SQLite's to
//! say, never a read followed by a write (I6).

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::{Database, corrupt, failed, get, int, json, limit, unsigned};
use crate::domain::Timestamp;
use crate::port::Result;
use crate::port::registry::{Claim, ClaimFilter, ClaimRow, Claimed, Finished, Owner, Registry, Status};

/// Rows looked at in one step of `retire`, so that no statement runs long.
const RETIRE_STEP: i64 = 20_000;

// An owner is `name#run`; what follows the name must read as a number, since a name may hold `#` itself.
const CLAIM: &str = "
INSERT INTO processed_events (handler, event_id, aggregate_id, sequence_number, status, started_at, owner,
                              heartbeat_at, processed_at, attempt_count)
SELECT $1, j.value ->> 0, j.value ->> 1, j.value ->> 2,
       iif(v.last_sequence >= j.value ->> 2, 'skipped_stale', 'processing'),
       $3, $4 || $5, $3, iif(v.last_sequence >= j.value ->> 2, $3, NULL), 1
  FROM jsonb_each($2) j
  LEFT JOIN aggregate_versions v ON v.handler = $1 AND v.aggregate_id = j.value ->> 1
 WHERE true
    ON CONFLICT (handler, event_id) DO UPDATE
   SET status = 'processing', started_at = excluded.started_at, owner = excluded.owner,
       heartbeat_at = excluded.heartbeat_at, processed_at = NULL, attempt_count = attempt_count + 1
 WHERE status = 'failed'
    OR (status = 'processing'
        AND (heartbeat_at <= $3 - $6
             OR (substr(owner, 1, length($4)) = $4
                 AND CAST(CAST(substr(owner, length($4) + 1) AS INTEGER) AS TEXT) = substr(owner, length($4) + 1)
                 AND CAST(substr(owner, length($4) + 1) AS INTEGER) < $5)))
RETURNING event_id, status, attempt_count";

const STATUSES: &str = "
SELECT event_id, status, attempt_count FROM processed_events
 WHERE handler = $1 AND event_id IN (SELECT value FROM json_each($2))";

const HEARTBEAT: &str = "
UPDATE processed_events SET heartbeat_at = max(heartbeat_at, $4)
 WHERE handler = $1 AND event_id IN (SELECT value FROM json_each($2)) AND status = 'processing' AND owner = $3
RETURNING event_id";

const DONE: &str = "
BEGIN IMMEDIATE;
UPDATE processed_events SET status = 'done', processed_at = $4, last_error = NULL
 WHERE handler = $1 AND (event_id, attempt_count) IN (SELECT value ->> 0, value ->> 1 FROM jsonb_each($2))
   AND status = 'processing' AND owner = $3
RETURNING event_id;
INSERT INTO aggregate_versions (handler, aggregate_id, last_sequence, updated_at)
SELECT handler, aggregate_id, sequence_number, $4
  FROM jsonb_each($2) j CROSS JOIN processed_events p
 WHERE p.handler = $1 AND p.event_id = j.value ->> 0 AND p.status = 'done' AND p.owner = $3
   AND p.attempt_count = j.value ->> 1
    ON CONFLICT (handler, aggregate_id) DO UPDATE
   SET last_sequence = excluded.last_sequence, updated_at = excluded.updated_at
 WHERE last_sequence < excluded.last_sequence;
COMMIT";

const FAIL: &str = "
UPDATE processed_events SET status = $5, last_error = $6, heartbeat_at = max(heartbeat_at, $7)
 WHERE handler = $1 AND event_id = $2 AND status = 'processing' AND owner = $3 AND attempt_count = $4
RETURNING event_id";

const RELEASE: &str = "
UPDATE processed_events SET status = 'failed', owner = NULL, processed_at = NULL, heartbeat_at = $3
 WHERE handler = $1 AND event_id = $2 AND status <> 'done'
RETURNING event_id";

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
  FROM handlers h CROSS JOIN (SELECT DISTINCT value FROM json_each($6)) j CROSS JOIN processed_events p
 WHERE p.handler = h.name AND p.event_id = j.value AND ($2 IS NULL OR p.status = $2)
   AND (p.handler, p.event_id) > ($3, $4)
 ORDER BY p.handler, p.event_id LIMIT $5";

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
pub(super) const BUSY_SQL: &[&str] = &[CLAIM, STATUSES, HEARTBEAT, DONE, FAIL, RELEASE, ROWS_BY_ID, RETIRE];

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
        let rows: Vec<_> = claims.iter().map(|c| (c.event_id, c.aggregate_id.as_str(), c.sequence.0)).collect();
        let arguments = Arguments::default()
            .with(handler.to_owned())
            .with(json(&rows))
            .with(now.0)
            .with(format!("{}#", owner.name))
            .with(int(owner.run))
            .with(lease_ms);
        let rows = self.inner.writer.run(CLAIM, arguments).await.map_err(failed)?;
        let mut answers = HashMap::with_capacity(claims.len());
        for row in &rows {
            let claimed = match get::<&str>(row, 1)? {
                "skipped_stale" => Claimed::Stale,
                _ => Claimed::Yes { attempt: attempt(row, 2)? },
            };
            answers.insert(event_id(row, 0)?, claimed);
        }
        let others: Vec<Uuid> = claims.iter().map(|c| c.event_id).filter(|id| !answers.contains_key(id)).collect();
        if !others.is_empty() {
            let arguments = Arguments::default().with(handler.to_owned()).with(json(&others));
            for row in &self.inner.readers.run(STATUSES, arguments).await.map_err(failed)? {
                let claimed = match get::<&str>(row, 1)? {
                    "done" => Claimed::DuplicateDone,
                    "skipped_stale" => Claimed::Stale,
                    "parked" => Claimed::Parked,
                    _ => Claimed::InProgress,
                };
                answers.insert(event_id(row, 0)?, claimed);
            }
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
        let arguments =
            Arguments::default().with(handler.to_owned()).with(json(&ids)).with(owner.to_string()).with(now.0);
        let rows = self.inner.writer.run(HEARTBEAT, arguments).await.map_err(failed)?;
        lost(ids.iter().copied(), &rows)
    }

    async fn done(&self, handler: &str, owner: &Owner, finished: &[Finished], now: Timestamp) -> Result<Vec<Uuid>> {
        if finished.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<_> = finished.iter().map(|f| (f.event_id, f.attempt)).collect();
        let arguments =
            Arguments::default().with(handler.to_owned()).with(json(&rows)).with(owner.to_string()).with(now.0);
        let rows = self.inner.writer.run(DONE, arguments).await.map_err(failed)?;
        lost(finished.iter().map(|f| f.event_id), &rows)
    }

    async fn fail(
        &self,
        handler: &str,
        owner: &Owner,
        event: &Finished,
        status: Status,
        error: &str,
        now: Timestamp,
    ) -> Result<bool> {
        let arguments = Arguments::default()
            .with(handler.to_owned())
            .with(event.event_id.to_string())
            .with(owner.to_string())
            .with(i64::from(event.attempt))
            .with(status.as_str().to_owned())
            .with(error.to_owned())
            .with(now.0);
        Ok(!self.inner.writer.run(FAIL, arguments).await.map_err(failed)?.is_empty())
    }

    async fn rows(&self, filter: &ClaimFilter) -> Result<Vec<ClaimRow>> {
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
        let rows = if filter.event_ids.is_empty() {
            self.inner.readers.run(ROWS, arguments).await
        } else {
            self.inner.readers.run(ROWS_BY_ID, arguments.with(json(&filter.event_ids))).await
        };
        rows.map_err(failed)?.iter().map(claim_row).collect()
    }

    async fn release(&self, handler: &str, event_id: Uuid, now: Timestamp) -> Result<bool> {
        let arguments = Arguments::default().with(handler.to_owned()).with(event_id.to_string()).with(now.0);
        Ok(!self.inner.writer.run(RELEASE, arguments).await.map_err(failed)?.is_empty())
    }

    async fn retire(&self, before: Timestamp, count: usize) -> Result<u64> {
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

fn lost(asked: impl Iterator<Item = Uuid>, ours: &[SqliteRow]) -> Result<Vec<Uuid>> {
    let ours = ours.iter().map(|row| event_id(row, 0)).collect::<Result<std::collections::HashSet<_>>>()?;
    Ok(asked.filter(|id| !ours.contains(id)).collect())
}

fn event_id(row: &SqliteRow, column: usize) -> Result<Uuid> {
    get::<&str>(row, column)?.parse().map_err(|_| corrupt("an event id is no UUID"))
}

fn attempt(row: &SqliteRow, column: usize) -> Result<u32> {
    u32::try_from(unsigned(row, column)?).map_err(|_| corrupt("an attempt is no small number"))
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
