//! The claims of this process, in memory: every open one, and those that ended and are not written yet. One process
//! owns the data folder, so nobody else claims; the log is the truth, so what a crash forgets of this is found out
//! again (decision 0009). Pure: knows no SQL. A row leaves only after it was written, or the version of its aggregate
//! that says the same, and never while it is open (I6).

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::domain::Timestamp;
use crate::port::registry::{Claim, Claimed, Finished, Owner, Status};

/// Aggregates whose version is kept in memory for each consumer, twice over at most: some 10 MiB.
const VERSIONS_MAX: usize = 50_000;

/// A row of `processed_events`.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub aggregate_id: String,
    pub sequence: u64,
    pub status: Status,
    pub started_at: Option<Timestamp>,
    /// Not known of a row read from the table: whoever held it is gone.
    pub owner: Option<Owner>,
    pub heartbeat_at: Option<Timestamp>,
    pub processed_at: Option<Timestamp>,
    pub attempt: u32,
    pub last_error: Option<String>,
    /// The table has a row of this event.
    pub in_table: bool,
}

/// What the table holds of some claims.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub rows: HashMap<Uuid, Row>,
    pub versions: HashMap<String, u64>,
    /// Whether the consumer has rows that are not finished, where that was asked.
    pub unfinished: Option<bool>,
}

/// A row of a handler's claim on an event as it is written, with what tells whether it changed meanwhile.
pub(super) type Written = (String, Uuid, Row, u64);

/// Rows and versions to be written.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    pub rows: Vec<Written>,
    /// Handled, and covered by the version of their aggregate: they go without ever having had a row.
    pub covered: Vec<(String, Uuid, u64)>,
    pub versions: Vec<(String, String, u64, Timestamp)>,
}

impl Unwritten {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.covered.is_empty() && self.versions.is_empty()
    }
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    consumers: HashMap<String, Consumer>,
    /// Changes so far: each gives its row a new number.
    changes: u64,
    /// Ended and not written.
    ended: usize,
}

#[derive(Debug, Default)]
struct Consumer {
    rows: HashMap<Uuid, (Row, u64)>,
    /// Versions that the table does not have yet, with the time they moved.
    moved: HashMap<String, (u64, Timestamp)>,
    young: HashMap<String, u64>,
    old: HashMap<String, u64>,
    /// Whether the table has unfinished rows of this consumer: an event above its aggregate's version can have no other
    /// row. `None`: to be asked.
    unfinished: Option<bool>,
}

impl Consumer {
    fn version(&self, aggregate_id: &str) -> Option<u64> {
        let moved = self.moved.get(aggregate_id).map(|(version, _)| *version);
        moved.or_else(|| self.young.get(aggregate_id).or_else(|| self.old.get(aggregate_id)).copied())
    }

    /// Keeps a version that the table has.
    fn learn(&mut self, aggregate_id: &str, version: u64) {
        let version = self.version(aggregate_id).map_or(version, |known| known.max(version));
        self.young.insert(aggregate_id.to_owned(), version);
        if self.young.len() > VERSIONS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
    }

    fn advance(&mut self, aggregate_id: &str, version: u64, now: Timestamp) {
        if self.version(aggregate_id).is_none_or(|known| known < version) {
            self.moved.insert(aggregate_id.to_owned(), (version, now));
        }
    }
}

impl Consumer {
    /// Removes a row unless it changed since; gives how many ended ones went.
    fn remove_unchanged(&mut self, id: &Uuid, change: u64) -> usize {
        match self.rows.get(id) {
            Some((row, now)) if *now == change => {
                let ended = usize::from(!row.is_open());
                self.rows.remove(id);
                ended
            }
            _ => 0,
        }
    }
}

impl Row {
    fn is_open(&self) -> bool {
        self.status == Status::Processing
    }

    /// Whether the version of its aggregate says all that its row would.
    fn is_handled(&self) -> bool {
        matches!(self.status, Status::Done | Status::SkippedStale)
    }

    fn is_of(&self, owner: &Owner, attempt: u32) -> bool {
        self.is_open() && self.attempt == attempt && self.owner.as_ref() == Some(owner)
    }

