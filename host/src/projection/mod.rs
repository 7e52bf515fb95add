//! A projection consumer: feeds domain events of one topic to a projection handler and applies what it returns to the
//! read model, in one transaction with its claims and its checkpoint (I6, I7).
//!
//! Like the worker it keeps a cursor over the log and takes bus messages as hints. Whole batches go to the handler in
//! one call; when that fails, the batch is halved until the event that fails is alone, so that one bad event holds
//! back its own aggregate only: it is tried again, then parked with the later events of its aggregate.

mod apply;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::{Aggregate, EventKind, Partition, Position, Sequence, Timestamp, event_type};
use crate::event_store::{EventStore, Record};
use crate::metrics::{self, Metrics};
use crate::port;
use crate::port::bus::{Bus, Subscription};
use crate::port::clock::Clock;
use crate::port::read_model::ReadModel;
use crate::port::registry::{Owner, Registry};
use crate::sandbox::{ActiveHandler, Catalog};
use crate::state::{Claims, ConsumerState, Error, Held, Parking, Place, Progress, WAITING_MAX};

#[cfg(test)]
mod tests;

/// Build of the read model that readers see.
pub const LIVE: &str = "live";

/// What a projection consumer is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Consumer name, the `handler` of its rows in `processed_events`.
    pub consumer: String,
    /// Name of the projection handler.
    pub handler: String,
    /// Topic it consumes.
    pub topic: String,
    /// Aggregate type it is limited to; `None`: every type of the topic that the handler lists in its kinds.
    pub kind: Option<String>,
    /// Attempts at one event before its aggregate is parked.
    pub attempts_max: u32,
    /// Age at which another process may take over a claim.
    pub lease_ms: i64,
    /// Events handled at once.
    pub batch_max: usize,
}

/// What a projection consumer needs.
#[derive(Debug, Clone)]
pub struct Parts {
    pub events: EventStore,
    pub catalog: Arc<Catalog>,
    pub registry: Arc<dyn Registry>,
    pub read_model: Arc<dyn ReadModel>,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    pub parking: Parking,
    pub progress: Progress,
    pub metrics: Metrics,
    pub owner: Owner,
}

/// How long the consumer waits after the first failure of a part; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause: an operator sees the recovery of a part within this time.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a checkpoint that moved without effects is stored.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Longest sleep when there is nothing to do.
const IDLE: Duration = Duration::from_secs(30);

/// A projection consumer on one partition.
#[derive(Debug)]
pub struct Projector {
    options: Options,
    parts: Parts,
    partition: Partition,
    /// Everything below was read; what is not applied of it is held.
    cursor: Position,
    held: Held,
    claims: Claims,
    /// A release may have gone unheard: before this run, or since the consumer lagged.
    releases_missed: bool,
    counters: metrics::Consumer,
    /// Checkpoint in the database, and when it was written.
    stored: (Position, Duration),
}

impl Projector {
    /// A consumer that goes on from its checkpoint.
    pub async fn open(options: Options, parts: Parts, partition: Partition) -> Result<Projector, Error> {
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
        Ok(Projector {
            options,
            parts,
            partition,
            cursor,
            held: Held::default(),
            claims,
            releases_missed: true,
            counters,
            stored,
        })
    }

    /// Works until told to stop; then finishes the batch under way.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let topics = [self.options.topic.clone()];
        let mut subscription = self.parts.bus.subscribe(&self.options.consumer, &topics).await?;
        let mut end = self.parts.events.watch_end(self.partition);
        let mut active = self.parts.catalog.changes();
        let mut releases = self.parts.parking.releases();
        let mut pause = PAUSE_MIN;
        let mut listens = true;
        loop {
            end.borrow_and_update();
            active.borrow_and_update();
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
                changed = active.changed() => if changed.is_err() { break },
                // The messages are hints for what `work` reads from the log; taking them is all they need.
                taken = take_hints(&mut *subscription, self.options.batch_max), if listens => {
                    // The log's end wakes as well: after an error, hints are asked for again after the next sleep.
                    if let Err(error) = taken {
                        self.paused(&error.into());
                        listens = false;
                    }
                }
                released = releases.recv() => match released {
                    Ok(release) if release.consumer == self.options.consumer => {
                        let sequence = Sequence(release.letter.sequence_number);
                        self.held.release(&release.aggregate, Place { position: Position(u64::MAX), sequence });
                    }
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

    fn next_wake(&self) -> Duration {
        let idle = if self.checkpoint() > self.stored.0 { CHECKPOINT_INTERVAL } else { IDLE };
        self.held.next_due().map_or(idle, |due| due.saturating_sub(self.parts.clock.monotonic()).min(idle))
    }

    /// Handles the held aggregates whose time has come, then the next batch of the log. Gives whether the log has more,
    /// so that a long way to its end starves neither those that wait nor the checkpoint. Without an active handler
    /// nothing moves: its events wait in the log.
    async fn work(&mut self) -> Result<bool, Error> {
        let Some(active) = self.parts.catalog.active().get(&self.options.handler).cloned() else {
            self.state(ConsumerState::Paused, Some(format!("handler {} is not active", self.options.handler)));
            return Ok(false);
        };
        if self.releases_missed {
            for (aggregate, first) in self.parts.parking.unfinished(&self.options.consumer, self.partition).await? {
                self.held.release(&aggregate, first);
            }
            self.releases_missed = false;
        }
        for (aggregate, first) in self.held.take_due(self.parts.clock.monotonic(), self.options.batch_max) {
            self.retry(&aggregate, first, &active).await?;
        }
        if self.held.waiting() < WAITING_MAX {
            self.read_on(&active).await?;
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

    async fn read_on(&mut self, active: &Arc<ActiveHandler>) -> Result<(), Error> {
        let records = self.parts.events.read(self.partition, self.cursor, self.options.batch_max).await?;
        let Some(last) = records.last() else { return Ok(()) };
        let next = Position(last.position.0 + 1);
        let at = last.recorded_at;
        let mine: Vec<Record> = records.into_iter().filter(|r| self.is_mine(r, active)).collect();
        self.handle(mine, Some(next), active).await?;
        self.cursor = next;
        self.parts.progress.publish(&self.options.consumer, self.partition, self.checkpoint(), Some(at));
        self.note_lag(Some(at));
        Ok(())
    }

    /// Takes an aggregate up again from the first event that waits.
    async fn retry(&mut self, aggregate: &Aggregate, first: Place, active: &Arc<ActiveHandler>) -> Result<(), Error> {
        let mut after = Sequence(first.sequence.0.saturating_sub(1));
        loop {
            let records = self.parts.events.stream(aggregate, after, self.options.batch_max).await?;
            let Some(last) = records.last().map(|r| (r.sequence, r.position)) else { break };
            let full = records.len() == self.options.batch_max;
            let mine = records.into_iter().filter(|r| r.position < self.cursor && self.is_mine(r, active)).collect();
            self.handle(mine, None, active).await?;
            if !full || last.1 >= self.cursor || self.held.holds(aggregate) {
                break;
            }
            after = last.0;
        }
        if !self.held.holds(aggregate) {
            self.held.progressed(aggregate);
        }
        Ok(())
    }

    fn is_mine(&self, record: &Record, active: &ActiveHandler) -> bool {
        record.kind == EventKind::Domain
            && *record.topic == *self.options.topic
            && !event_type::is_host_outcome(&record.event_type)
            && match &self.options.kind {
                Some(kind) => record.aggregate.kind.as_str() == kind,
                None => active.handler.description().kinds.contains(&record.aggregate.kind),
            }
    }

    /// Everything below is applied, parked, or not of this consumer.
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
