//! One batch of a projection consumer: claim, project, apply. Effects, claims and checkpoint are one transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{LIVE, Projector};
use crate::domain::{Aggregate, AggregateId, AggregateType, Position};
use crate::error::{Classified, Kind};
use crate::event_store::Record;
use crate::port;
use crate::port::read_model::{Batch, Change, Document, DocumentKey, EventChanges};
use crate::port::registry::{Claimed, Finished, Status};
use crate::sandbox::{ActiveHandler, Failure, FetchedDocument, Handler, Ordering, RecordedEvent};
use crate::state::{Error, EventView, ParkRequest, Place, finished, offload};

/// How long an aggregate waits whose event another process holds.
const WAIT: Duration = Duration::from_millis(200);

/// An event that is ours to apply.
#[derive(Debug, Clone)]
struct Item {
    record: Record,
    attempt: u32,
}

impl Item {
    fn finished(&self) -> Finished {
        finished(&self.record, self.attempt)
    }
}

/// Why a run of events was not applied.
enum Stopped {
    /// A part is away: nothing is known of the events.
    Error(Error),
    /// The handler fails on these events, or the sink refuses what it wants written.
    Poison { reason: &'static str, message: String },
}

impl From<port::Error> for Stopped {
    fn from(error: port::Error) -> Self {
        Stopped::Error(error.into())
    }
}

impl Projector {
    /// Applies events in the order given. `next`: the cursor after them, when they were read from the log's order.
    pub(super) async fn handle(
        &mut self,
        records: Vec<Record>,
        next: Option<Position>,
        active: &Arc<ActiveHandler>,
    ) -> Result<(), Error> {
        let records = self.without_waiting(records).await?;
        let items = self.claim(records).await?;
        if items.is_empty() {
            return Ok(());
        }
        // The common case: all at once, and the checkpoint with it.
        let mut runs = vec![(items, next)];
        let mut blocked: HashSet<Aggregate> = HashSet::new();
        while let Some((mut run, next)) = runs.pop() {
            run.retain(|item| !blocked.contains(&item.record.aggregate));
            if run.is_empty() {
                continue;
            }
            let next = next.filter(|_| blocked.is_empty() && self.held.least().is_none());
            let (reason, message) = match self.project_and_apply(&run, next, active).await {
                Ok(()) => {
                    // What was held stays noted until all that waits of it is applied.
                    run.iter().for_each(|item| self.held.advanced(&item.record.aggregate));
                    continue;
                }
                Err(Stopped::Error(error)) => return Err(error),
                Err(Stopped::Poison { reason, message }) => (reason, message),
            };
            if let [item] = run.as_slice() {
                blocked.insert(item.record.aggregate.clone());
                self.failed(item, reason, message).await?;
            } else {
                let tail = run.split_off(run.len() / 2);
                runs.push((tail, None));
                runs.push((run, None));
            }
        }
        Ok(())
    }

    /// Takes out the events of aggregates that wait or are parked.
    async fn without_waiting(&mut self, records: Vec<Record>) -> Result<Vec<Record>, Error> {
        let mut ready = Vec::with_capacity(records.len());
        for record in records {
            let aggregate = &record.aggregate;
            let parked = self.parts.parking.letter(&self.options.consumer, aggregate);
            // Those before the parked one have their effects, also in a read model that is built anew.
            if parked.is_some_and(|letter| record.sequence.0 >= letter.sequence_number) {
                self.held.park(aggregate, Place::of(&record));
                self.claims.park_behind(std::slice::from_ref(&record)).await?;
            } else if self.held.holds(aggregate) {
                self.held.postpone(aggregate, Place::of(&record));
            } else {
                ready.push(record);
            }
        }
        Ok(ready)
    }

    async fn claim(&mut self, records: Vec<Record>) -> Result<Vec<Item>, Error> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let answers = self.claims.claim(records.iter()).await?;
        let mut items = Vec::with_capacity(records.len());
        let mut waiting: HashSet<Aggregate> = HashSet::new();
        for (record, claimed) in records.into_iter().zip(answers) {
            if waiting.contains(&record.aggregate) {
                if claimed == Claimed::Parked {
                    self.claims.release(record.event_id).await?;
                }
                continue;
            }
            match claimed {
                Claimed::Yes { attempt }
                    if self.parts.parking.is_discarded(&self.options.consumer, record.event_id) =>
                {
                    self.skip(&Item { record, attempt }).await?;
                }
                Claimed::Yes { attempt } => items.push(Item { record, attempt }),
                Claimed::DuplicateDone | Claimed::Stale => self.counters.skipped.add(1),
                Claimed::InProgress => {
                    let until = self.parts.clock.monotonic() + WAIT;
                    self.held.wait(&record.aggregate, Place::of(&record), until);
                    waiting.insert(record.aggregate);
                }
                Claimed::Parked => {
                    // Not parked any more, or it would have been taken out before: its release was cut short.
                    self.claims.release(record.event_id).await?;
                    self.held.wait(&record.aggregate, Place::of(&record), self.parts.clock.monotonic());
                    waiting.insert(record.aggregate);
                }
            }
        }
        Ok(items)
    }

    /// An operator gave this event up: its row is done, its effect is not made.
    async fn skip(&mut self, item: &Item) -> Result<(), Error> {
        self.claims.done(&[item.finished()]).await?;
        self.counters.skipped.add(1);
        Ok(())
    }

