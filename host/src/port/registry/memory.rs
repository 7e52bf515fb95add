//! The registry and the dead letters in memory: the contract in its plainest form. For tests and simulations.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use uuid::Uuid;

use super::{Claim, ClaimFilter, ClaimRow, Claimed, DeadLetter, DeadLetters, Finished, Owner, Registry, Status};
use crate::domain::Timestamp;
use crate::port::Result;

/// A registry that lives as long as this value and its clones.
#[derive(Debug, Clone, Default)]
pub struct MemoryRegistry {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    rows: BTreeMap<(String, Uuid), Row>,
    /// `aggregate_versions`: last sequence by handler and aggregate.
    versions: HashMap<(String, String), u64>,
    letters: BTreeMap<Uuid, DeadLetter>,
}

#[derive(Debug, Clone)]
struct Row {
    aggregate_id: String,
    sequence: u64,
    status: Status,
    started_at: Timestamp,
    owner: Option<Owner>,
    heartbeat_at: Timestamp,
    processed_at: Option<Timestamp>,
    attempt: u32,
    last_error: Option<String>,
}

impl Row {
    fn is_free_to(&self, owner: &Owner, lease_ms: i64, now: Timestamp) -> bool {
        let earlier_run = self.owner.as_ref().is_some_and(|held| held.name == owner.name && held.run < owner.run);
        match self.status {
            Status::Failed => true,
            Status::Processing => self.heartbeat_at.plus_ms(lease_ms) <= now || earlier_run,
            Status::Done | Status::SkippedStale | Status::Parked => false,
        }
    }

    fn is_held_by(&self, owner: &Owner) -> bool {
        self.status == Status::Processing && self.owner.as_ref() == Some(owner)
    }
}

impl MemoryRegistry {
    /// A registry of its own that holds the same: a backup.
    pub fn copy(&self) -> MemoryRegistry {
        MemoryRegistry { state: Arc::new(Mutex::new(self.state.lock().clone())) }
    }

    /// Becomes what a backup holds.
    pub fn restore(&self, backup: &MemoryRegistry) {
        let state = backup.state.lock().clone();
        *self.state.lock() = state;
    }

    /// Marks done what is ours; gives the rest.
    pub(crate) fn finish(&self, handler: &str, owner: &Owner, finished: &[Finished], now: Timestamp) -> Vec<Uuid> {
        let state = &mut *self.state.lock();
        let mut lost = Vec::new();
        for event in finished {
            match state.rows.get_mut(&(handler.to_owned(), event.event_id)) {
                Some(row) if row.is_held_by(owner) && row.attempt == event.attempt => {
                    row.status = Status::Done;
                    row.processed_at = Some(now);
                    row.last_error = None;
                    let key = (handler.to_owned(), row.aggregate_id.clone());
                    let version = state.versions.entry(key).or_default();
                    *version = row.sequence.max(*version);
                }
                _ => lost.push(event.event_id),
            }
        }
        lost
    }

    /// Forgets rows and versions of consumers, at most `limit` of each sort; gives whether there were some.
    pub(crate) fn forget(&self, handlers: &[String], limit: usize) -> bool {
        let state = &mut *self.state.lock();
        let rows: Vec<_> = state.rows.keys().filter(|(name, _)| handlers.contains(name)).take(limit).cloned().collect();
        let mine = state.versions.keys().filter(|(name, _)| handlers.contains(name));
        let versions: Vec<_> = mine.take(limit).cloned().collect();
        state.rows.retain(|key, _| !rows.contains(key));
        state.versions.retain(|key, _| !versions.contains(key));
        !(rows.is_empty() && versions.is_empty())
    }

