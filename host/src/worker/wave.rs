//! Handles a batch of aggregates: claims their undecided commands, decides them in waves of at most one command of each
//! aggregate, appends the outcomes of a wave together, and marks everything done in one transaction at the end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Worker;
use super::decide::{Answer, Job, decide};
use super::outcome::Decided;
use crate::domain::{Aggregate, EventKind};
use crate::error::{Classified, Kind};
use crate::event_store::{AppendError, Appended, Record};
use crate::port::registry::{Claimed, Status};
use crate::sandbox::ActiveHandler;
use crate::state::{Error, ParkRequest, Place, Stream, finished};

/// How long an aggregate waits whose command another process holds, or whose part is away.
const WAIT: Duration = Duration::from_millis(200);

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

impl Worker {
    /// Handles aggregates with the records of theirs that were just read (none for one that was held).
    pub(super) async fn handle(&mut self, items: Vec<(Aggregate, Vec<Record>)>) -> Result<(), Error> {
        let opened = self.open_lanes(items).await?;
        let mut lanes = self.claim(opened).await?;
        while !lanes.is_empty() {
            lanes = self.wave(lanes).await?;
        }
        self.mark_done().await
    }

    /// Reads the streams. Aggregates that wait keep waiting; those that are parked get their new commands marked.
    async fn open_lanes(&mut self, items: Vec<(Aggregate, Vec<Record>)>) -> Result<Vec<(Lane, Vec<Record>)>, Error> {
        let mut lanes = Vec::with_capacity(items.len());
        for (aggregate, records) in items {
            let commands: Vec<Record> = records.iter().filter(|r| r.kind == EventKind::Command).cloned().collect();
            let first = commands.first().map_or(Place::LAST, Place::of);
            if let Some(letter) = self.parts.parking.letter(&self.options.consumer, &aggregate) {
                self.held.park(&aggregate, first);
                // Those before the parked one are decided.
                let mut waiting = commands;
                waiting.retain(|command| command.sequence.0 >= letter.sequence_number);
                self.claims.park_behind(&waiting).await?;
                continue;
            }
            if self.held.holds(&aggregate) && !records.is_empty() {
                self.held.postpone(&aggregate, first);
                continue;
            }
            let active = match self.parts.states.handler(&aggregate) {
                Ok(active) => active,
                Err(error) => {
                    self.wait(&aggregate, first, &error.to_string());
                    continue;
                }
            };
            let stream = self.parts.states.stream_with(&aggregate, &active, &records).await?;
            lanes.push((Lane { aggregate, stream, active, queue: VecDeque::new() }, commands));
        }
        Ok(lanes)
    }

