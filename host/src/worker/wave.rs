//! Handles a batch of aggregates: claims their undecided commands, and decides them in waves of at most one command of
//! each aggregate; the outcomes of a wave are appended together.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use uuid::Uuid;

use super::Worker;
use super::decide::{Answer, Job, decide};
use super::outcome::Decided;
use crate::domain::{Aggregate, EventKind};
use crate::error::{Classified, Kind};
use crate::event_store::{AppendError, Appended, Record};
use crate::failpoint;
use crate::port::registry::Claimed;
use crate::sandbox::{ActiveHandler, NotTaken};
use crate::state::held::BatchNumber;
use crate::state::{Asked, Context, Error, Item, Place, Stream, finished};

/// A batch under way.
pub(super) struct Wave<'a> {
    pub worker: &'a Worker,
    pub context: &'a Context,
    pub batch: BatchNumber,
}

/// One aggregate of the batch.
struct Lane {
    aggregate: Aggregate,
    stream: Stream,
    active: Arc<ActiveHandler>,
    /// Undecided commands that are claimed, with their attempt, oldest first.
    queue: VecDeque<(Record, u32)>,
}

/// An outcome to be appended: which lane, for which command.
struct Pending {
    job: Job,
    decided: Decided,
}

impl Wave<'_> {
    pub async fn handle(&self, items: Vec<Item>) -> Result<(), Error> {
        let opened = self.open_lanes(items).await?;
        let mut lanes = self.claim(opened).await?;
        while !lanes.is_empty() {
            lanes = self.wave(lanes).await?;
        }
        Ok(())
    }

    /// Reads the streams of the aggregates, and tells which commands of theirs are at hand. An aggregate whose commands
    /// nothing can decide at present waits.
    async fn open_lanes(&self, items: Vec<Item>) -> Result<Vec<(Lane, Vec<Record>)>, Error> {
        let mut asked = Vec::with_capacity(items.len());
        for Item { aggregate, records } in items {
            match self.worker.states.handler(&aggregate) {
                Ok(active) => asked.push(Asked { aggregate, active, records }),
                Err(error) => self.context.wait(&aggregate, Place::of(&records[0]), &error.to_string()),
            }
        }
        let streams = self.worker.states.streams(&asked).await?;
        let lane = |(Asked { aggregate, active, records }, stream)| {
            let commands = records.into_iter().filter(|record| record.kind == EventKind::Command).collect();
            (Lane { aggregate, stream, active, queue: VecDeque::new() }, commands)
        };
        Ok(asked.into_iter().zip(streams).map(lane).collect())
    }

    /// Claims undecided commands, a batch of each aggregate, and those at hand that the log shows decided: these only
    /// need their row. So do commands claimed before that were decided since, by whomever.
    async fn claim(&self, opened: Vec<(Lane, Vec<Record>)>) -> Result<Vec<Lane>, Error> {
        let batch_max = self.context.options.batch_max;
        let mut owners: Vec<(usize, Record, bool)> = Vec::new();
        for (index, (lane, commands)) in opened.iter().enumerate() {
            let undecided = lane.stream.undecided();
            let ids: HashSet<Uuid> = undecided.iter().map(|r| r.event_id).collect();
            let decided = commands.iter().filter(|r| !ids.contains(&r.event_id)).map(|r| (index, r.clone(), false));
            owners.extend(decided);
            if self.context.is_parked(&lane.aggregate) {
                continue;
            }
            owners.extend(undecided.iter().take(batch_max).map(|r| (index, r.clone(), true)));
            if let Some(next) = undecided.get(batch_max) {
                self.context.has_more(&lane.aggregate, Place::of(next));
            }
        }
        let answers = self.context.claims.claim(owners.iter().map(|(_, record, _)| record)).await?;
        let mut lanes: Vec<Lane> = opened.into_iter().map(|(lane, _)| lane).collect();
        let mut stopped: HashSet<usize> = HashSet::new();
        let mut behind = Vec::new();
        for ((index, record, open), claimed) in owners.into_iter().zip(answers) {
            let aggregate = &record.aggregate;
            if stopped.contains(&index) {
                if open {
                    behind.push((record, claimed));
                }
                continue;
            }
            match (claimed, open) {
                (Claimed::Yes { attempt }, true) => lanes[index].queue.push_back((record, attempt)),
                (Claimed::Yes { attempt }, false) => self.context.finish([finished(&record, attempt)]),
                (Claimed::DuplicateDone | Claimed::Stale, false) => self.context.counters.skipped.add(1),
                (Claimed::InProgress, _) => {
                    stopped.insert(index);
                    self.context.wait(aggregate, Place::of(&record), "another process holds the claim");
                }
                (Claimed::Parked, false) => {}
                (Claimed::DuplicateDone, true) => {
                    // Decided by another process since the stream was read: read it again.
                    stopped.insert(index);
                    self.worker.states.forget(aggregate);
                    self.context.wait(aggregate, Place::of(&record), "done elsewhere");
                }
                (Claimed::Parked | Claimed::Stale, true) => {
                    stopped.insert(index);
                    self.reclaim(&record).await?;
                }
            }
        }
        self.context.claims.give_back(&behind).await?;
        lanes.retain(|lane| !lane.queue.is_empty());
        Ok(lanes)
    }

    /// The log has no outcome of this command, so it is to be decided whatever its row says: the log is the truth.
    async fn reclaim(&self, record: &Record) -> Result<(), Error> {
        self.context.claims.release(record.event_id).await?;
        self.context.look_again(&record.aggregate, Place::of(record));
        Ok(())
    }

    /// Decides the first command of every lane and appends the outcomes; gives the lanes that have more.
    async fn wave(&self, lanes: Vec<Lane>) -> Result<Vec<Lane>, Error> {
        let mut rest: HashMap<Aggregate, VecDeque<(Record, u32)>> = HashMap::new();
        let mut jobs = Vec::with_capacity(lanes.len());
        for mut lane in lanes {
            let Some((record, attempt)) = lane.queue.pop_front() else { continue };
            if !lane.queue.is_empty() {
                rest.insert(lane.aggregate, lane.queue);
            }
            jobs.push(Job { record, attempt, stream: lane.stream, active: lane.active });
        }
        let parts = &self.context.parts;
        let answers = decide(&self.worker.states, &parts.metrics, jobs, parts.clock.now()).await;
        failpoint::pass("decide.after");
        let mut pending = Vec::with_capacity(answers.len());
        for (job, answer) in answers {
            match answer {
                Answer::Decided(decided) => match self.nobody_takes(&decided) {
                    None => pending.push(Pending { job, decided: *decided }),
                    Some(message) => self.failed(&job, "fault", message).await?,
                },
                Answer::Failed { reason, message } => self.failed(&job, reason, message).await?,
                Answer::Unavailable(message) => {
                    self.context.wait(&job.record.aggregate, Place::of(&job.record), &message);
                }
            }
        }
        self.context.pass(self.batch);
        let appended = self.append(pending).await?;
        let mut next = Vec::new();
        for (job, result) in appended {
            if let Some(lane) = self.settle(job, result, &mut rest).await? {
                next.push(lane);
            }
        }
        Ok(next)
    }

    /// Why a command that a decision issued would be decided by nobody. The fault is of who issued it, and nothing is
    /// written.
    fn nobody_takes(&self, decided: &Decided) -> Option<String> {
        if decided.issued.is_empty() {
            return None;
        }
        let active = self.context.parts.catalog.active();
        decided.issued.iter().zip(&decided.names).find_map(|(append, name)| {
            let kind = append.aggregate.kind.as_str();
            match active.takes(kind, name) {
                Ok(()) | Err(NotTaken::HandlerMissing) => None,
                Err(NotTaken::NoHandler) => {
                    Some(format!("it issues {name} for {kind}, which no active handler decides"))
                }
                Err(NotTaken::By(handler)) => {
                    Some(format!("it issues {name} for {kind}, which its handler {} does not take", handler.name))
                }
            }
        })
    }

    /// Appends what the decisions issued, then the outcomes of those whose commands are all in the log.
    async fn append(&self, pending: Vec<Pending>) -> Result<Vec<(Job, Result<Appended, AppendError>)>, Error> {
        let mut jobs = Vec::with_capacity(pending.len());
        let mut outcomes = Vec::with_capacity(pending.len());
        let mut results = Vec::new();
        for Pending { job, decided } in pending {
            let mut issued = Vec::new();
            if !decided.issued.is_empty() {
                failpoint::pass("issue.before");
                issued = self.context.parts.events.append_all(decided.issued).await;
                failpoint::pass("issue.after");
            }
            match issued.into_iter().find_map(Result::err) {
                Some(error) if matches!(error.kind(), Kind::Unavailable | Kind::Unknown) => {
                    results.push((job, Err(error)));
                }
                // Not the outcome met a conflict but what the handler issued: trying again at once changes nothing.
                Some(error) => {
                    let message = format!("a command that the decision issued cannot be appended: {error}");
                    self.failed(&job, "fault", message).await?;
                }
                None => {
                    jobs.push(job);
                    outcomes.push(decided.outcome);
                }
            }
        }
        if !outcomes.is_empty() {
            failpoint::pass("outcome.before");
            results.extend(jobs.into_iter().zip(self.context.parts.events.append_all(outcomes).await));
            failpoint::pass("outcome.after");
        }
        Ok(results)
    }

    /// What an append's answer means for its lane.
    async fn settle(
        &self,
        job: Job,
        result: Result<Appended, AppendError>,
        rest: &mut HashMap<Aggregate, VecDeque<(Record, u32)>>,
    ) -> Result<Option<Lane>, Error> {
        let Job { record, attempt, mut stream, active } = job;
        let (aggregate, place) = (record.aggregate.clone(), Place::of(&record));
        let states = &self.worker.states;
        match result {
            Ok(appended) => {
                self.context.finish([finished(&record, attempt)]);
                self.context.advanced(&aggregate);
                let connected = !appended.replayed && appended.records.iter().all(|r| stream.push(r));
                match (connected, rest.remove(&aggregate)) {
                    (true, Some(queue)) => return Ok(Some(Lane { aggregate, stream, active, queue })),
                    (true, None) => states.keep(stream),
                    (false, more) => {
                        states.forget(&aggregate);
                        if more.is_some() {
                            self.context.look_again(&aggregate, place);
                        }
                    }
                }
            }
            Err(error) => {
                states.forget(&aggregate);
                match error.kind() {
                    // Another worker decided meanwhile: look again at once.
                    Kind::Conflict => self.context.look_again(&aggregate, place),
                    Kind::Unavailable | Kind::Unknown => self.context.wait(&aggregate, place, &error.to_string()),
                    _ => {
                        let job = Job { record, attempt, stream, active };
                        self.failed(&job, "limit", format!("the outcome cannot be stored: {error}")).await?;
                    }
                }
            }
        }
        Ok(None)
    }

    /// A failed attempt; when it was the last, the commands behind are set aside with it.
    async fn failed(&self, job: &Job, reason: &str, message: String) -> Result<(), Error> {
        let behind: Vec<Record> = job.stream.undecided().iter().skip(1).cloned().collect();
        self.context.failed(&job.record, job.attempt, reason, &message, &behind).await
    }
}