    /// The claims of these that are not ours.
    pub(crate) fn lost(&self, handler: &str, owner: &Owner, finished: &[Finished]) -> HashSet<Uuid> {
        let state = self.state.lock();
        let is_lost = |event: &&Finished| {
            let row = state.rows.get(&(handler.to_owned(), event.event_id));
            !row.is_some_and(|row| row.is_held_by(owner) && row.attempt == event.attempt)
        };
        finished.iter().filter(is_lost).map(|event| event.event_id).collect()
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn claim(
        &self,
        handler: &str,
        owner: &Owner,
        claims: &[Claim],
        lease_ms: i64,
        now: Timestamp,
    ) -> Result<Vec<Claimed>> {
        let state = &mut *self.state.lock();
        let mut mentioned = HashSet::new();
        let mut answers = Vec::with_capacity(claims.len());
        for claim in claims {
            let key = (handler.to_owned(), claim.event_id);
            let last = state.versions.get(&(handler.to_owned(), claim.aggregate_id.clone()));
            let again = !mentioned.insert(claim.event_id);
            answers.push(match state.rows.get_mut(&key) {
                Some(row) if !again && row.is_free_to(owner, lease_ms, now) => {
                    row.status = Status::Processing;
                    row.started_at = now;
                    row.heartbeat_at = now;
                    row.processed_at = None;
                    row.owner = Some(owner.clone());
                    row.attempt += 1;
                    Claimed::Yes { attempt: row.attempt }
                }
                Some(row) => match row.status {
                    Status::Done => Claimed::DuplicateDone,
                    Status::SkippedStale => Claimed::Stale,
                    Status::Parked => Claimed::Parked,
                    Status::Processing | Status::Failed => Claimed::InProgress,
                },
                None => {
                    let stale = last.is_some_and(|last| *last >= claim.sequence.0);
                    let row = Row {
                        aggregate_id: claim.aggregate_id.clone(),
                        sequence: claim.sequence.0,
                        status: if stale { Status::SkippedStale } else { Status::Processing },
                        started_at: now,
                        owner: Some(owner.clone()),
                        heartbeat_at: now,
                        processed_at: stale.then_some(now),
                        attempt: 1,
                        last_error: None,
                    };
                    state.rows.insert(key, row);
                    if stale { Claimed::Stale } else { Claimed::Yes { attempt: 1 } }
                }
            });
        }
        Ok(answers)
    }

    async fn heartbeat(&self, handler: &str, owner: &Owner, ids: &[Uuid], now: Timestamp) -> Result<Vec<Uuid>> {
        let state = &mut *self.state.lock();
        let mut lost = Vec::new();
        for id in ids {
            match state.rows.get_mut(&(handler.to_owned(), *id)) {
                Some(row) if row.is_held_by(owner) => row.heartbeat_at = row.heartbeat_at.max(now),
                _ => lost.push(*id),
            }
        }
        Ok(lost)
    }

    async fn done(&self, handler: &str, owner: &Owner, finished: &[Finished], now: Timestamp) -> Result<Vec<Uuid>> {
        Ok(self.finish(handler, owner, finished, now))
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
        let state = &mut *self.state.lock();
        let mut lost = Vec::new();
        for event in events {
            match state.rows.get_mut(&(handler.to_owned(), event.event_id)) {
                Some(row) if row.is_held_by(owner) && row.attempt == event.attempt => {
                    row.status = status;
                    row.last_error = Some(error.to_owned());
                    row.heartbeat_at = row.heartbeat_at.max(now);
                }
                _ => lost.push(event.event_id),
            }
        }
        Ok(lost)
    }

    async fn rows(&self, filter: &ClaimFilter) -> Result<Vec<ClaimRow>> {
        let state = self.state.lock();
        let wanted = |((handler, id), row): &(&(String, Uuid), &Row)| {
            filter.handler.as_ref().is_none_or(|wanted| wanted == handler)
                && filter.status.is_none_or(|wanted| wanted == row.status)
                && (filter.event_ids.is_empty() || filter.event_ids.contains(id))
                && filter.after.as_ref().is_none_or(|(name, after)| (handler, id) > (name, after))
        };
        Ok(state.rows.iter().filter(wanted).take(filter.limit).map(claim_row).collect())
    }

    async fn release(&self, handler: &str, event_id: Uuid, now: Timestamp) -> Result<bool> {
        let state = &mut *self.state.lock();
        match state.rows.get_mut(&(handler.to_owned(), event_id)) {
            Some(row) if row.status != Status::Done => {
                row.status = Status::Failed;
                row.owner = None;
                row.processed_at = None;
                row.heartbeat_at = now;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn retire(&self, before: Timestamp, limit: usize) -> Result<u64> {
        let state = &mut *self.state.lock();
        let may_go = |((handler, _), row): &(&(String, Uuid), &Row)| {
            let key = (handler.clone(), row.aggregate_id.clone());
            matches!(row.status, Status::Done | Status::SkippedStale)
                && row.processed_at.is_some_and(|at| at < before)
                && state.versions.get(&key).is_some_and(|last| *last >= row.sequence)
        };
        let keys: Vec<_> = state.rows.iter().filter(may_go).take(limit).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            state.rows.remove(key);
        }
        Ok(keys.len() as u64)
    }
}

fn claim_row(((handler, event_id), row): (&(String, Uuid), &Row)) -> ClaimRow {
    ClaimRow {
        handler: handler.clone(),
        event_id: *event_id,
        aggregate_id: row.aggregate_id.clone(),
        sequence_number: row.sequence,
        status: row.status.as_str().to_owned(),
        started_at: Some(row.started_at),
        owner: row.owner.as_ref().map(Owner::to_string),
        heartbeat_at: Some(row.heartbeat_at),
        processed_at: row.processed_at,
        attempt_count: row.attempt,
        last_error: row.last_error.clone(),
    }
}

#[async_trait]
impl DeadLetters for MemoryRegistry {
    async fn put(&self, letter: &DeadLetter) -> Result<bool> {
        let letters = &mut self.state.lock().letters;
        let newest = letters.get(&letter.id).is_none_or(|known| known.operation <= letter.operation);
        if newest {
            letters.insert(letter.id, letter.clone());
        }
        Ok(newest)
    }

    async fn get(&self, id: Uuid) -> Result<Option<DeadLetter>> {
        Ok(self.state.lock().letters.get(&id).cloned())
    }

    async fn list(&self, state: Option<&str>, after: Option<Uuid>, limit: usize) -> Result<Vec<DeadLetter>> {
        let wanted = |letter: &&DeadLetter| {
            state.is_none_or(|state| letter.state == state) && after.is_none_or(|after| letter.id > after)
        };
        Ok(self.state.lock().letters.values().filter(wanted).take(limit).cloned().collect())
    }
}
