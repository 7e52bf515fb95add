//! The driver of every consumer, be its work deciding or projecting: it follows the log, takes up batches of
//! aggregates, keeps what waits and the checkpoint, and pauses when a part is away.
//!
//! **The log is the order; a bus message is a hint.** A consumer keeps a cursor over the log and is woken by the log's
//! end, at which the intake of messages makes this process look; what is to be handled is read from the log, so a lost,
//! repeated or reordered message changes nothing (I6).
//!
//! Several batches are under way at once, each a future of this one task: while one waits for its appends the next is
//! decided. An aggregate is in one batch at a time. What is under way or waits holds the checkpoint back (I7); when a
//! batch fails, its aggregates are due again at once, and nothing new is taken up for a while.

mod context;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::held::BatchNumber;
use super::{ConsumerState, Error, Parking, Place, Progress, Release, WAITING_MAX};
use crate::codec::segment::Event;
use crate::domain::{Aggregate, Partition, Position, Sequence, Timestamp};
use crate::event_store::{EventStore, Record};
use crate::failpoint;
use crate::metrics::Metrics;
use crate::port::clock::Clock;
use crate::port::read_model::ReadModel;
use crate::port::read_model::builds::Begun;
use crate::port::registry::{Finished, Owner, Registry};
use crate::sandbox::Catalog;
pub use context::Context;

#[cfg(test)]
mod tests;

/// What a consumer is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name, the `handler` of its rows in `processed_events`.
    pub consumer: String,
    /// Topics of the events it handles.
    pub topics: Vec<String>,
    /// The build that it writes, if it writes one.
    pub build: Option<Begun>,
    /// Attempts at one event before its aggregate is parked.
    pub attempts_max: u32,
    /// Age at which another process may take over a claim.
    pub lease_ms: i64,
    /// How often claims are renewed.
    pub heartbeat_interval: Duration,
    /// Records read at once.
    pub batch_max: usize,
    /// Batches under way at once.
    pub batches_max: usize,
    /// Least time from the beginning of a large batch to that of the next: what comes meanwhile makes it larger, hence
    /// cheaper.
    pub pace: Duration,
}

/// What a consumer needs.
#[derive(Debug, Clone)]
pub struct Parts {
    pub events: EventStore,
    pub catalog: Arc<Catalog>,
    pub registry: Arc<dyn Registry>,
    pub read_model: Arc<dyn ReadModel>,
    pub clock: Arc<dyn Clock>,
    pub parking: Parking,
    pub progress: Progress,
    pub metrics: Metrics,
    pub owner: Owner,
}

/// What a consumer does with events.
#[async_trait]
pub trait Work: std::fmt::Debug + Send + Sync + 'static {
    /// Why nothing can be handled now, in words for operators: its events wait in the log.
    fn obstacle(&self, _context: &Context) -> Option<String> {
        None
    }
    /// Whether an event of the consumer's topics is to be handled.
    fn wants(&self, context: &Context, record: &Record) -> bool;
    /// Handles a batch; each event of it that is wanted and not held when this returns has its effect. After an error,
    /// all of the batch comes again.
    async fn handle(&self, context: &Context, batch: Batch) -> Result<(), Error>;
}

/// An aggregate with events of its stream, in order, at least one of them wanted.
#[derive(Debug)]
pub struct Item {
    pub aggregate: Aggregate,
    pub records: Vec<Record>,
}

/// Aggregates to be handled, in the order of the log.
#[derive(Debug)]
pub struct Batch {
    pub number: BatchNumber,
    pub items: Vec<Item>,
}

/// How long a consumer waits after the first failure of a part; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause: an operator sees the recovery of a part within this time.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a checkpoint that moved is stored. What lies behind it is claimed again after a crash, and found done.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Pages read whose ends are remembered while something in them is not handled; further ones count with the last.
const READ_MAX: usize = 64;
/// Aggregates of a batch from which on it shows that more come, and the next one is paced.
const PACED_MIN: usize = 8;
/// Longest sleep when there is nothing to do.
const IDLE: Duration = Duration::from_secs(30);

