//! What the batches of one consumer share: how far it read, which aggregates it has in hand, its claims, and what
//! becomes of an attempt. No lock is held over I/O.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Item, Options, Parts};
use crate::domain::{Aggregate, Partition, Position, Sequence};
use crate::event_store::Record;
use crate::metrics;
use crate::port::registry::{Finished, Status};
use crate::state::held::BatchNumber;
use crate::state::{Claims, Error, Held, ParkRequest, Place, finished};

/// How long an aggregate waits whose event another process holds, or whose part is away.
const WAIT: Duration = Duration::from_millis(200);

/// What moves together.
#[derive(Debug)]
pub(super) struct Course {
    /// Everything below was read; what has no effect yet of it is held.
    pub cursor: Position,
    pub held: Held,
    /// The batch that has not come to its appends: the next one begins when it has.
    pub deciding: Option<BatchNumber>,
    /// Has its effect, and is not marked done.
    pub finished: Vec<Finished>,
}

/// One consumer on one partition, as its batches see it.
#[derive(Debug)]
pub struct Context {
    pub options: Options,
    pub parts: Parts,
    pub partition: Partition,
    pub claims: Claims,
    pub counters: metrics::Consumer,
    pub(super) course: Mutex<Course>,
    /// A batch has come to its appends.
    pub(super) passed: Notify,
}

impl Context {
    pub(super) fn new(options: Options, parts: Parts, partition: Partition, cursor: Position) -> Context {
        let (registry, clock) = (parts.registry.clone(), parts.clock.clone());
        let claims = Claims::new(registry, clock, &options.consumer, parts.owner.clone(), options.lease_ms);
        let counters = parts.metrics.consumer(&options.consumer);
        let course = Course { cursor, held: Held::default(), deciding: None, finished: Vec::new() };
        Context { options, parts, partition, claims, counters, course: Mutex::new(course), passed: Notify::new() }
    }

    /// Everything below has its effect, is parked, or is not this consumer's.
    pub fn checkpoint(&self) -> Position {
        let course = self.course.lock();
        course.held.least().map_or(course.cursor, |held| held.min(course.cursor))
    }

    /// What [`Context::checkpoint`] is once everything of this batch that does not wait by now has its effect.
    pub fn checkpoint_after(&self, batch: BatchNumber) -> Position {
        let course = self.course.lock();
        course.held.least_after(batch).map_or(course.cursor, |held| held.min(course.cursor))
    }

    /// Tells that a batch reads and decides no more, and only waits for its appends: the next one may begin.
    pub fn pass(&self, batch: BatchNumber) {
        let mut course = self.course.lock();
        if course.deciding == Some(batch) {
            course.deciding = None;
            self.passed.notify_one();
        }
    }

    /// Notes that events have their effect; their rows are marked done beside the next batches.
    pub fn finish(&self, done: impl IntoIterator<Item = Finished>) {
        self.course.lock().finished.extend(done);
    }

    /// Holds an aggregate for a short time, since something it needs is away or another process has it.
    pub fn wait(&self, aggregate: &Aggregate, first: Place, why: &str) {
        tracing::debug!(consumer = self.options.consumer, %aggregate, why, "waits");
        self.course.lock().held.wait(aggregate, first, self.parts.clock.monotonic() + WAIT);
    }

    /// Takes an aggregate up again as soon as its batch has ended.
    pub fn look_again(&self, aggregate: &Aggregate, first: Place) {
        self.course.lock().held.wait(aggregate, first, self.parts.clock.monotonic());
    }

    /// Notes that an aggregate under way has more than its batch takes.
    pub fn has_more(&self, aggregate: &Aggregate, next: Place) {
        self.course.lock().held.has_more(aggregate, next);
    }

    /// Notes that an aggregate got on: its failures are forgotten.
    pub fn advanced(&self, aggregate: &Aggregate) {
        self.course.lock().held.advanced(aggregate);
    }

    /// Whether this consumer has set the aggregate aside.
    pub fn is_parked(&self, aggregate: &Aggregate) -> bool {
        self.parts.parking.is_parked(&self.options.consumer, aggregate)
    }

    /// A failed attempt: tried again with back-off; after the last the aggregate is parked, with the events `behind`.
    pub async fn failed(
        &self,
        record: &Record,
        attempt: u32,
        reason: &str,
        message: &str,
        behind: &[Record],
    ) -> Result<(), Error> {
        let (consumer, aggregate, place) = (&self.options.consumer, &record.aggregate, Place::of(record));
        let failures = self.course.lock().held.fail(aggregate, place, self.parts.clock.monotonic());
        let last = failures >= self.options.attempts_max;
        self.counters.failed.add(1);
        tracing::warn!(consumer, %aggregate, event_id = %record.event_id, reason, failures, last, message, "failed");
        if last {
            let error = message.to_owned();
            self.parts.parking.park(ParkRequest { consumer, record, reason, error }).await?;
        }
        let status = if last { Status::Parked } else { Status::Failed };
        self.claims.fail(&[finished(record, attempt)], status, message).await?;
        if last {
            self.course.lock().held.park(aggregate, place);
            self.claims.park_behind(behind).await?;
        }
        Ok(())
    }

    /// The events of aggregates that waited, from the first that waits, below the position read so far.
    pub(super) async fn load(&self, due: Vec<(Aggregate, Place)>, below: Position) -> Result<Vec<Item>, Error> {
        let mut items = Vec::with_capacity(due.len());
        for (aggregate, first) in due {
            let after = Sequence(first.sequence.0.saturating_sub(1));
            let mut records = self.parts.events.stream(&aggregate, after, self.options.batch_max).await?;
            if let Some(last) = records.last().filter(|_| records.len() == self.options.batch_max) {
                let (position, sequence) = (Position(last.position.0 + 1), Sequence(last.sequence.0 + 1));
                self.has_more(&aggregate, Place { position, sequence });
            }
            records.retain(|record| record.position < below);
            items.push(Item { aggregate, records });
        }
        Ok(items)
    }

    /// Takes out the events that wait behind a dead letter, and gives them rows that say so. Those before it are left:
    /// they have their effects, also where these are made anew.
    pub(super) async fn set_parked_aside(
        &self,
        items: Vec<Item>,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Vec<Item>, Error> {
        let mut ready = Vec::with_capacity(items.len());
        for mut item in items {
            if let Some(letter) = self.parts.parking.letter(&self.options.consumer, &item.aggregate) {
                let split = item.records.partition_point(|record| record.sequence.0 < letter.sequence_number);
                let mut behind = item.records.split_off(split);
                behind.retain(&wanted);
                if let Some(first) = behind.first() {
                    self.course.lock().held.park(&item.aggregate, Place::of(first));
                    self.claims.park_behind(&behind).await?;
                }
            }
            if item.records.iter().any(&wanted) {
                ready.push(item);
            }
        }
        Ok(ready)
    }
}
