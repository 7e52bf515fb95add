//! Decides a wave of commands, at most one of each aggregate, in the sandbox. What guests need to read is fetched
//! between rounds. The first command goes ahead alone: what it reads, the others mostly read as well, and each of them
//! is then decided in one go, while its instance and its texts are in the core's cache.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use uuid::Uuid;

use super::outcome::{Decided, Ending, HostRefusal, appends};
use crate::codec::envelope::{CommandData, Envelope, HandlerRef, ReadRef};
use crate::codec::json::Json;
use crate::domain::{Aggregate, Digest, Partition, Sequence, Timestamp};
use crate::error::{Classified, Kind};
use crate::event_store::Record;
use crate::metrics::Metrics;
use crate::sandbox::{ActiveHandler, AggregateRef, CallContext, Command, Decision, Failure, ReadValue, is_cut_short};
use crate::state::{Error, Folded, States, Stream, call_guests_for_each};

/// Rounds of `needs` for one command (design §3).
const NEEDS_ROUNDS_MAX: usize = 8;
/// Aggregates that one decision may read (design §3).
const READS_MAX: usize = 64;
/// Decisions that may be open at once: each holds an instance of the sandbox's pool between its rounds, and other
/// consumers need some as well.
const OPEN_DECISIONS_MAX: usize = 48;
/// Commands for which one thread is enough: about two milliseconds of work.
const JOBS_PER_THREAD: usize = 32;

/// Cores of this machine: asking costs a dozen system calls.
static CORES: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

/// One command of one aggregate.
#[derive(Debug)]
pub struct Job {
    pub record: Record,
    pub attempt: u32,
    pub stream: Stream,
    pub active: Arc<ActiveHandler>,
}

/// What became of a job.
#[derive(Debug)]
pub enum Answer {
    Decided(Box<Decided>),
    /// The handler or the host's limits: retried, then parked.
    Failed {
        reason: &'static str,
        message: String,
    },
    /// A part is away: nothing is known, try again later.
    Unavailable(String),
}

/// A state that a decision read; absent: sequence 0.
#[derive(Debug, Clone)]
struct Read {
    aggregate: Aggregate,
    sequence: Sequence,
    schema_version: Arc<str>,
    state: Option<Json>,
    digest: Option<Digest>,
    upcasters: Arc<[Digest]>,
}

/// Why a state could not be read.
#[derive(Debug, Clone)]
struct Unread {
    /// The handler of that aggregate cannot fold its history: waiting does not help.
    for_good: bool,
    message: String,
}

/// The states that decisions of a wave asked for, as they were when the first asked.
type Known = HashMap<Aggregate, Result<Read, Unread>>;

/// A job between rounds.
struct Open {
    job: Job,
    folded: Option<Folded>,
    decision: Option<Decision>,
    have: Vec<Read>,
    wanted: Vec<Aggregate>,
    rounds: usize,
}

enum Step {
    Done(Box<(Job, Answer)>),
    Needs(Box<Open>),
}

/// Decides every job. The answers come in no particular order.
pub async fn decide(states: &States, metrics: &Metrics, jobs: Vec<Job>, now: Timestamp) -> Vec<(Job, Answer)> {
    let Some(own) = jobs.first().map(|job| job.record.partition) else { return Vec::new() };
    let mut done = Vec::with_capacity(jobs.len());
    let mut known = Arc::new(Known::new());
    let mut jobs = jobs.into_iter().map(Open::new);
    let mut open: Vec<Open> = jobs.by_ref().take(1).collect();
    while !open.is_empty() {
        let mut waiting = Vec::new();
        for step in run(open, &known, metrics, now).await {
            match step {
                Step::Done(answered) => done.push(*answered),
                Step::Needs(job) => waiting.push(*job),
            }
        }
        let wanted: HashSet<&Aggregate> = waiting.iter().flat_map(|job| &job.wanted).collect();
        let missing = wanted.into_iter().filter(|aggregate| !known.contains_key(*aggregate)).cloned().collect();
        fetch(states, missing, own, Arc::make_mut(&mut known)).await;
        let places = OPEN_DECISIONS_MAX - waiting.len();
        open = waiting;
        open.extend(jobs.by_ref().take(places));
    }
    done
}

/// One round for all jobs, spread over the cores.
async fn run(open: Vec<Open>, known: &Arc<Known>, metrics: &Metrics, now: Timestamp) -> Vec<Step> {
    let threads = open.len().div_ceil(JOBS_PER_THREAD).clamp(1, *CORES);
    let size = open.len().div_ceil(threads);
    let mut open = open.into_iter();
    let mut shares = Vec::new();
    while open.len() > 0 {
        shares.push(Share { open: open.by_ref().take(size).collect(), steps: Vec::with_capacity(size) });
    }
    let (known, metrics) = (known.clone(), metrics.clone());
    let done = call_guests_for_each(shares, move |share: &mut Share| share.advance(&known, &metrics, now)).await;
    done.into_iter().flat_map(|(share, ())| share.steps).collect()
}

