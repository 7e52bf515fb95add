//! Aggregates that a consumer has in hand: those under way in a batch, and those that could not be finished: when to
//! try again, how often it was tried, and from which position on the checkpoint must wait for them (I7). An aggregate
//! is in one batch at a time: what comes meanwhile waits, so that its order is kept. Pure.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::{Aggregate, Position, Sequence};
use crate::event_store::Record;

/// Pause before the second attempt; doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Aggregates that may wait before a consumer stops reading on: some megabytes, and more than ever wait unless a part
/// is away that all of them need.
pub const WAITING_MAX: usize = 10_000;

/// Number of a batch of one consumer.
pub type BatchNumber = u64;

#[derive(Debug, Clone)]
struct Entry {
    /// The first event that is under way or waits.
    first: Place,
    /// The batch that handles it.
    under_way: Option<BatchNumber>,
    /// The first event that its batch leaves: it waits, or came meanwhile.
    next: Option<Place>,
    /// Monotonic time of the next attempt.
    due: Option<Duration>,
    /// Failed attempts at its first event.
    failures: u32,
    parked: bool,
}

impl Entry {
    fn new(first: Place) -> Entry {
        Entry { first, under_way: None, next: None, due: None, failures: 0, parked: false }
    }

    /// Whether there is something to do for it: the checkpoint waits.
    fn is_open(&self) -> bool {
        self.under_way.is_some() || self.due.is_some()
    }

    /// Notes an event that waits.
    fn note(&mut self, place: Place) {
        match self.under_way {
            Some(_) => self.next = Some(self.next.map_or(place, |next| next.or_before(place))),
            None => self.first = self.first.or_before(place),
        }
    }
}

/// Where an event is: in the partition, and in its aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub position: Position,
    pub sequence: Sequence,
}

impl Place {
    /// The place of an event.
    pub fn of(record: &Record) -> Place {
        Place { position: record.position, sequence: record.sequence }
    }

    /// One by one: of an event that was parked in an earlier run only the sequence is known.
    fn or_before(self, other: Place) -> Place {
        Place { position: self.position.min(other.position), sequence: self.sequence.min(other.sequence) }
    }
}

/// The aggregates that one consumer has in hand.
#[derive(Debug, Default)]
pub struct Held {
    entries: HashMap<Aggregate, Entry>,
}

impl Held {
    /// Takes an aggregate into a batch, from this event on, unless it is under way or waits: then the event is noted,
    /// and taken up in its turn. Gives whether it was taken.
    pub fn take(&mut self, aggregate: &Aggregate, first: Place, batch: BatchNumber) -> bool {
        let entry = self.noted(aggregate, first);
        let free = !entry.is_open();
        if free {
            entry.under_way = Some(batch);
        }
        free
    }

    /// Holds an aggregate without counting a failure (a lease of another process, a lost race, a part that is away).
    pub fn wait(&mut self, aggregate: &Aggregate, first: Place, until: Duration) {
        self.noted(aggregate, first).due = Some(until);
    }

    /// Notes that an aggregate under way has more than its batch takes, from this event on.
    pub fn has_more(&mut self, aggregate: &Aggregate, next: Place) {
        if let Some(entry) = self.entries.get_mut(aggregate) {
            entry.note(next);
        }
    }

    /// Counts a failed attempt and holds the aggregate; gives the number of failures so far.
    pub fn fail(&mut self, aggregate: &Aggregate, first: Place, now: Duration) -> u32 {
        let entry = self.noted(aggregate, first);
        entry.failures += 1;
        let backoff = BACKOFF_MIN.saturating_mul(1 << (entry.failures - 1).min(16)).min(BACKOFF_MAX);
        entry.due = Some(now + backoff);
        entry.failures
    }

    /// Sets an aggregate aside until it is released. The checkpoint does not wait for it: it is in the dead letters.
    pub fn park(&mut self, aggregate: &Aggregate, first: Place) {
        let entry = self.entries.entry(aggregate.clone()).or_insert_with(|| Entry::new(first));
        entry.first = entry.first.or_before(first);
        entry.parked = true;
        entry.due = None;
    }

    fn noted(&mut self, aggregate: &Aggregate, place: Place) -> &mut Entry {
        let entry = self.entries.entry(aggregate.clone()).or_insert_with(|| Entry::new(place));
        entry.note(place);
        entry
    }

    /// Notes that an aggregate got on: its failures are forgotten.
    pub fn advanced(&mut self, aggregate: &Aggregate) {
        if let Some(entry) = self.entries.get_mut(aggregate) {
            entry.failures = 0;
        }
    }

    /// Makes a parked aggregate due at once, from its parked event on, with all its attempts before it.
    pub fn release(&mut self, aggregate: &Aggregate, parked: Place) {
        let entry = self.noted(aggregate, parked);
        entry.parked = false;
        entry.failures = 0;
        entry.due = Some(Duration::ZERO);
    }

    /// Ends a batch for one of its aggregates. Nothing of it waits: it is forgotten. The batch did not end well, or
    /// more came meanwhile: it is due at once.
    pub fn end(&mut self, aggregate: &Aggregate, batch: BatchNumber, well: bool, now: Duration) {
        let Some(entry) = self.entries.get_mut(aggregate).filter(|entry| entry.under_way == Some(batch)) else {
            return;
        };
        entry.under_way = None;
        let next = entry.next.take();
        match next {
            Some(next) if well && !entry.parked => entry.first = next,
            Some(next) => entry.note(next),
            None => {}
        }
        if !well || next.is_some() {
            entry.due = entry.due.or(Some(now));
        }
        if !entry.is_open() && !entry.parked {
            self.entries.remove(aggregate);
        }
    }

    /// Takes the aggregates whose time has come into a batch, with the first event of theirs that waits, at most
    /// `limit`, the oldest first.
    pub fn take_due(&mut self, now: Duration, limit: usize, batch: BatchNumber) -> Vec<(Aggregate, Place)> {
        let due = |entry: &Entry| entry.under_way.is_none() && entry.due.is_some_and(|at| at <= now);
        let mut taken: Vec<(Aggregate, Place)> = self
            .entries
            .iter()
            .filter(|(_, entry)| due(entry))
            .map(|(aggregate, entry)| (aggregate.clone(), entry.first))
            .collect();
        taken.sort_by_key(|(_, first)| first.position);
        taken.truncate(limit);
        for (aggregate, _) in &taken {
            if let Some(entry) = self.entries.get_mut(aggregate) {
                (entry.under_way, entry.due) = (Some(batch), None);
            }
        }
        taken
    }

    /// When the next aggregate that is not under way is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.entries.values().filter(|entry| entry.under_way.is_none()).filter_map(|entry| entry.due).min()
    }

    /// How many aggregates are under way or wait, without those that are parked.
    pub fn waiting(&self) -> usize {
        self.entries.values().filter(|entry| entry.is_open()).count()
    }

    /// Position of the first event that is under way or waits, and is not parked.
    pub fn least(&self) -> Option<Position> {
        self.entries.values().filter(|entry| entry.is_open()).map(|entry| entry.first.position).min()
    }

    /// What [`Held::least`] is once all of this batch that does not wait by now has its effect.
    pub fn least_after(&self, batch: BatchNumber) -> Option<Position> {
        let open = self.entries.values().filter(|entry| entry.is_open());
        open.filter_map(|entry| if entry.under_way == Some(batch) { entry.next } else { Some(entry.first) })
            .map(|place| place.position)
            .min()
    }
}

#[cfg(test)]
mod tests;
