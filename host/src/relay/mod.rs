//! The relay: sends the log to the bus, segment after segment, and moves its checkpoint after the acknowledgements.
//! At least once; consumers dedupe by event id. Numbers are dense, so nothing can arrive late behind the checkpoint,
//! and the checkpoint is never ahead of what was acknowledged, never ahead of the log, and never moves backwards (I7).
//!
//! Of several relays on one partition the one that moves the checkpoint works; the others see it move, stand by, and
//! take over when it stands still. Nothing depends on that but the number of messages that are sent twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::codec::checkpoint::{Checkpoint, KEY, Place};
use crate::domain::{Partition, Position};
use crate::error::{Classified, Kind};
use crate::event_store::{self, EventStore, Record};
use crate::port::bus::{Bus, Message};
use crate::port::clock::Clock;
use crate::port::object_store::{ObjectStore, PutIf};
use crate::state::{ConsumerState, Progress};
use crate::{codec, failpoint, port};

#[cfg(test)]
mod tests;

/// What the relay is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Events sent before their acknowledgements are awaited.
    pub batch_max: usize,
    /// How often the checkpoint is stored while it moves. What lies behind it is sent again after a crash.
    pub checkpoint_interval: Duration,
    /// How often the figures are logged.
    pub metrics_log_interval: Duration,
}

/// Why the relay waits.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] event_store::Error),
    #[error(transparent)]
    Port(#[from] port::Error),
    #[error("{KEY} cannot be read; delete it to send the whole log again: {0}")]
    Checkpoint(codec::Error),
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Log(error) => error.kind(),
            Error::Port(error) => error.kind(),
            Error::Checkpoint(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Log(error) => error.code(),
            Error::Port(error) => error.code(),
            Error::Checkpoint(error) => error.code(),
        }
    }
}

/// Name under which the relay tells how far it is.
pub const NAME: &str = "event_publisher";
/// Wait after a failure: from the first to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long the batch in hand may take when the process stops: brokers that are there acknowledge it in milliseconds.
const FINISH_MAX: Duration = Duration::from_secs(5);
/// How long the checkpoint may stand still, with something to send, before a relay that stands by takes over.
const STALLED: Duration = Duration::from_secs(5);
/// Longest sleep when there is nothing to do.
const IDLE: Duration = Duration::from_secs(60);

/// The relay of one partition.
#[derive(Debug)]
pub struct Relay {
    options: Options,
    events: EventStore,
    objects: Arc<dyn ObjectStore>,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    progress: Progress,
    partition: Partition,
    position: Position,
    /// The checkpoint as this relay wrote or saw it last, and when it looked.
    stored: (Position, Duration),
    /// What it tried to write last: the answer may have been lost.
    tried: Position,
    /// Since when the relay that does the work has not moved the checkpoint; `None`: this one does it.
    follows: Option<Duration>,
    logged: (u64, Duration),
    published: u64,
}

impl Relay {
    /// A relay that goes on from the stored checkpoint.
    pub async fn open(
        options: Options,
        events: EventStore,
        objects: Arc<dyn ObjectStore>,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        progress: Progress,
        partition: Partition,
    ) -> Result<Relay, Error> {
        let stored = read_checkpoint(&*objects).await?.1.partitions.get(&partition.0).copied();
        let agreed = agreed(&events, partition, stored).await?;
        if let Some(place) = stored.filter(|_| agreed.is_none()) {
            tracing::warn!(
                partition = partition.0,
                position = place.position.0,
                "the checkpoint of the relay belongs to another history of this log: all of it is sent again"
            );
        }
        let position = agreed.unwrap_or_default();
        let now = clock.monotonic();
        progress.register(NAME, partition, position);
        Ok(Relay {
            options,
            events,
            objects,
            bus,
            clock,
            progress,
            partition,
            position,
            stored: (position, now),
            tried: position,
            follows: None,
            logged: (0, now),
            published: 0,
        })
    }