    async fn project_and_apply(
        &mut self,
        items: &[Item],
        next: Option<Position>,
        active: &Arc<ActiveHandler>,
    ) -> Result<(), Stopped> {
        let started = Instant::now();
        let records: Arc<[Record]> = items.iter().map(|item| item.record.clone()).collect();
        let mut keys: Vec<DocumentKey> =
            self.call(&records, active, |handler, events| handler.project_needs(events)).await?;
        keys.sort();
        keys.dedup();
        let documents: Vec<Document> =
            self.parts.read_model.documents(LIVE, &keys).await?.into_iter().flatten().collect();
        let changes = self
            .call(&records, active, move |handler, events| {
                let fetched: Vec<FetchedDocument<'_>> =
                    documents.iter().map(|d| FetchedDocument { key: &d.key, body: d.body.get() }).collect();
                handler.project(events, &fetched)
            })
            .await?;
        self.parts.metrics.call(&active.name, "project").observe(started.elapsed(), None);
        let mut by_cause: HashMap<usize, Vec<Change>> = HashMap::new();
        for caused in changes {
            by_cause.entry(caused.cause).or_default().push(caused.change);
        }
        let ordering = active.handler.description().ordering;
        let events = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| {
                let changes = by_cause.remove(&index)?;
                let (owner, version) = ownership(&item.record, ordering, &active.name);
                Some(EventChanges { event_id: item.record.event_id, owner, version, changes })
            })
            .collect();
        self.apply(items, events, next).await
    }

    async fn apply(
        &mut self,
        items: &[Item],
        events: Vec<EventChanges>,
        next: Option<Position>,
    ) -> Result<(), Stopped> {
        let finished: Vec<Finished> = items.iter().map(Item::finished).collect();
        let batch = Batch {
            consumer: &self.options.consumer,
            build: LIVE,
            owner: &self.parts.owner,
            events,
            finished: finished.clone(),
            checkpoint: next.map(|position| (self.partition, position)),
            now: self.parts.clock.now(),
        };
        let applied = self.parts.read_model.apply(batch).await?;
        if let Some((_, words)) = applied.foreign.first() {
            return Err(Stopped::Poison { reason: "fault", message: words.clone() });
        }
        self.claims.settled(&finished);
        if !applied.fenced.is_empty() {
            tracing::info!(consumer = self.options.consumer, claims = applied.fenced.len(), "claims were taken over");
            // Their effects are another's to make: the checkpoint waits until they are there (I7).
            let until = self.parts.clock.monotonic() + WAIT;
            for item in items.iter().filter(|item| applied.fenced.contains(&item.record.event_id)) {
                self.held.wait(&item.record.aggregate, Place::of(&item.record), until);
            }
        }
        self.counters.processed.add((items.len() - applied.fenced.len()) as u64);
        Ok(())
    }

    /// Calls the handler with the events, off the threads that do I/O.
    async fn call<T: Send + 'static>(
        &self,
        records: &Arc<[Record]>,
        active: &Arc<ActiveHandler>,
        run: impl FnOnce(&Handler, &[RecordedEvent<'_>]) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Stopped> {
        let (records, active) = (records.clone(), active.clone());
        offload(move || {
            let views: Vec<EventView<'_>> = records
                .iter()
                .map(EventView::of)
                .collect::<Result<_, _>>()
                .map_err(|e| Stopped::Poison { reason: "fault", message: e.to_string() })?;
            let events: Vec<RecordedEvent<'_>> = views.iter().map(EventView::event).collect();
            run(&active.handler, &events).map_err(|failure| stopped(&failure))
        })
        .await
    }

    /// A failed attempt: tried again with back-off, parked after the last.
    async fn failed(&mut self, item: &Item, reason: &'static str, message: String) -> Result<(), Error> {
        let consumer = self.options.consumer.clone();
        let record = &item.record;
        let failures = self.held.fail(&record.aggregate, Place::of(record), self.parts.clock.monotonic());
        let last = failures >= self.options.attempts_max;
        self.counters.failed.add(1);
        let (aggregate, event_id) = (&record.aggregate, record.event_id);
        tracing::warn!(consumer, %aggregate, %event_id, reason, failures, last, message, "projection failed");
        if last {
            let error = message.clone();
            self.parts.parking.park(ParkRequest { consumer: &consumer, record, reason, error }).await?;
            self.held.park(aggregate, Place::of(record));
        }
        self.claims.fail(&item.finished(), if last { Status::Parked } else { Status::Failed }, &message).await
    }
}

fn stopped(failure: &Failure) -> Stopped {
    let message = failure.to_string();
    let reason = match failure {
        _ if failure.kind() == Kind::Unavailable => {
            return Stopped::Error(port::Error::Unavailable { what: "the sandbox", reason: message }.into());
        }
        Failure::Fault { .. } => "fault",
        Failure::Trap { .. } => "trap",
        Failure::Limit { .. } => "limit",
    };
    Stopped::Poison { reason, message }
}

/// Who owns the rows of an event's writes, and their version.
fn ownership(record: &Record, ordering: Ordering, handler: &str) -> (Aggregate, u64) {
    match ordering {
        Ordering::Aggregate => (record.aggregate.clone(), record.sequence.0),
        Ordering::Partition => {
            let kind = AggregateType::parse("Partition").expect("a constant that is an aggregate type");
            let id = AggregateId::parse(&format!("{handler}:{}", record.partition)).expect("a short name");
            (Aggregate { kind, id }, record.position.0 + 1)
        }
    }
}
