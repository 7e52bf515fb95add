//! The worker: decides commands in the order of the log and appends their outcomes. One service, one configuration for
//! each consumer (`instance_worker`, `ontology_worker`, `{handler}:{AggregateType}`).
//!
//! **The log is the order; a bus message is a hint.** A worker keeps a cursor over the log and is woken by the bus or
//! by the log's end; what is to be decided is read from the log, so a lost, repeated or reordered message changes
//! nothing (I6). For each command: claim, look in the log first, decide, append with the last domain event it was
//! decided on (I3), mark done, and only then move the checkpoint (I7).
//!
//! An aggregate that cannot go on (a handler fault, a lease of another process) is *held*: it is tried again later,
//! from its first undecided command, while everything else goes on. After the last attempt it is parked.

mod decide;
mod outcome;
mod wave;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::{Aggregate, EventKind, Partition, Position, Sequence, Timestamp};
use crate::event_store::{EventStore, Record};
use crate::metrics::{self, Metrics};
use crate::port;
use crate::port::bus::{Bus, Subscription};
use crate::port::clock::Clock;
use crate::port::read_model::ReadModel;
use crate::port::registry::{Finished, Owner, Registry};
use crate::state::{Claims, ConsumerState, Error, Held, Parking, Place, Progress, Release, States, WAITING_MAX};

#[cfg(test)]
mod tests;

/// What a worker is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Consumer name, the `handler` of its rows in `processed_events`.
    pub consumer: String,
    /// Topics whose commands it decides.
    pub topics: Vec<String>,
    /// Attempts at one command before its aggregate is parked.
    pub attempts_max: u32,
    /// Age at which another process may take over a claim.
    pub lease_ms: i64,
    /// How often claims are renewed.
    pub heartbeat_interval: Duration,
    /// Records handled at once.
    pub batch_max: usize,
}

/// What a worker needs.
#[derive(Debug, Clone)]
pub struct Parts {
    pub events: EventStore,
    pub states: States,
    pub registry: Arc<dyn Registry>,
    pub read_model: Arc<dyn ReadModel>,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    pub parking: Parking,
    pub progress: Progress,
    pub metrics: Metrics,
    pub owner: Owner,
}

/// How long a consumer waits after the first failure of a part; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause: an operator sees the recovery of a part within this time.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a checkpoint that moved without effects is stored. What lies behind it is claimed again after a crash, and
/// found done.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// A worker on one partition.
#[derive(Debug)]
pub struct Worker {
    options: Options,
    parts: Parts,
    partition: Partition,
    /// Everything below was read; what is not decided of it is held.
    cursor: Position,
    held: Held,
    claims: Claims,
    /// Decided, and not yet marked done: an attempt that was cut short leaves some.
    finished: Vec<Finished>,
    /// A release may have gone unheard: before this run, or since the consumer lagged.
    releases_missed: bool,
    counters: metrics::Consumer,
    /// Checkpoint in the database, and when it was written.
    stored: (Position, Duration),
}

impl Worker {
    /// A worker that goes on from the consumer's checkpoint.
    pub async fn open(options: Options, parts: Parts, partition: Partition) -> Result<Worker, Error> {
        let checkpoints = parts.read_model.checkpoints().await?;
        let cursor = checkpoints
            .into_iter()
            .find(|(consumer, on, _)| *consumer == options.consumer && *on == partition)
            .map_or(Position(0), |(_, _, position)| position);
        parts.progress.register(&options.consumer, partition, cursor);
        let stored = (cursor, parts.clock.monotonic());
        let (registry, clock) = (parts.registry.clone(), parts.clock.clone());
        let claims = Claims::new(registry, clock, &options.consumer, parts.owner.clone(), options.lease_ms);
        let counters = parts.metrics.consumer(&options.consumer);
        Ok(Worker {
            options,
            parts,
            partition,
            cursor,
            held: Held::default(),
            claims,
            finished: Vec::new(),
            releases_missed: true,
            counters,
            stored,
        })
    }

    /// Works until told to stop; then finishes the batch under way.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut subscription = self.parts.bus.subscribe(&self.options.consumer, &self.options.topics).await?;
        let mut end = self.parts.events.watch_end(self.partition);
        let mut releases = self.parts.parking.releases();
        let mut pause = PAUSE_MIN;
        let mut listens = true;
        loop {
            end.borrow_and_update();
            let wait = match self.work().await {
                Ok(more) => {
                    pause = PAUSE_MIN;
                    if more { Duration::ZERO } else { self.next_wake() }
                }
                Err(error) => {
                    self.held.rearm(self.parts.clock.monotonic());
                    self.paused(&error);
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.parts.clock.sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                    continue;
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                changed = end.changed() => if changed.is_err() { break },
                // The messages are hints for what `work` reads from the log; taking them is all they need.
                taken = take_hints(&mut *subscription, self.options.batch_max), if listens => {
                    // The log's end wakes as well: after an error, hints are asked for again after the next sleep.
                    if let Err(error) = taken {
                        self.paused(&error.into());
                        listens = false;
                    }
                }
                released = releases.recv() => match released {
                    Ok(release) if release.consumer == self.options.consumer => self.release(&release),
                    Ok(_) => {}
                    Err(_) => self.releases_missed = true,
                },
                () = rest(&*self.parts.clock, wait) => listens = true,
            }
        }
        self.store_checkpoint().await?;
        self.state(ConsumerState::Stopped, None);
        Ok(())
    }

    fn release(&mut self, release: &Release) {
        let parked = Place { position: Position(u64::MAX), sequence: Sequence(release.letter.sequence_number) };
        self.held.release(&release.aggregate, parked);
    }