/// Jobs that one thread advances.
struct Share {
    open: VecDeque<Open>,
    steps: Vec<Step>,
}

impl Share {
    /// Advances each job; one that was cut short begins anew when this is called again.
    fn advance(&mut self, known: &Known, metrics: &Metrics, now: Timestamp) {
        while let Some(job) = self.open.pop_front() {
            match job.advance(known, metrics, now) {
                Step::Done(answered) if is_cut_short() => return self.open.push_front(Open::new(answered.0)),
                step => self.steps.push(step),
            }
        }
    }
}

/// Loads states that some job asked for and none has loaded yet in this wave.
async fn fetch(states: &States, missing: Vec<Aggregate>, own: Partition, known: &mut Known) {
    for (aggregate, loaded) in states.load_many(missing, own).await {
        let read = match loaded {
            // What does not exist has no version: the read set alone must say what was read (I8).
            Ok(folded) if folded.sequence == Sequence(0) => Ok(Read::absent(aggregate.clone())),
            Ok(folded) => Ok(Read::of(aggregate.clone(), folded)),
            Err(Error::NoHandler { .. }) => Ok(Read::absent(aggregate.clone())),
            Err(error) => Err(Unread { for_good: error.kind() == Kind::Poison, message: error.to_string() }),
        };
        known.insert(aggregate, read);
    }
}

impl Read {
    fn of(aggregate: Aggregate, folded: Folded) -> Read {
        Read {
            aggregate,
            sequence: folded.sequence,
            schema_version: folded.schema_version,
            state: folded.state,
            digest: (folded.sequence.0 > 0).then_some(folded.handler_digest),
            upcasters: folded.upcasters,
        }
    }

    fn absent(aggregate: Aggregate) -> Read {
        Read {
            aggregate,
            sequence: Sequence(0),
            schema_version: "1.0.0".into(),
            state: None,
            digest: None,
            upcasters: Arc::default(),
        }
    }

    fn value(&self) -> ReadValue<'_> {
        ReadValue {
            source: AggregateRef::from(&self.aggregate),
            seq: self.sequence.0,
            schema_version: &self.schema_version,
            state: self.state.as_ref().map(Json::as_str),
        }
    }

    fn reference(&self) -> ReadRef {
        ReadRef {
            aggregate_type: self.aggregate.kind.as_str().into(),
            aggregate_id: self.aggregate.id.as_str().into(),
            sequence_number: self.sequence,
            handler_digest: self.digest,
            upcasters: self.upcasters.clone(),
        }
    }
}

impl Open {
    fn new(job: Job) -> Open {
        Open { job, folded: None, decision: None, have: Vec::new(), wanted: Vec::new(), rounds: 0 }
    }

    /// An activation is judged against what is active then; this handler may be the one of before, or have been put in
    /// charge at the same moment by another process. The command waits until those in charge fit together.
    fn check_version(&self, read: &Read) -> Result<(), Unread> {
        let (active, kind, version) = (&self.job.active, read.aggregate.kind.as_str(), &read.schema_version);
        if read.state.is_none() || active.handler.description().understands(kind, version) {
            return Ok(());
        }
        let message = format!("{} does not understand {kind} in version {version}, which is active", active.name);
        Err(Unread { for_good: false, message })
    }

    /// Moves what it wants into the job, when all of it is known.
    fn take_reads(&mut self, known: &Known) -> Result<(), Unread> {
        if self.wanted.iter().all(|aggregate| known.contains_key(aggregate)) {
            for aggregate in std::mem::take(&mut self.wanted) {
                let read = known[&aggregate].clone()?;
                self.check_version(&read)?;
                self.have.push(read);
            }
        }
        Ok(())
    }

