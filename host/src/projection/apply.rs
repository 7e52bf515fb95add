//! One batch of a projection consumer: claim, project, apply. Effects, claims and checkpoint are one transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::domain::{Aggregate, AggregateId, AggregateType, Position};
use crate::error::{Classified, Kind};
use crate::event_store::Record;
use crate::failpoint;
use crate::port;
use crate::port::read_model::{Batch, Change, Document, DocumentKey, EventChanges};
use crate::port::registry::{Claimed, Finished, Status};
use crate::sandbox::{ActiveHandler, CausedChange, Failure, FetchedDocument, Handler, Ordering, Projecting};
use crate::state::held::BatchNumber;
use crate::state::{Context, Error, Place, Presented, Upcasters, call_guests, finished};

/// A batch under way.
pub(super) struct Step<'a> {
    pub context: &'a Context,
    pub active: Arc<ActiveHandler>,
    pub build: &'a str,
    pub batch: BatchNumber,
}

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

/// What a handler wants to see before it projects.
enum Asked {
    /// It wants nothing, and has projected.
    Nothing(Vec<CausedChange>),
    For(Vec<DocumentKey>, Projecting),
}

/// Why a run of events was not applied.
enum Stopped {
    /// A part is away: nothing is known of the events.
    Error(Error),
    /// The handler fails on these events, or the sink refuses what it wants written.
    Poison { reason: &'static str, message: String },
    /// The build is deleted; this process has not seen it yet.
    Gone,
}

impl From<port::Error> for Stopped {
    fn from(error: port::Error) -> Self {
        Stopped::Error(error.into())
    }
}

impl Step<'_> {
    /// Applies events in the order given.
    pub async fn handle(&self, records: Vec<Record>) -> Result<(), Error> {
        let items = self.claim(records).await?;
        // The common case: all at once, and the checkpoint with it.
        let mut runs = vec![(items, true)];
        let mut blocked: HashSet<Aggregate> = HashSet::new();
        while let Some((mut run, whole)) = runs.pop() {
            run.retain(|item| !blocked.contains(&item.record.aggregate));
            if run.is_empty() {
                continue;
            }
            let checkpoint = whole.then(|| self.context.checkpoint_after(self.batch));
            let (reason, message) = match self.project_and_apply(&run, checkpoint).await {
                Ok(()) => {
                    run.iter().for_each(|item| self.context.advanced(&item.record.aggregate));
                    continue;
                }
                Err(Stopped::Error(error)) => return Err(error),
                Err(Stopped::Poison { reason, message }) => (reason, message),
                Err(Stopped::Gone) => {
                    self.give_up(&run).await?;
                    continue;
                }
            };
            if let [item] = run.as_slice() {
                if self.is_gone().await? {
                    self.give_up(&run).await?;
                    continue;
                }
                blocked.insert(item.record.aggregate.clone());
                self.context.failed(&item.record, item.attempt, reason, &message, &[]).await?;
            } else {
                let tail = run.split_off(run.len() / 2);
                runs.push((tail, false));
                runs.push((run, false));
            }
        }
        Ok(())
    }

    /// Whether the build is deleted: what it lacks then is no fault of an event.
    async fn is_gone(&self) -> Result<bool, Error> {
        match self.apply(&[], Vec::new(), None).await {
            Err(Stopped::Error(error)) => Err(error),
            Err(Stopped::Gone) => Ok(true),
            Err(Stopped::Poison { .. }) | Ok(()) => Ok(false),
        }
    }

    /// Lets go of events of a build that is deleted: they may be another's of its name, and this consumer ends soon.
    async fn give_up(&self, items: &[Item]) -> Result<(), Error> {
        let finished: Vec<Finished> = items.iter().map(Item::finished).collect();
        self.context.claims.fail(&finished, Status::Failed, "the build is deleted").await?;
        for item in items {
            self.context.wait(&item.record.aggregate, Place::of(&item.record), "the build is deleted");
        }
        Ok(())
    }

    async fn claim(&self, records: Vec<Record>) -> Result<Vec<Item>, Error> {
        let Context { claims, parts, options, counters, .. } = self.context;
        let answers = claims.claim(records.iter()).await?;
        let mut items = Vec::with_capacity(records.len());
        let mut waiting: HashSet<Aggregate> = HashSet::new();
        let mut behind = Vec::new();
        for (record, claimed) in records.into_iter().zip(answers) {
            if waiting.contains(&record.aggregate) {
                behind.push((record, claimed));
                continue;
            }
            match claimed {
                // An operator gave this event up: its row is done, its effect is not made.
                Claimed::Yes { attempt } if parts.parking.is_discarded(&options.consumer, record.event_id) => {
                    claims.done(&[finished(&record, attempt)]).await?;
                    counters.skipped.add(1);
                }
                Claimed::Yes { attempt } => items.push(Item { record, attempt }),
                Claimed::DuplicateDone | Claimed::Stale => counters.skipped.add(1),
                Claimed::InProgress => {
                    self.context.wait(&record.aggregate, Place::of(&record), "another process holds the claim");
                    waiting.insert(record.aggregate);
                }
                Claimed::Parked => {
                    // Not parked any more, or it would have been taken out before: its release was cut short.
                    claims.release(record.event_id).await?;
                    self.context.look_again(&record.aggregate, Place::of(&record));
                    waiting.insert(record.aggregate);
                }
            }
        }
        claims.give_back(&behind).await?;
        Ok(items)
    }