/// Something under way that has ended.
enum Ended {
    Batch { number: BatchNumber, aggregates: Vec<Aggregate>, result: Result<(), Error> },
    Marked(Result<usize, (Vec<Finished>, Error)>),
    Renewed(Result<(), Error>),
    Stored(Result<Position, Error>),
}

/// A consumer on one partition.
pub struct Consumer<W> {
    context: Arc<Context>,
    work: Arc<W>,
    under_way: FuturesUnordered<BoxFuture<'static, Ended>>,
    batches: usize,
    last_batch: BatchNumber,
    /// The next batch begins no sooner.
    next_batch: Duration,
    marking: bool,
    renewing: bool,
    storing: bool,
    /// A release may have gone unheard: before this run, or since the consumer lagged.
    releases_missed: bool,
    /// When claims were renewed.
    renewed: Duration,
    /// Checkpoint in the database, and when it was written.
    stored: (Position, Duration),
    /// Ends of what was read and is not handled, with the time the record before each was recorded.
    read: VecDeque<(Position, Timestamp)>,
    /// When the last record handled was recorded.
    handled_at: Option<Timestamp>,
    /// Until when nothing is taken up, and how long the next pause is.
    pause: (Option<Duration>, Duration),
}

impl<W: Work> Consumer<W> {
    /// A consumer that goes on from its checkpoint.
    pub async fn open(options: Options, parts: Parts, partition: Partition, work: W) -> Result<Consumer<W>, Error> {
        let checkpoints = parts.read_model.checkpoints().await?;
        let cursor = checkpoints
            .into_iter()
            .find(|(consumer, on, _)| *consumer == options.consumer && *on == partition)
            .map_or(Position(0), |(_, _, position)| position);
        parts.progress.register(&options.consumer, partition, cursor);
        let now = parts.clock.monotonic();
        Ok(Consumer {
            context: Arc::new(Context::new(options, parts, partition, cursor)),
            work: Arc::new(work),
            under_way: FuturesUnordered::new(),
            batches: 0,
            last_batch: 0,
            next_batch: now,
            marking: false,
            renewing: false,
            storing: false,
            releases_missed: true,
            renewed: now,
            stored: (cursor, now),
            read: VecDeque::new(),
            handled_at: None,
            pause: (None, PAUSE_MIN),
        })
    }