    /// Claims undecided commands, a batch of each aggregate, and those just read that the log shows decided: these only
    /// need their row. So do commands claimed before that were decided since, by whomever.
    async fn claim(&mut self, opened: Vec<(Lane, Vec<Record>)>) -> Result<Vec<Lane>, Error> {
        let now = self.parts.clock.monotonic();
        let mut owners: Vec<(usize, Record, bool)> = Vec::new();
        for (index, (lane, records)) in opened.iter().enumerate() {
            let undecided = lane.stream.undecided();
            let ids: HashSet<Uuid> = undecided.iter().map(|r| r.event_id).collect();
            let decided = records.iter().filter(|r| !ids.contains(&r.event_id)).map(|r| (r, false));
            let open = undecided.iter().take(self.options.batch_max).map(|r| (r, true));
            owners.extend(decided.chain(open).map(|(record, open)| (index, record.clone(), open)));
            if let Some(next) = undecided.get(self.options.batch_max) {
                self.held.wait(&lane.aggregate, Place::of(next), now);
            }
            if records.is_empty() {
                let claimed = self.claims.open_of(&lane.aggregate).into_iter();
                self.finished.extend(claimed.filter(|claim| !ids.contains(&claim.event_id)));
            }
        }
        if owners.is_empty() {
            for (lane, _) in opened {
                self.held.progressed(&lane.aggregate);
            }
            return Ok(Vec::new());
        }
        let answers = self.claims.claim(owners.iter().map(|(_, record, _)| record)).await?;
        let mut lanes: Vec<Lane> = opened.into_iter().map(|(lane, _)| lane).collect();
        let mut stopped: HashSet<usize> = HashSet::new();
        for ((index, record, open), claimed) in owners.into_iter().zip(answers) {
            if stopped.contains(&index) {
                if open && claimed == Claimed::Parked {
                    self.claims.release(record.event_id).await?;
                }
                continue;
            }
            match (claimed, open) {
                (Claimed::Yes { attempt }, true) => lanes[index].queue.push_back((record, attempt)),
                (Claimed::Yes { attempt }, false) => self.finished.push(finished(&record, attempt)),
                (Claimed::DuplicateDone | Claimed::Stale, false) => self.counters.skipped.add(1),
                (Claimed::InProgress, _) => {
                    stopped.insert(index);
                    let aggregate = lanes[index].aggregate.clone();
                    self.wait(&aggregate, Place::of(&record), "another process holds the claim");
                }
                (Claimed::Parked, false) => {}
                (Claimed::DuplicateDone, true) => {
                    // Decided by another process since the stream was read: read it again.
                    stopped.insert(index);
                    let aggregate = lanes[index].aggregate.clone();
                    self.parts.states.forget(&aggregate);
                    self.wait(&aggregate, Place::of(&record), "done elsewhere");
                }
                (Claimed::Parked | Claimed::Stale, true) => {
                    stopped.insert(index);
                    self.reclaim(&record, &lanes[index].aggregate).await?;
                }
            }
        }
        for (index, lane) in lanes.iter().enumerate() {
            if lane.queue.is_empty() && !stopped.contains(&index) {
                self.held.progressed(&lane.aggregate);
            }
        }
        lanes.retain(|lane| !lane.queue.is_empty());
        Ok(lanes)
    }

    /// The log has no outcome of this command, so it is to be decided whatever its row says: the log is the truth.
    async fn reclaim(&mut self, record: &Record, aggregate: &Aggregate) -> Result<(), Error> {
        self.claims.release(record.event_id).await?;
        self.held.wait(aggregate, Place::of(record), self.parts.clock.monotonic());
        Ok(())
    }

    /// Decides the first command of every lane and appends the outcomes; gives the lanes that have more.
    async fn wave(&mut self, lanes: Vec<Lane>) -> Result<Vec<Lane>, Error> {
        let mut rest: HashMap<Aggregate, VecDeque<(Record, u32)>> = HashMap::new();
        let mut jobs = Vec::with_capacity(lanes.len());
        for mut lane in lanes {
            let Some((record, attempt)) = lane.queue.pop_front() else { continue };
            if !lane.queue.is_empty() {
                rest.insert(lane.aggregate, lane.queue);
            }
            jobs.push(Job { record, attempt, stream: lane.stream, active: lane.active });
        }
        let claimed: Vec<Uuid> = jobs.iter().map(|job| job.record.event_id).collect();
        let deciding = decide(&self.parts.states, &self.parts.metrics, jobs, self.parts.clock.now());
        let answers = self.heartbeating(&claimed, deciding).await?;
        let mut pending = Vec::with_capacity(answers.len());
        for (job, answer) in answers {
            match answer {
                Answer::Decided(decided) => pending.push(Pending { job, decided: *decided }),
                Answer::Failed { reason, message } => self.failed(&job, reason, message).await?,
                Answer::Unavailable(message) => self.wait(job.stream.aggregate(), Place::of(&job.record), &message),
            }
        }
        let appended = self.append(pending).await?;
        let mut next = Vec::new();
        for (job, result) in appended {
            if let Some(lane) = self.settle(job, result, &mut rest).await? {
                next.push(lane);
            }
        }
        Ok(next)
    }