    /// Whether another may take this over.
    fn is_free(&self, by: &Owner, lease_ms: i64, now: Timestamp) -> bool {
        match (self.status, &self.owner) {
            (Status::Failed, _) | (Status::Processing, None) => true,
            (Status::Processing, Some(owner)) => {
                let expired = self.heartbeat_at.is_none_or(|at| at.0 <= now.0.saturating_sub(lease_ms));
                expired || (owner.name == by.name && owner.run < by.run)
            }
            _ => false,
        }
    }
}

impl Ledger {
    /// Claims about which the table must be asked.
    pub(super) fn unknown<'a>(&self, handler: &str, claims: &'a [Claim]) -> Vec<&'a Claim> {
        let Some(consumer) = self.consumers.get(handler) else { return claims.iter().collect() };
        let settled = consumer.unfinished == Some(false);
        let unknown = |claim: &&Claim| {
            let fresh = settled && consumer.version(&claim.aggregate_id).is_some_and(|last| last < claim.sequence.0);
            !fresh && !consumer.rows.contains_key(&claim.event_id)
        };
        claims.iter().filter(unknown).collect()
    }

    /// Whether the table must be asked for unfinished rows.
    pub(super) fn must_ask(&self, handler: &str) -> bool {
        self.consumers.get(handler).is_none_or(|consumer| consumer.unfinished.is_none())
    }

    /// Answers claims, in order. `stored`: what the table holds of those that are unknown here.
    pub(super) fn claim(
        &mut self,
        handler: &str,
        owner: &Owner,
        claims: &[Claim],
        lease_ms: i64,
        now: Timestamp,
        mut stored: Stored,
    ) -> Vec<Claimed> {
        let consumer = self.consumers.entry(handler.to_owned()).or_default();
        if consumer.unfinished.is_none() {
            consumer.unfinished = stored.unfinished;
        }
        for (aggregate_id, version) in &stored.versions {
            consumer.learn(aggregate_id, *version);
        }
        let mut answers = Vec::with_capacity(claims.len());
        for claim in claims {
            self.changes += 1;
            let known = match consumer.rows.get_mut(&claim.event_id) {
                Some((row, change)) if row.is_free(owner, lease_ms, now) => {
                    self.ended -= usize::from(!row.is_open());
                    *change = self.changes;
                    row.take(owner, now);
                    answers.push(Claimed::Yes { attempt: row.attempt });
                    continue;
                }
                Some((row, _)) => Some(row.status),
                None => stored.rows.get(&claim.event_id).map(|row| row.status),
            };
            let (answer, row) = match known {
                Some(Status::Done) => (Claimed::DuplicateDone, None),
                Some(Status::SkippedStale) => (Claimed::Stale, None),
                Some(Status::Parked) => (Claimed::Parked, None),
                Some(Status::Processing | Status::Failed) => match stored.rows.remove(&claim.event_id) {
                    Some(mut row) if !consumer.rows.contains_key(&claim.event_id) => {
                        row.take(owner, now);
                        (Claimed::Yes { attempt: row.attempt }, Some(row))
                    }
                    _ => (Claimed::InProgress, None),
                },
                None => {
                    let stale = consumer.version(&claim.aggregate_id).is_some_and(|last| last >= claim.sequence.0);
                    let row = Row::new(claim, owner, stale, now);
                    self.ended += usize::from(stale);
                    (if stale { Claimed::Stale } else { Claimed::Yes { attempt: 1 } }, Some(row))
                }
            };
            if let Some(row) = row {
                consumer.rows.insert(claim.event_id, (row, self.changes));
            }
            answers.push(answer);
        }
        answers
    }

    /// Renews leases; gives those that are not ours.
    pub(super) fn heartbeat(&mut self, handler: &str, owner: &Owner, ids: &[Uuid], now: Timestamp) -> Vec<Uuid> {
        let mut rows = self.consumers.get_mut(handler).map(|consumer| &mut consumer.rows);
        let mut renew = |id: &Uuid| match rows.as_mut().and_then(|rows| rows.get_mut(id)) {
            Some((row, _)) if row.is_open() && row.owner.as_ref() == Some(owner) => {
                row.heartbeat_at = row.heartbeat_at.max(Some(now));
                true
            }
            _ => false,
        };
        ids.iter().filter(|id| !renew(id)).copied().collect()
    }

    /// Ends claims that are ours; gives those that are not.
    pub(super) fn done<'a>(
        &mut self,
        handler: &str,
        owner: &Owner,
        finished: impl IntoIterator<Item = &'a Finished>,
        now: Timestamp,
    ) -> Vec<Uuid> {
        let consumer = self.consumers.entry(handler.to_owned()).or_default();
        let mut lost = Vec::new();
        for event in finished {
            match consumer.rows.get_mut(&event.event_id) {
                Some((row, change)) if row.is_of(owner, event.attempt) => {
                    self.changes += 1;
                    self.ended += 1;
                    *change = self.changes;
                    row.end(Status::Done, now);
                    let (aggregate_id, sequence) = (row.aggregate_id.clone(), row.sequence);
                    consumer.advance(&aggregate_id, sequence, now);
                }
                _ => lost.push(event.event_id),
            }
        }
        lost
    }

    /// Ends an attempt without an effect; gives whether it was ours.
    pub(super) fn fail(
        &mut self,
        handler: &str,
        owner: &Owner,
        event: &Finished,
        status: Status,
        error: &str,
        now: Timestamp,
    ) -> bool {
        let consumer = self.consumers.get_mut(handler);
        match consumer.and_then(|consumer| consumer.rows.get_mut(&event.event_id)) {
            Some((row, change)) if row.is_of(owner, event.attempt) => {
                self.changes += 1;
                self.ended += 1;
                *change = self.changes;
                row.status = status;
                row.last_error = Some(error.to_owned());
                row.heartbeat_at = row.heartbeat_at.max(Some(now));
                true
            }
            _ => false,
        }
    }

    /// Makes an event claimable, whatever its row says but `done`; gives whether there was one.
    pub(super) fn release(&mut self, handler: &str, id: Uuid, stored: Option<Row>, now: Timestamp) -> bool {
        let consumer = self.consumers.entry(handler.to_owned()).or_default();
        if stored.as_ref().is_some_and(|row| row.status == Status::Done) {
            return false;
        }
        if let Some(row) = stored
            && !consumer.rows.contains_key(&id)
        {
            self.ended += usize::from(!row.is_open());
            consumer.rows.insert(id, (row, 0));
        }
        let Some((row, change)) = consumer.rows.get_mut(&id).filter(|(row, _)| row.status != Status::Done) else {
            return false;
        };
        self.changes += 1;
        self.ended += usize::from(row.is_open());
        *change = self.changes;
        row.status = Status::Failed;
        row.owner = None;
        row.processed_at = None;
        row.heartbeat_at = Some(now);
        true
    }

    /// Claims that a sink is about to end in a transaction of its own: those whose row is in the table, as it will be,
    /// and the ids of those that are not ours. When it is done, [`Ledger::done`] is told.
    pub(super) fn ending(
        &self,
        handler: &str,
        owner: &Owner,
        finished: &[&Finished],
        now: Timestamp,
    ) -> (Vec<Written>, HashSet<Uuid>) {
        let mut ending = Vec::new();
        let mut lost = HashSet::new();
        let rows = self.consumers.get(handler).map(|consumer| &consumer.rows);
        for event in finished {
            match rows.and_then(|rows| rows.get(&event.event_id)) {
                Some((row, change)) if row.is_of(owner, event.attempt) => {
                    if row.in_table {
                        let mut row = row.clone();
                        row.end(Status::Done, now);
                        ending.push((handler.to_owned(), event.event_id, row, *change));
                    }
                }
                _ => {
                    lost.insert(event.event_id);
                }
            }
        }
        (ending, lost)
    }

    /// What ended and is not written; with `all`, the open claims as well, and rows for what needs none. Open ones
    /// below a version that is written are written in any case: after a crash they would be taken for handled.
    pub(super) fn unwritten(&self, all: bool) -> Unwritten {
        let mut unwritten = Unwritten::default();
        for (handler, consumer) in &self.consumers {
            for (id, (row, change)) in &consumer.rows {
                let below = || consumer.version(&row.aggregate_id).is_some_and(|last| last >= row.sequence);
                if !all && row.is_handled() && !row.in_table && below() {
                    unwritten.covered.push((handler.clone(), *id, *change));
                } else if all || !row.is_open() || below() {
                    unwritten.rows.push((handler.clone(), *id, row.clone(), *change));
                }
            }
            let moved = consumer.moved.iter();
            unwritten.versions.extend(moved.map(|(id, (version, at))| (handler.clone(), id.clone(), *version, *at)));
        }
        // In the order of the table's keys: neighbours share pages.
        unwritten.rows.sort_unstable_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        unwritten.versions.sort_unstable();
        unwritten
    }

    /// Whether some event of a consumer has failed or was parked, and has no row that says so.
    pub(super) fn has_given_up(&self, handler: &str) -> bool {
        let is_so = |(row, _): &(Row, u64)| !row.is_open() && !row.is_handled();
        self.consumers.get(handler).is_some_and(|consumer| consumer.rows.values().any(is_so))
    }

    /// Ended rows that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.ended
    }

    /// Forgets what was written, unless it changed since.
    pub(super) fn written(&mut self, written: &Unwritten) {
        for (handler, id, row, change) in &written.rows {
            let Some(consumer) = self.consumers.get_mut(handler) else { continue };
            if !row.is_handled() {
                consumer.unfinished = Some(true);
            }
            if let Some((kept, _)) = consumer.rows.get_mut(id) {
                kept.in_table = true;
            }
            // The row that was written may be the end of one that is open here still.
            if !row.is_open() {
                self.ended -= consumer.remove_unchanged(id, *change);
            }
        }
        for (handler, id, change) in &written.covered {
            let Some(consumer) = self.consumers.get_mut(handler) else { continue };
            self.ended -= consumer.remove_unchanged(id, *change);
        }
        for (handler, aggregate_id, version, _) in &written.versions {
            let Some(consumer) = self.consumers.get_mut(handler) else { continue };
            consumer.learn(aggregate_id, *version);
            if consumer.moved.get(aggregate_id).is_some_and(|(moved, _)| moved <= version) {
                consumer.moved.remove(aggregate_id);
            }
        }
    }

    /// Asks the table again whether it has unfinished rows: some may have ended.
    pub(super) fn ask_again(&mut self) {
        let some = self.consumers.values_mut().filter(|consumer| consumer.unfinished == Some(true));
        some.for_each(|consumer| consumer.unfinished = None);
    }

    /// Forgets everything of consumers whose build is being dropped.
    pub(super) fn drop_consumers(&mut self, consumers: &[String]) {
        for dropped in consumers.iter().filter_map(|name| self.consumers.remove(name)) {
            self.ended -= dropped.rows.values().filter(|(row, _)| !row.is_open()).count();
        }
    }

    /// Forgets claims that the table shows done.
    pub(super) fn done_already(&mut self, handler: &str, ids: &HashSet<Uuid>) {
        if let Some(consumer) = self.consumers.get_mut(handler) {
            consumer.rows.retain(|id, (row, _)| !(row.is_open() && ids.contains(id)));
        }
    }

    /// Rows of these events, of one consumer or all.
    pub(super) fn rows<'a>(
        &'a self,
        handler: Option<&'a str>,
        ids: &'a [Uuid],
    ) -> impl Iterator<Item = (&'a str, Uuid, &'a Row)> {
        let consumers = self.consumers.iter().filter(move |(name, _)| handler.is_none_or(|handler| handler == *name));
        consumers.flat_map(move |(name, consumer)| {
            ids.iter().filter_map(move |id| consumer.rows.get(id).map(|(row, _)| (name.as_str(), *id, row)))
        })
    }
}

impl Row {
    fn new(claim: &Claim, owner: &Owner, stale: bool, now: Timestamp) -> Row {
        Row {
            aggregate_id: claim.aggregate_id.clone(),
            sequence: claim.sequence.0,
            status: if stale { Status::SkippedStale } else { Status::Processing },
            started_at: Some(now),
            owner: Some(owner.clone()),
            heartbeat_at: Some(now),
            processed_at: stale.then_some(now),
            attempt: 1,
            last_error: None,
            in_table: false,
        }
    }

    fn take(&mut self, owner: &Owner, now: Timestamp) {
        self.status = Status::Processing;
        self.started_at = Some(now);
        self.owner = Some(owner.clone());
        self.heartbeat_at = Some(now);
        self.processed_at = None;
        self.attempt += 1;
    }

    fn end(&mut self, status: Status, now: Timestamp) {
        self.status = status;
        self.processed_at = Some(now);
        self.last_error = None;
    }
}