    fn next_wake(&self) -> Duration {
        let idle =
            if self.checkpoint() > self.stored.0 { CHECKPOINT_INTERVAL } else { self.options.heartbeat_interval };
        self.held.next_due().map_or(idle, |due| due.saturating_sub(self.parts.clock.monotonic()).min(idle))
    }

    /// Handles the held aggregates whose time has come, then the next batch of the log. Gives whether the log has more,
    /// so that a long way to its end starves neither those that wait nor the checkpoint.
    async fn work(&mut self) -> Result<bool, Error> {
        self.mark_done().await?;
        if self.releases_missed {
            for (aggregate, first) in self.parts.parking.unfinished(&self.options.consumer, self.partition).await? {
                self.held.release(&aggregate, first);
            }
            self.releases_missed = false;
        }
        self.retry_due().await?;
        if self.held.waiting() < WAITING_MAX {
            self.read_on().await?;
        }
        let more = self.cursor < self.parts.events.end(self.partition);
        if !more {
            self.note_lag(None);
        }
        self.parts.progress.publish(&self.options.consumer, self.partition, self.checkpoint(), None);
        self.state(if more { ConsumerState::CatchingUp } else { ConsumerState::Running }, None);
        if self.parts.clock.monotonic().saturating_sub(self.stored.1) >= CHECKPOINT_INTERVAL {
            self.store_checkpoint().await?;
        }
        Ok(more && self.held.waiting() < WAITING_MAX)
    }

    /// Takes up the held aggregates whose time has come, with their events from the first that waits: those that were
    /// decided elsewhere meanwhile only need their row.
    async fn retry_due(&mut self) -> Result<(), Error> {
        let due = self.held.take_due(self.parts.clock.monotonic(), self.options.batch_max);
        let mut items = Vec::with_capacity(due.len());
        for (aggregate, first) in due {
            let after = Sequence(first.sequence.0.saturating_sub(1));
            let records = self.parts.events.stream(&aggregate, after, self.options.batch_max).await?;
            items.push((aggregate, records));
        }
        if items.is_empty() { Ok(()) } else { self.handle(items).await }
    }

    async fn read_on(&mut self) -> Result<(), Error> {
        let records = self.parts.events.read(self.partition, self.cursor, self.options.batch_max).await?;
        let Some(last) = records.last() else { return Ok(()) };
        let next = Position(last.position.0 + 1);
        let at = last.recorded_at;
        let mine = self.mine(records);
        if !mine.is_empty() {
            self.handle(mine).await?;
        }
        self.cursor = next;
        self.parts.progress.publish(&self.options.consumer, self.partition, self.checkpoint(), Some(at));
        self.note_lag(Some(at));
        Ok(())
    }

    /// The aggregates with a command of this worker among the records, with all records of theirs (so that a stream can
    /// go on from what is cached without reading the log), in the order of the log.
    fn mine(&self, records: Vec<Record>) -> Vec<(Aggregate, Vec<Record>)> {
        let is_mine = |record: &Record| {
            record.kind == EventKind::Command && self.options.topics.iter().any(|topic| **topic == *record.topic)
        };
        let mut order: Vec<(Aggregate, Vec<Record>)> = Vec::new();
        let mut slots: HashMap<Aggregate, usize> = HashMap::new();
        for record in records.iter().filter(|record| is_mine(record)) {
            slots.entry(record.aggregate.clone()).or_insert_with(|| {
                order.push((record.aggregate.clone(), Vec::new()));
                order.len() - 1
            });
        }
        for record in records {
            if let Some(slot) = slots.get(&record.aggregate) {
                order[*slot].1.push(record);
            }
        }
        order
    }

    /// Everything below has an outcome, is parked, or is not this worker's.
    fn checkpoint(&self) -> Position {
        self.held.least().map_or(self.cursor, |held| held.min(self.cursor))
    }

    async fn store_checkpoint(&mut self) -> Result<(), Error> {
        let checkpoint = self.checkpoint();
        if checkpoint > self.stored.0 {
            self.parts.read_model.set_checkpoint(&self.options.consumer, self.partition, checkpoint).await?;
        }
        self.stored = (checkpoint, self.parts.clock.monotonic());
        Ok(())
    }

    /// Lag behind the log's end; `at`: when the last event handled was recorded, `None` when no event waits.
    fn note_lag(&self, at: Option<Timestamp>) {
        let waiting = self.parts.events.end(self.partition).0.saturating_sub(self.cursor.0);
        let age_ms = at.map_or(0, |at| self.parts.clock.now().0.saturating_sub(at.0).max(0));
        self.counters.lag_events.set(waiting);
        self.counters.lag_ms.set(if waiting == 0 { 0 } else { u64::try_from(age_ms).unwrap_or(0) });
    }

    fn paused(&self, error: &Error) {
        tracing::warn!(consumer = self.options.consumer, %error, "consumption pauses");
        self.state(ConsumerState::Paused, Some(error.to_string()));
    }

    fn state(&self, state: ConsumerState, error: Option<String>) {
        self.parts.progress.set_state(&self.options.consumer, self.partition, state, error);
    }
}

/// Takes what the bus has. Cancel-safe.
async fn take_hints(subscription: &mut dyn Subscription, max: usize) -> Result<(), port::Error> {
    subscription.poll(max).await?;
    subscription.acknowledge(1).await
}

/// Sleeps; lets others run when there is no time to sleep.
async fn rest(clock: &dyn Clock, wait: Duration) {
    if wait.is_zero() { tokio::task::yield_now().await } else { clock.sleep(wait).await }
}
