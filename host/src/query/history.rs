//! Events as they are stored: one, those of an aggregate, the whole log, and its live tail. Lines are passed on byte
//! for byte. A page looks at a bounded number of events, however few of them match.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use uuid::Uuid;

use super::{Cursor, Error, Service, What};
use crate::domain::{Aggregate, Position, Sequence};
use crate::event_store::Record;

/// Events that one page or one step of a tail looks at: enough that a rare type is found soon, few enough that a
/// request never holds the host up.
const SCAN_MAX: usize = 20_000;
/// Events read from the log at once.
const READ_MAX: usize = 1_000;

/// Which events a caller sees.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Event types; all when empty.
    pub types: Vec<String>,
    /// Databases; all when `None`. Aggregates outside any database are seen only by those who see all.
    pub databases: Option<Arc<[String]>>,
}

impl Scope {
    /// Whether the caller sees this aggregate.
    pub fn allows(&self, aggregate: &Aggregate) -> bool {
        match &self.databases {
            None => true,
            Some(allowed) => aggregate.database().is_some_and(|db| allowed.iter().any(|name| name == db)),
        }
    }

    fn takes(&self, record: &Record) -> bool {
        let wanted = self.types.is_empty() || self.types.iter().any(|name| **name == *record.event_type);
        wanted && self.allows(&record.aggregate)
    }
}

/// Events, and where the list goes on.
#[derive(Debug, Clone)]
pub struct EventPage<C> {
    pub records: Vec<Record>,
    /// Place after the last event looked at.
    pub place: C,
    /// There is more after that place now.
    pub more: bool,
}

impl Service {
    /// One event as it is stored.
    pub async fn event(&self, event_id: Uuid) -> Result<Record, Error> {
        let found = self.sources.store.find(&[event_id]).await?.into_iter().next().flatten();
        found.ok_or_else(|| Error::NotFound { what: What::Event, id: event_id.to_string() })
    }

    /// Events of an aggregate above a sequence, oldest first.
    pub async fn stream(&self, aggregate: &Aggregate, after: u64, limit: usize) -> Result<EventPage<u64>, Error> {
        let mut records = self.sources.store.stream(aggregate, Sequence(after), limit + 1).await?;
        if records.is_empty() && self.sources.store.head(aggregate).await?.last == Sequence(0) {
            return Err(Error::NotFound { what: What::Aggregate, id: aggregate.to_string() });
        }
        let more = records.len() > limit;
        records.truncate(limit);
        let place = records.last().map_or(after, |record| record.sequence.0);
        Ok(EventPage { records, place, more })
    }

    /// The whole log from a place: partition after partition, each in its order.
    pub async fn events(&self, from: Cursor, scope: &Scope, limit: usize) -> Result<EventPage<Cursor>, Error> {
        let mut page = EventPage { records: Vec::new(), place: from, more: false };
        let mut left = SCAN_MAX;
        for partition in self.all_partitions() {
            while left > 0 && page.records.len() < limit {
                let from = page.place.next(partition);
                let read = self.sources.store.read(partition, from, left.min(READ_MAX)).await?;
                let Some(last) = read.last() else { break };
                let end = Position(last.position.0 + 1);
                left -= read.len();
                let mut seen = end;
                for record in read {
                    if page.records.len() == limit {
                        seen = record.position;
                        break;
                    }
                    if scope.takes(&record) {
                        page.records.push(record);
                    }
                }
                page.place.advance(partition, seen);
            }
            page.more |= page.place.next(partition) < self.sources.store.end(partition);
        }
        Ok(page)
    }

    /// Follows the log from a place.
    pub fn tail(&self, from: Cursor, scope: Scope) -> Tail {
        Tail { service: self.clone(), place: from, scope }
    }

    /// The beginning of the log.
    pub fn start(&self) -> Cursor {
        Cursor::start(self.partitions())
    }

    /// Reads a cursor that this list gave.
    pub fn cursor(&self, text: &str) -> Result<Cursor, Error> {
        Cursor::decode(text, self.partitions())
    }
}

/// A reader that waits at the end of the log. Holds one step of events at most: who reads slowly is served slowly.
#[derive(Debug)]
pub struct Tail {
    service: Service,
    place: Cursor,
    scope: Scope,
}

/// What a step of a tail gave.
#[derive(Debug)]
pub enum TailStep {
    /// Events, each with the place after it.
    Events(Vec<(Record, Cursor)>),
    /// Nothing came for a while.
    Idle,
}

impl Tail {
    /// Place after the last event looked at.
    pub fn place(&self) -> &Cursor {
        &self.place
    }

    /// The next events, at most `limit`; `Idle` when none came within `patience`. Cancel-safe.
    pub async fn step(&mut self, limit: usize, patience: Duration) -> Result<TailStep, Error> {
        let deadline = self.service.deadline(patience);
        let _expecting = self.service.sources.store.expect_others();
        loop {
            let mut ends: Vec<_> =
                self.service.all_partitions().map(|p| self.service.sources.store.watch_end(p)).collect();
            for end in &mut ends {
                end.mark_unchanged();
            }
            let mut place = self.place.clone();
            let page = self.service.events(place.clone(), &self.scope, limit).await?;
            let events = page.records.into_iter().map(|record| {
                place.advance(record.partition, Position(record.position.0 + 1));
                (record, place.clone())
            });
            let events: Vec<_> = events.collect();
            self.place = page.place;
            if !events.is_empty() {
                return Ok(TailStep::Events(events));
            }
            if page.more {
                continue;
            }
            let moved = select_all(ends.iter_mut().map(|end| Box::pin(end.changed())));
            if self.service.within(deadline, moved).await.is_none() {
                return Ok(TailStep::Idle);
            }
        }
    }
}