    /// Asks `needs` while what it names is known, and decides when it names nothing new.
    fn advance(mut self, known: &Known, metrics: &Metrics, now: Timestamp) -> Step {
        let record = self.job.record.clone();
        let parsed = record.envelope().and_then(|envelope| envelope.command().map(|command| (envelope, command)));
        let (envelope, command) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return self.failed("fault", format!("the stored command cannot be read: {error}")),
        };
        if self.job.stream.predecessor_failed(command.expected_seq) {
            let message = format!("the command at sequence {} failed", command.expected_seq.unwrap_or_default());
            let refusal = HostRefusal { code: "predecessor-failed", message };
            return self.finish(&envelope, Ending::Refused(refusal), now);
        }
        loop {
            match self.take_reads(known) {
                Ok(()) if self.wanted.is_empty() => {}
                Ok(()) => return Step::Needs(Box::new(self)),
                Err(Unread { for_good: true, message }) => return self.failed("fault", message),
                Err(Unread { for_good: false, message }) => return self.unavailable(message),
            }
            if self.rounds > NEEDS_ROUNDS_MAX {
                let message = format!("needs asked for more in each of {NEEDS_ROUNDS_MAX} rounds");
                return self.failed("limit", message);
            }
            self.rounds += 1;
            match self.ask(&record, &envelope, &command, metrics) {
                Ok(Some(ending)) => return self.finish(&envelope, ending, now),
                Ok(None) => {}
                Err(AskError::Failure(failure)) => return self.failure(&failure),
                Err(AskError::State(error)) if error.kind() == Kind::Unavailable => {
                    return self.unavailable(error.to_string());
                }
                Err(AskError::State(error)) => return self.failed("fault", error.to_string()),
            }
        }
    }

    fn ask(
        &mut self,
        record: &Record,
        envelope: &Envelope<'_>,
        data: &CommandData<'_>,
        metrics: &Metrics,
    ) -> Result<Option<Ending>, AskError> {
        let handler = &self.job.active.handler;
        let folded = match self.folded.take() {
            Some(folded) => folded,
            None => self.job.stream.fold(handler).map_err(AskError::State)?,
        };
        let id = record.event_id.to_string();
        let command = Command {
            id: &id,
            name: &data.command_type,
            target: AggregateRef::from(&record.aggregate),
            expected_seq: data.expected_seq,
            payload: data.payload.get(),
            actor: Some(&envelope.actor),
            headers: &[],
        };
        let started = Instant::now();
        let mut decision = match self.decision.take() {
            Some(decision) => decision,
            None => handler.decision(CallContext { now: envelope.occurred_at, seed: seed(record.event_id) })?,
        };
        let reads: Vec<ReadValue<'_>> = self.have.iter().map(Read::value).collect();
        let mut wanted = decision.needs(&command, folded.state.as_ref().map(Json::as_str), &reads)?;
        let mut seen = HashSet::new();
        wanted.retain(|a| !self.have.iter().any(|read| read.aggregate == *a) && seen.insert(a.clone()));
        if wanted.len() + self.have.len() > READS_MAX {
            let message = format!("a decision may read {READS_MAX} aggregates");
            return Err(Failure::Limit { which: crate::sandbox::LimitKind::Count, message }.into());
        }
        if !wanted.is_empty() {
            self.wanted = wanted;
            self.folded = Some(folded);
            self.decision = Some(decision);
            return Ok(None);
        }
        let verdict = decision.decide(folded.state.as_ref().map(Json::as_str), &command, &reads)?;
        metrics.call(&self.job.active.name, "decide").observe(started.elapsed(), None);
        Ok(Some(Ending::Verdict(verdict)))
    }

    fn finish(self, envelope: &Envelope<'_>, ending: Ending, now: Timestamp) -> Step {
        let description = self.job.active.handler.description();
        let handler = HandlerRef {
            name: self.job.active.name.clone(),
            version: description.version.as_str().into(),
            digest: self.job.active.handler.digest(),
            revision: self.job.active.revision,
            upcasters: self.job.stream.used_upcasters().to_vec(),
        };
        let read_set: Vec<ReadRef> = self.have.iter().map(Read::reference).collect();
        let last_domain = self.job.stream.last_domain();
        let decided = appends(
            &self.job.record,
            envelope,
            ending,
            Some(&handler),
            &read_set,
            last_domain,
            now.max(envelope.occurred_at),
        );
        match decided {
            Ok(decided) => Step::Done(Box::new((self.job, Answer::Decided(Box::new(decided))))),
            Err(error) => self.failed("limit", format!("the handler's output is not acceptable: {error}")),
        }
    }

    fn failure(self, failure: &Failure) -> Step {
        if failure.kind() == Kind::Unavailable {
            return self.unavailable(failure.to_string());
        }
        let reason = match failure {
            Failure::Fault { .. } => "fault",
            Failure::Trap { .. } => "trap",
            Failure::Limit { .. } => "limit",
        };
        self.failed(reason, failure.to_string())
    }

    fn unavailable(self, message: String) -> Step {
        Step::Done(Box::new((self.job, Answer::Unavailable(message))))
    }

    fn failed(self, reason: &'static str, message: String) -> Step {
        Step::Done(Box::new((self.job, Answer::Failed { reason, message })))
    }
}

enum AskError {
    Failure(Failure),
    State(Error),
}

impl From<Failure> for AskError {
    fn from(failure: Failure) -> Self {
        AskError::Failure(failure)
    }
}

/// The seed a handler sees for a command: the two halves of its id.
pub fn seed(command_id: Uuid) -> (u64, u64) {
    command_id.as_u64_pair()
}