    /// Renews the claims while something takes long.
    async fn heartbeating<T>(&self, claimed: &[Uuid], work: impl Future<Output = T>) -> Result<T, Error> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = self.parts.clock.sleep(self.options.heartbeat_interval) => {
                    self.claims.heartbeat(claimed).await?;
                }
            }
        }
    }

    /// Appends what the decisions issued, then the outcomes of those whose commands are all in the log.
    async fn append(&mut self, pending: Vec<Pending>) -> Result<Vec<(Job, Result<Appended, AppendError>)>, Error> {
        let mut jobs = Vec::with_capacity(pending.len());
        let mut outcomes = Vec::with_capacity(pending.len());
        let mut results = Vec::new();
        for Pending { job, decided } in pending {
            let issued =
                if decided.issued.is_empty() { Vec::new() } else { self.parts.events.append_all(decided.issued).await };
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
            results.extend(jobs.into_iter().zip(self.parts.events.append_all(outcomes).await));
        }
        Ok(results)
    }

    /// What an append's answer means for its lane.
    async fn settle(
        &mut self,
        job: Job,
        result: Result<Appended, AppendError>,
        rest: &mut HashMap<Aggregate, VecDeque<(Record, u32)>>,
    ) -> Result<Option<Lane>, Error> {
        let Job { record, attempt, mut stream, active } = job;
        let aggregate = stream.aggregate().clone();
        match result {
            Ok(appended) => {
                self.finished.push(finished(&record, attempt));
                let connected = !appended.replayed && appended.records.iter().all(|r| stream.push(r));
                // One with more to decide stays noted: an attempt cut short takes it up again.
                self.held.advanced(&aggregate);
                match (connected, rest.remove(&aggregate)) {
                    (true, Some(queue)) => return Ok(Some(Lane { aggregate, stream, active, queue })),
                    (true, None) => self.parts.states.keep(stream),
                    (false, more) => {
                        self.parts.states.forget(&aggregate);
                        if more.is_some() {
                            self.held.wait(&aggregate, Place::of(&record), self.parts.clock.monotonic());
                        }
                    }
                }
                self.held.progressed(&aggregate);
                Ok(None)
            }
            Err(error) => {
                self.parts.states.forget(&aggregate);
                match error.kind() {
                    // Another worker decided meanwhile: look again at once.
                    Kind::Conflict => self.held.wait(&aggregate, Place::of(&record), self.parts.clock.monotonic()),
                    Kind::Unavailable | Kind::Unknown => self.wait(&aggregate, Place::of(&record), &error.to_string()),
                    _ => {
                        let job = Job { record, attempt, stream, active };
                        self.failed(&job, "limit", format!("the outcome cannot be stored: {error}")).await?;
                    }
                }
                Ok(None)
            }
        }
    }

    fn wait(&mut self, aggregate: &Aggregate, first: Place, why: &str) {
        tracing::debug!(consumer = self.options.consumer, %aggregate, why, "waits");
        self.held.wait(aggregate, first, self.parts.clock.monotonic() + WAIT);
    }

    /// A failed attempt: tried again with back-off, parked after the last.
    async fn failed(&mut self, job: &Job, reason: &str, message: String) -> Result<(), Error> {
        let consumer = &self.options.consumer;
        let aggregate = job.stream.aggregate();
        let failures = self.held.fail(aggregate, Place::of(&job.record), self.parts.clock.monotonic());
        self.counters.failed.add(1);
        let last = failures >= self.options.attempts_max;
        let command_id = job.record.event_id;
        tracing::warn!(consumer, %aggregate, %command_id, reason, failures, last, message, "decision failed");
        if last {
            let error = message.clone();
            self.parts.parking.park(ParkRequest { consumer, record: &job.record, reason, error }).await?;
        }
        let status = if last { Status::Parked } else { Status::Failed };
        self.claims.fail(&finished(&job.record, job.attempt), status, &message).await?;
        if last {
            self.held.park(aggregate, Place::of(&job.record));
            let behind: Vec<Record> = job.stream.undecided().iter().skip(1).cloned().collect();
            self.claims.park_behind(&behind).await?;
        }
        Ok(())
    }

    /// Marks the rows of what was decided; on an error all of it is left for the next attempt.
    pub(super) async fn mark_done(&mut self) -> Result<(), Error> {
        let count = self.claims.done(&self.finished).await?;
        self.finished.clear();
        self.counters.processed.add(count as u64);
        Ok(())
    }
}