    /// Sends until told to stop; then finishes the batch in hand, so that the next run does not send it again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut end = self.events.watch_end(self.partition);
        let clock = self.clock.clone();
        let given_up = async {
            stop.cancelled().await;
            clock.sleep(FINISH_MAX).await;
        };
        let mut given_up = std::pin::pin!(given_up);
        let mut pause = PAUSE_MIN;
        while !stop.is_cancelled() {
            end.borrow_and_update();
            let sent = tokio::select! {
                biased;
                sent = self.proceed(&stop) => sent,
                () = &mut given_up => break,
            };
            let wait = match sent {
                Ok(wait) => {
                    pause = PAUSE_MIN;
                    wait
                }
                Err(error) => {
                    tracing::warn!(partition = self.partition.0, %error, "the relay waits");
                    self.progress.set_state(NAME, self.partition, ConsumerState::Paused, Some(error.to_string()));
                    // Not woken by further events, or a bus that is away would be asked for each of them.
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        () = clock.sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                    continue;
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = end.changed() => if changed.is_err() { break },
                () = clock.sleep(wait) => {}
            }
            if self.bus.follows_log() || self.follows.is_some() {
                // Nobody waits for messages, or another relay sends them: it is enough that the checkpoint follows.
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = clock.sleep(self.options.checkpoint_interval) => {}
                }
            }
        }
        self.progress.set_state(NAME, self.partition, ConsumerState::Stopped, None);
        if let Err(error) = self.end().await {
            tracing::warn!(partition = self.partition.0, %error, "the relay stops without storing its checkpoint");
        }
        Ok(())
    }

    /// Does what there is to do; gives how long nothing but further events can change that.
    async fn proceed(&mut self, stop: &CancellationToken) -> Result<Duration, Error> {
        if self.stands_by().await? {
            self.progress.set_state(NAME, self.partition, ConsumerState::Running, None);
        } else {
            self.send(stop).await?;
        }
        let is_at_rest = self.position == self.stored.0 && self.position >= self.events.end(self.partition);
        Ok(if is_at_rest { IDLE } else { self.options.checkpoint_interval })
    }

    /// What is left to do when everything else has stopped. What lies behind the checkpoint the next run sends again.
    async fn end(&mut self) -> Result<(), Error> {
        if self.bus.follows_log() {
            // It costs nothing, and the next run begins where this one ended.
            self.send(&CancellationToken::new()).await?;
        }
        self.store_checkpoint().await
    }

    /// Whether another relay does the work. It moves the checkpoint each second; when that stands still although there
    /// is something to send, this one takes over.
    async fn stands_by(&mut self) -> Result<bool, Error> {
        let Some(moved) = self.follows else { return Ok(false) };
        let now = self.clock.monotonic();
        if self.stored.0 < self.events.end(self.partition) {
            let stored = read_checkpoint(&*self.objects).await?.1.partitions.get(&self.partition.0).copied();
            if stored.is_none_or(|place| place.position <= self.stored.0) {
                let stalled = now.saturating_sub(moved) >= STALLED;
                if stalled {
                    tracing::info!(partition = self.partition.0, "the other relay stands still; this one takes over");
                    self.follows = None;
                }
                return Ok(!stalled);
            }
            let position = stored.map_or(self.position, |place| place.position);
            (self.position, self.stored.0) = (position, position);
            self.progress.publish(NAME, self.partition, position, None);
        }
        self.follows = Some(now);
        Ok(true)
    }

    /// Sends everything up to the end, or until told to stop. Dropped mid-way, it has sent what it sends again.
    async fn send(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        while !stop.is_cancelled() && self.follows.is_none() {
            let records = self.events.read(self.partition, self.position, self.options.batch_max).await?;
            let Some(last) = records.last() else { break };
            let next = Position(last.position.0 + 1);
            let at = last.recorded_at;
            let count = records.len() as u64;
            port::fail_at("relay.before_publish")?;
            self.bus.publish(records.into_iter().map(message).collect()).await?;
            failpoint::pass("relay.after_publish");
            self.position = next;
            self.published += count;
            self.progress.publish(NAME, self.partition, next, Some(at));
            self.log_figures();
            if self.clock.monotonic().saturating_sub(self.stored.1) >= self.options.checkpoint_interval {
                self.store_checkpoint().await?;
            }
        }
        self.progress.set_state(NAME, self.partition, ConsumerState::Running, None);
        if self.clock.monotonic().saturating_sub(self.stored.1) >= self.options.checkpoint_interval {
            self.store_checkpoint().await?;
        }
        Ok(())
    }

    fn log_figures(&mut self) {
        let now = self.clock.monotonic();
        if now.saturating_sub(self.logged.1) < self.options.metrics_log_interval {
            return;
        }
        let sent = self.published - self.logged.0;
        let lag = self.events.end(self.partition).0.saturating_sub(self.position.0);
        tracing::info!(partition = self.partition.0, sent, lag_events = lag, position = self.position.0, "relay");
        self.logged = (self.published, now);
    }

    /// Moves the stored checkpoint to the acknowledged position, unless another relay has moved it: then that one does
    /// the work, and this one stands by. What this one sent beyond it, the other sends once more.
    async fn store_checkpoint(&mut self) -> Result<(), Error> {
        while self.position > self.stored.0 {
            let (present, mut checkpoint) = read_checkpoint(&*self.objects).await?;
            let stored = checkpoint.partitions.get(&self.partition.0).copied();
            let theirs = stored.filter(|place| place.position > self.stored.0 && place.position != self.tried);
            // A place of another history is no further, whatever its number.
            if let Some(theirs) = theirs
                && agreed(&self.events, self.partition, Some(theirs)).await?.is_some()
            {
                if !self.bus.follows_log() {
                    tracing::info!(partition = self.partition.0, "another relay is at work; this one stands by");
                    self.follows = Some(self.clock.monotonic());
                    (self.position, self.stored.0) = (theirs.position, theirs.position);
                    break;
                }
                if theirs.position >= self.position {
                    self.stored.0 = self.position;
                    break;
                }
            }
            let segment = self.events.segment_of(self.partition, self.position).await?;
            let before = self.events.before_segment(self.partition, segment).await?;
            let place = Place { segment, position: self.position, digest: before.map(|(digest, _)| digest) };
            checkpoint.partitions.insert(self.partition.0, place);
            checkpoint.updated_at = self.clock.now();
            port::fail_at("checkpoint.before_store")?;
            self.tried = self.position;
            if self.objects.put_if(KEY, present, checkpoint.encode()).await? == PutIf::Changed {
                continue;
            }
            failpoint::pass("checkpoint.after_store");
            self.stored.0 = self.position;
        }
        self.stored.1 = self.clock.monotonic();
        Ok(())
    }
}