    /// Works until told to stop; then finishes what is under way.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let context = self.context.clone();
        let (options, parts) = (&context.options, &context.parts);
        let mut end = parts.events.watch_end(context.partition);
        let mut active = parts.catalog.changes();
        let mut releases = parts.parking.releases();
        loop {
            end.mark_unchanged();
            active.mark_unchanged();
            let wait = match self.proceed().await {
                Ok(wait) => wait,
                Err(error) => self.paused(&error),
            };
            let room = self.has_room();
            // Every branch is cancel-safe; what a batch has done stays with it in `under_way`.
            let ended = tokio::select! {
                biased;
                // So that a seed repeats; what is seldom goes before what a busy log makes true always.
                () = stop.cancelled() => break,
                Some(ended) = self.under_way.next() => self.ended(ended),
                () = context.passed.notified() => Ok(()),
                released = releases.recv() => {
                    self.hear(released);
                    Ok(())
                }
                changed = active.changed() => if changed.is_ok() { Ok(()) } else { break },
                changed = end.changed(), if room => if changed.is_ok() { Ok(()) } else { break },
                () = rest(&*parts.clock, wait) => Ok(()),
            };
            if let Err(error) = ended {
                self.paused(&error);
            }
        }
        if let Err(error) = self.finish().await {
            // All of it comes again in the next run.
            tracing::warn!(consumer = options.consumer, %error, "stops with work unfinished");
        }
        let checkpoint = context.checkpoint();
        if checkpoint > self.stored.0 {
            let (consumer, build) = (&options.consumer, options.build.as_ref());
            let stored = parts.read_model.set_checkpoint(consumer, context.partition, checkpoint, build).await;
            if let Err(error) = stored {
                // The next run begins where the last one that was stored is, and finds the rest done.
                tracing::warn!(consumer = options.consumer, %error, "stops without storing its checkpoint");
            }
        }
        self.state(ConsumerState::Stopped, None);
        Ok(())
    }

    /// Takes up what there is, unless paused; gives how long nothing but events can change that.
    async fn proceed(&mut self) -> Result<Duration, Error> {
        let now = self.context.parts.clock.monotonic();
        if let (Some(until), _) = self.pause {
            if now < until {
                return Ok(until - now);
            }
            self.pause.0 = None;
        }
        let able = self.take_up().await?;
        Ok(self.next_wake(now, able && self.has_room()))
    }

    fn next_wake(&self, now: Duration, room: bool) -> Duration {
        if room && self.has_more() {
            return Duration::ZERO;
        }
        let mut wait = match self.next_batch.saturating_sub(now) {
            Duration::ZERO => IDLE,
            rest => rest,
        };
        if self.context.checkpoint() > self.stored.0 {
            wait = wait.min(CHECKPOINT_INTERVAL);
        }
        if self.context.claims.are_open() {
            wait = wait.min(self.context.options.heartbeat_interval);
        }
        let due = self.context.course.lock().held.next_due().filter(|_| room);
        due.map_or(wait, |due| wait.min(due.saturating_sub(now)))
    }

    /// Begins chores, and a batch of what is due and of the next records of the log. Gives whether the work can go on.
    async fn take_up(&mut self) -> Result<bool, Error> {
        self.chores();
        if let Some(obstacle) = self.work.obstacle(&self.context) {
            self.state(ConsumerState::Paused, Some(obstacle));
            return Ok(false);
        }
        let context = self.context.clone();
        if self.releases_missed {
            let unfinished = context.parts.parking.unfinished(&context.options.consumer, context.partition).await?;
            let mut course = context.course.lock();
            unfinished.iter().for_each(|(aggregate, first)| course.held.release(aggregate, *first));
            self.releases_missed = false;
        }
        if self.has_room() {
            self.begin_batch().await?;
        }
        self.tell();
        Ok(true)
    }

    fn has_room(&self) -> bool {
        self.batches < self.context.options.batches_max
            && self.context.course.lock().deciding.is_none()
            && self.context.parts.clock.monotonic() >= self.next_batch
    }

    /// Whether the log has more that may be read.
    fn has_more(&self) -> bool {
        let course = self.context.course.lock();
        let end = self.context.parts.events.end(self.context.partition);
        course.cursor < end && course.held.waiting() < WAITING_MAX
    }

    async fn begin_batch(&mut self) -> Result<(), Error> {
        let context = self.context.clone();
        let number = self.last_batch + 1;
        let (from, limit) = (context.course.lock().cursor, context.options.batch_max);
        let mut records = Vec::new();
        let mut next = from;
        if self.has_more() {
            let topics = &context.options.topics;
            let ours = |event: &Event| topics.iter().any(|topic| are_of_one_type(topic, &event.topic));
            let read = context.parts.events.select(context.partition, from, limit, ours).await?;
            (records, next) = (read.records, read.next);
            self.read.truncate(READ_MAX - 1);
            self.read.push_back((next, read.recorded_at));
        }
        let (due, items) = {
            let mut course = context.course.lock();
            let due = course.held.take_due(context.parts.clock.monotonic(), limit, number);
            course.cursor = next;
            let mut items = self.wanted(records);
            items.retain(|(first, item)| course.held.take(&item.aggregate, *first, number));
            if !due.is_empty() || !items.is_empty() {
                course.deciding = Some(number);
            }
            (due, items)
        };
        if due.is_empty() && items.is_empty() {
            return Ok(());
        }
        self.last_batch = number;
        self.batches += 1;
        let mut aggregates: Vec<Aggregate> = due.iter().map(|(aggregate, _)| aggregate.clone()).collect();
        aggregates.extend(items.iter().map(|(_, item)| item.aggregate.clone()));
        if aggregates.len() >= PACED_MIN && !self.has_more() {
            self.next_batch = context.parts.clock.monotonic() + context.options.pace;
        }
        let work = self.work.clone();
        self.under_way.push(Box::pin(async move {
            let handled = async {
                let mut all = context.load(due, from).await?;
                all.extend(items.into_iter().map(|(_, item)| item));
                let items = context.set_parked_aside(all, |record| wants(&*work, &context, record)).await?;
                if items.is_empty() { Ok(()) } else { work.handle(&context, Batch { number, items }).await }
            };
            let result = handled.await;
            Ended::Batch { number, aggregates, result }
        }));
        Ok(())
    }

    /// The aggregates with a wanted event among the records, with the first of these and all records of theirs from it
    /// on (so that a stream can go on from what is cached without reading the log), in the order of the log.
    fn wanted(&self, records: Vec<Record>) -> Vec<(Place, Item)> {
        let mut items: Vec<(Place, Item)> = Vec::new();
        let mut slots: HashMap<Aggregate, usize> = HashMap::new();
        for record in records {
            let wanted = wants(&*self.work, &self.context, &record);
            match slots.get(&record.aggregate) {
                Some(slot) => items[*slot].1.records.push(record),
                None if wanted => {
                    slots.insert(record.aggregate.clone(), items.len());
                    let item = Item { aggregate: record.aggregate.clone(), records: Vec::new() };
                    items.push((Place::of(&record), item));
                    items.last_mut().expect("pushed just now").1.records.push(record);
                }
                None => {}
            }
        }
        items
    }

    /// Begins what is done beside the batches: marking what is finished, renewing claims, storing the checkpoint.
    fn chores(&mut self) {
        let now = self.context.parts.clock.monotonic();
        if !self.marking {
            let finished = std::mem::take(&mut self.context.course.lock().finished);
            if !finished.is_empty() {
                self.marking = true;
                let context = self.context.clone();
                self.under_way.push(Box::pin(async move {
                    let marked = context.claims.done(&finished).await;
                    Ended::Marked(marked.map_err(|error| (finished, error)))
                }));
            }
        }
        let interval = self.context.options.heartbeat_interval;
        if !self.context.claims.are_open() {
            self.renewed = now;
        } else if !self.renewing && now.saturating_sub(self.renewed) >= interval {
            (self.renewing, self.renewed) = (true, now);
            let context = self.context.clone();
            self.under_way.push(Box::pin(async move { Ended::Renewed(context.claims.heartbeat().await) }));
        }
        if !self.storing && now.saturating_sub(self.stored.1) >= CHECKPOINT_INTERVAL {
            self.stored.1 = now;
            let (context, checkpoint) = (self.context.clone(), self.context.checkpoint());
            if checkpoint > self.stored.0 {
                self.storing = true;
                self.under_way.push(Box::pin(async move {
                    let Options { consumer, build, .. } = &context.options;
                    let (model, partition) = (&context.parts.read_model, context.partition);
                    failpoint::pass("progress.before_store");
                    let stored = model.set_checkpoint(consumer, partition, checkpoint, build.as_ref()).await;
                    failpoint::pass("progress.after_store");
                    Ended::Stored(stored.map(|()| checkpoint).map_err(Error::from))
                }));
            }
        }
    }

    fn ended(&mut self, ended: Ended) -> Result<(), Error> {
        match ended {
            Ended::Batch { number, aggregates, result } => {
                self.batches -= 1;
                let now = self.context.parts.clock.monotonic();
                let mut course = self.context.course.lock();
                aggregates.iter().for_each(|aggregate| course.held.end(aggregate, number, result.is_ok(), now));
                course.deciding = course.deciding.filter(|deciding| *deciding != number);
                drop(course);
                result?;
                self.pause.1 = PAUSE_MIN;
            }
            Ended::Marked(result) => {
                self.marking = false;
                match result {
                    Ok(count) => self.context.counters.processed.add(count as u64),
                    Err((finished, error)) => {
                        self.context.finish(finished);
                        return Err(error);
                    }
                }
            }
            Ended::Renewed(result) => {
                self.renewing = false;
                result?;
            }
            Ended::Stored(result) => {
                self.storing = false;
                self.stored.0 = result?;
            }
        }
        Ok(())
    }

    /// Waits for everything that is under way, and marks what it finished; gives the first error.
    async fn finish(&mut self) -> Result<(), Error> {
        let mut first = Ok(());
        loop {
            while let Some(ended) = self.under_way.next().await {
                let ended = self.ended(ended);
                first = first.and(ended);
            }
            if first.is_err() || self.context.course.lock().finished.is_empty() {
                break;
            }
            self.chores();
        }
        self.tell();
        first
    }

    /// Whether the aggregate is this consumer's, and lies in its partition.
    fn is_ours(&self, release: &Release) -> bool {
        let Context { options, parts, partition, .. } = &*self.context;
        release.consumer == options.consumer && parts.events.partition_of(&release.aggregate) == *partition
    }

    pub(crate) fn hear(&mut self, released: Result<Release, broadcast::error::RecvError>) {
        match released {
            Ok(release) if self.is_ours(&release) => {
                let sequence = Sequence(release.letter.sequence_number);
                let parked = Place { position: Position(u64::MAX), sequence };
                self.context.course.lock().held.release(&release.aggregate, parked);
            }
            Ok(_) => {}
            Err(_) => self.releases_missed = true,
        }
    }

    /// Publishes how far everything is handled, and the lag.
    fn tell(&mut self) {
        let Context { options, parts, partition, counters, .. } = &*self.context;
        let (checkpoint, end) = (self.context.checkpoint(), parts.events.end(*partition));
        while let Some((_, at)) = self.read.pop_front_if(|(end, _)| *end <= checkpoint) {
            self.handled_at = Some(at);
        }
        parts.progress.publish(&options.consumer, *partition, checkpoint, self.handled_at);
        let waiting = end.0.saturating_sub(checkpoint.0);
        let age_ms = self.handled_at.map_or(0, |at| parts.clock.now().0.saturating_sub(at.0).max(0));
        counters.lag_events.set(waiting);
        counters.lag_ms.set(if waiting == 0 { 0 } else { u64::try_from(age_ms).unwrap_or(0) });
        let state = if self.has_more() { ConsumerState::CatchingUp } else { ConsumerState::Running };
        self.state(state, None);
    }

    /// Takes nothing up for a while; gives for how long.
    fn paused(&mut self, error: &Error) -> Duration {
        tracing::warn!(consumer = self.context.options.consumer, %error, "consumption pauses");
        self.state(ConsumerState::Paused, Some(error.to_string()));
        let (_, pause) = self.pause;
        self.pause = (Some(self.context.parts.clock.monotonic() + pause), (pause * 2).min(PAUSE_MAX));
        pause
    }

    fn state(&self, state: ConsumerState, error: Option<String>) {
        let Context { options, parts, partition, .. } = &*self.context;
        parts.progress.set_state(&options.consumer, *partition, state, error);
    }
}

/// Whether an event is this consumer's to handle.
fn wants<W: Work>(work: &W, context: &Context, record: &Record) -> bool {
    context.options.topics.iter().any(|topic| **topic == *record.topic) && work.wants(context, record)
}

/// Whether a topic is that of the commands, and the other that of the events, of the same aggregates, or the same one.
fn are_of_one_type(topic: &str, other: &str) -> bool {
    let stem = |topic: &str| topic.rfind('_').unwrap_or(topic.len());
    topic[..stem(topic)] == other[..stem(other)]
}

/// Sleeps; lets others run when there is no time to sleep.
async fn rest(clock: &dyn Clock, wait: Duration) {
    if wait.is_zero() { tokio::task::yield_now().await } else { clock.sleep(wait).await }
}
