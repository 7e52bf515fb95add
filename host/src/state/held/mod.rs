//! Aggregates that a consumer could not finish: when to try again, how often it was tried, and from which position on
//! the checkpoint must wait for them. Pure.

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

#[derive(Debug, Clone)]
struct Entry {
    /// The first event that waits.
    first: Place,
    /// Monotonic time of the next attempt; `None` while it is being tried.
    due: Option<Duration>,
    /// Failed attempts at its first event.
    failures: u32,
    parked: bool,
}

/// Where an event is: in the partition, and in its aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub position: Position,
    pub sequence: Sequence,
}

impl Place {
    /// Later than every event: changes nothing about what waits already.
    pub const LAST: Place = Place { position: Position(u64::MAX), sequence: Sequence(u64::MAX) };

    /// The place of an event.
    pub fn of(record: &Record) -> Place {
        Place { position: record.position, sequence: record.sequence }
    }
}

/// The held aggregates of one consumer.
#[derive(Debug, Default)]
pub struct Held {
    entries: HashMap<Aggregate, Entry>,
}

impl Held {
    /// Whether the aggregate waits: commands that follow are taken up with it.
    pub fn holds(&self, aggregate: &Aggregate) -> bool {
        self.entries.get(aggregate).is_some_and(|entry| entry.due.is_some() || entry.parked)
    }

    /// Holds an aggregate without counting a failure (a lease of another process, a lost race, a part that is away).
    pub fn wait(&mut self, aggregate: &Aggregate, first: Place, until: Duration) {
        let entry = self.entry(aggregate, first);
        entry.due = Some(until);
    }

    /// Notes a further command of an aggregate that waits.
    pub fn postpone(&mut self, aggregate: &Aggregate, first: Place) {
        self.entry(aggregate, first);
    }

    /// Counts a failed attempt and holds the aggregate; gives the number of failures so far.
    pub fn fail(&mut self, aggregate: &Aggregate, first: Place, now: Duration) -> u32 {
        let entry = self.entry(aggregate, first);
        entry.failures += 1;
        let backoff = BACKOFF_MIN.saturating_mul(1 << (entry.failures - 1).min(16)).min(BACKOFF_MAX);
        entry.due = Some(now + backoff);
        entry.failures
    }

    /// Sets an aggregate aside until it is released. The checkpoint does not wait for it: it is in the dead letters.
    pub fn park(&mut self, aggregate: &Aggregate, first: Place) {
        let entry = self.entry(aggregate, first);
        entry.parked = true;
        entry.due = None;
    }

    fn entry(&mut self, aggregate: &Aggregate, first: Place) -> &mut Entry {
        let entry =
            self.entries.entry(aggregate.clone()).or_insert(Entry { first, due: None, failures: 0, parked: false });
        // One by one: of an event that was parked in an earlier run only the sequence is known.
        entry.first.position = entry.first.position.min(first.position);
        entry.first.sequence = entry.first.sequence.min(first.sequence);
        entry
    }

    /// Notes that an aggregate got on and has more that waits: only its failures are forgotten.
    pub fn advanced(&mut self, aggregate: &Aggregate) {
        if let Some(entry) = self.entries.get_mut(aggregate) {
            entry.failures = 0;
        }
    }

    /// Notes that nothing of an aggregate waits any more: its failures are forgotten, and so is the aggregate, unless
    /// it was held again since it was taken.
    pub fn progressed(&mut self, aggregate: &Aggregate) {
        if let Some(entry) = self.entries.get_mut(aggregate) {
            entry.failures = 0;
            if entry.due.is_none() && !entry.parked {
                self.entries.remove(aggregate);
            }
        }
    }

    /// Makes a parked aggregate due at once, from its parked event on, with all its attempts before it.
    pub fn release(&mut self, aggregate: &Aggregate, parked: Place) {
        let first = self.entry(aggregate, parked).first;
        let entry = Entry { first, due: Some(Duration::ZERO), failures: 0, parked: false };
        self.entries.insert(aggregate.clone(), entry);
    }

    /// Makes everything that was taken and neither finished nor held again due at once: the attempt was cut short.
    pub fn rearm(&mut self, now: Duration) {
        for entry in self.entries.values_mut().filter(|entry| entry.due.is_none() && !entry.parked) {
            entry.due = Some(now);
        }
    }

    /// Aggregates whose time has come with the first event of theirs that waits, at most `limit`. Each is then being
    /// tried until it progressed or is held again.
    pub fn take_due(&mut self, now: Duration, limit: usize) -> Vec<(Aggregate, Place)> {
        let due = |entry: &Entry| entry.due.is_some_and(|at| at <= now);
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
                entry.due = None;
            }
        }
        taken
    }

    /// When the next aggregate is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    /// How many aggregates wait and are not parked.
    pub fn waiting(&self) -> usize {
        self.entries.values().filter(|entry| !entry.parked).count()
    }

    /// Position of the first event that waits and is not parked.
    pub fn least(&self) -> Option<Position> {
        self.entries.values().filter(|entry| !entry.parked).map(|entry| entry.first.position).min()
    }
}

#[cfg(test)]
mod tests;