/// How far the relays of this store are by their checkpoint, wherever they run.
pub async fn stored(objects: &dyn ObjectStore) -> Result<Vec<(Partition, Position)>, Error> {
    let checkpoint = read_checkpoint(objects).await?.1;
    Ok(checkpoint.partitions.into_iter().map(|(partition, place)| (Partition(partition), place.position)).collect())
}

async fn read_checkpoint(objects: &dyn ObjectStore) -> Result<(Option<Bytes>, Checkpoint), Error> {
    let present = objects.get(KEY).await?;
    let checkpoint = match &present {
        Some(bytes) => Checkpoint::decode(bytes).map_err(Error::Checkpoint)?,
        None => Checkpoint::default(),
    };
    Ok((present, checkpoint))
}

/// How far a stored place holds for the log at hand; `None` when it is of another history. A log that was restored may
/// be shorter than what was sent, or have grown otherwise since: what lies behind the digest is the same in both.
async fn agreed(events: &EventStore, partition: Partition, stored: Option<Place>) -> Result<Option<Position>, Error> {
    let Some(place) = stored else { return Ok(Some(Position(0))) };
    let before = events.before_segment(partition, place.segment).await?;
    Ok(match (before, place.digest) {
        (None, _) => None,
        (Some((digest, _)), Some(sent)) if digest != sent => None,
        // The segment itself may have been written anew: its events are sent again unless none of it was sent.
        (Some((_, first)), Some(_)) => Some(place.position.min(first)),
        // Of a release that noted no digest.
        (Some(_), None) => Some(place.position.min(events.end(partition))),
    })
}

fn message(record: Record) -> Message {
    Message {
        topic: record.topic.to_string(),
        key: record.aggregate.id.as_str().to_owned(),
        value: record.line,
        partition: record.partition,
        position: record.position,
    }
}