    async fn project_and_apply(&self, items: &[Item], checkpoint: Option<Position>) -> Result<(), Stopped> {
        let (active, parts) = (&self.active, &self.context.parts);
        failpoint::pass("project.before");
        let started = Instant::now();
        let records: Arc<[Record]> = items.iter().map(|item| item.record.clone()).collect();
        let asked = self.call(&records, (), |handler, presented, ()| {
            let (mut projecting, events) = (handler.projecting()?, presented.events());
            let keys = projecting.needs(&events)?;
            match keys.is_empty() {
                true => projecting.project(&events, &[]).map(|changes| Asked::Nothing(by_record(changes, presented))),
                false => Ok(Asked::For(keys, projecting)),
            }
        });
        let changes = match asked.await? {
            Asked::Nothing(changes) => changes,
            Asked::For(mut keys, projecting) => {
                keys.sort();
                keys.dedup();
                let documents: Vec<Document> =
                    parts.read_model.documents(Some(self.build), &keys).await?.into_iter().flatten().collect();
                let project = self.call(&records, Some(projecting), move |handler, presented, asked| {
                    let fetched: Vec<FetchedDocument<'_>> =
                        documents.iter().map(|d| FetchedDocument { key: &d.key, body: d.body.get() }).collect();
                    let events = presented.events();
                    let projecting = match asked.take() {
                        Some(projecting) => projecting,
                        // It was cut short; the next one is asked the same before.
                        None => {
                            let mut projecting = handler.projecting()?;
                            projecting.needs(&events)?;
                            projecting
                        }
                    };
                    projecting.project(&events, &fetched).map(|changes| by_record(changes, presented))
                });
                project.await?
            }
        };
        parts.metrics.call(&active.name, "project").observe(started.elapsed(), None);
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
        self.apply(items, events, checkpoint).await
    }

    async fn apply(
        &self,
        items: &[Item],
        events: Vec<EventChanges>,
        checkpoint: Option<Position>,
    ) -> Result<(), Stopped> {
        let Context { options, parts, partition, claims, counters, .. } = self.context;
        let finished: Vec<Finished> = items.iter().map(Item::finished).collect();
        let batch = Batch {
            consumer: &options.consumer,
            build: self.build,
            begun: options.build.as_ref().map(|build| build.id),
            owner: &parts.owner,
            events,
            finished: finished.clone(),
            checkpoint: checkpoint.map(|position| (*partition, position)),
            now: claims.now().await?,
        };
        port::fail_at("apply.before")?;
        let applied = parts.read_model.apply(batch).await?;
        failpoint::pass("apply.after");
        if applied.gone {
            return Err(Stopped::Gone);
        }
        if let Some((_, words)) = applied.foreign.first() {
            return Err(Stopped::Poison { reason: "fault", message: words.clone() });
        }
        claims.settled(&finished);
        // Their effects are another's to make: the checkpoint waits until they are there (I7).
        for item in items.iter().filter(|item| applied.fenced.contains(&item.record.event_id)) {
            self.context.wait(&item.record.aggregate, Place::of(&item.record), "the claim was taken over");
        }
        counters.processed.add((items.len() - applied.fenced.len()) as u64);
        Ok(())
    }

    /// Calls the handler with the events.
    async fn call<S: Send + 'static, T: Send + 'static>(
        &self,
        records: &Arc<[Record]>,
        state: S,
        run: impl Fn(&Handler, &Presented<'_>, &mut S) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Stopped> {
        let (records, active) = (records.clone(), self.active.clone());
        let upcasters = Upcasters::of(&self.context.parts.catalog.active(), &active.handler.description().kinds);
        let call = move |state: &mut S| {
            let presented = upcasters.present(&active.handler, &records).map_err(|error| match error.kind() {
                Kind::Unavailable => Stopped::Error(error),
                _ => Stopped::Poison { reason: "fault", message: error.to_string() },
            })?;
            run(&active.handler, &presented, state).map_err(|failure| stopped(&failure))
        };
        call_guests(state, call).await.1
    }
}

/// Changes with the record that caused each, which may have been presented as several events.
fn by_record(mut changes: Vec<CausedChange>, presented: &Presented<'_>) -> Vec<CausedChange> {
    changes.iter_mut().for_each(|caused| caused.cause = presented.source(caused.cause));
    changes
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
