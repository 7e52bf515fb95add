//! The fold of one aggregate's stream: its state as the handler sees it, and what the host must know besides. Pure: it
//! is given records and a handler, and performs no I/O.
//!
//! A stream is split in two steps so that guests never run on the threads that do I/O: [`Stream::push`] takes records
//! in order and keeps what is not folded yet, [`Stream::fold`] calls `evolve` once for all of them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use super::{Error, Upcasters};
use crate::codec::json::Json;
use crate::codec::snapshot::{Decided, Folder, Snapshot};
use crate::domain::{Aggregate, Digest, EventKind, Sequence, event_type};
use crate::event_store::Record;
use crate::sandbox::Handler;

/// Events passed to one call of `evolve`. Lists are cheap (0.3 µs an event) but the guest's memory is bounded.
const EVOLVE_EVENTS_MAX: usize = 1_000;

/// A state as of one sequence.
#[derive(Debug, Clone)]
pub struct Folded {
    /// Sequence of the last event this state knows of (commands included).
    pub sequence: Sequence,
    /// Sequence of the last domain event.
    pub last_domain: Sequence,
    /// The state as JSON; `None` when the aggregate does not exist (never did, or was deleted).
    pub state: Option<Json>,
    /// Digest of the handler that folded it.
    pub handler_digest: Digest,
    /// Version of the state, as the handler's manifest declares it.
    pub schema_version: Arc<str>,
    /// Digests of the upcasters that stood between the events and the handler, in the order of their first call.
    pub upcasters: Arc<[Digest]>,
}

/// What a snapshot says besides the state, as of an event at which one is due.
#[derive(Debug, Clone)]
struct Mark {
    sequence: Sequence,
    event_id: Uuid,
    last_domain: Sequence,
    first_undecided: Option<Sequence>,
    last_decided: Option<Decided>,
}

/// The stream of an aggregate as far as it was read.
#[derive(Debug, Clone)]
pub struct Stream {
    aggregate: Aggregate,
    digest: Digest,
    upcasters: Upcasters,
    schema_version: Arc<str>,
    sequence: Sequence,
    last_domain: Sequence,
    state: Option<Json>,
    /// The upcasters that were called for `state`.
    used: Arc<[Digest]>,
    /// Domain events that `state` does not contain yet, oldest first.
    unfolded: Vec<Record>,
    /// Commands without an outcome, oldest first.
    undecided: Vec<Record>,
    /// The last command decided: one command can rely only on its direct predecessor.
    last_decided: Option<Decided>,
    /// What `state` held when it was taken from a snapshot: of records up to here only the undecided commands count.
    restored_to: Sequence,
    /// Events from one snapshot to the next; 0: none are made.
    interval: u64,
    /// The last event passed at which a snapshot is due, until it is folded.
    mark: Option<Mark>,
    /// A snapshot that nobody has taken yet.
    snapshot: Option<Box<Snapshot>>,
}

impl Stream {
    /// A stream of which nothing was read, to be folded by this handler behind these upcasters.
    pub fn new(aggregate: Aggregate, handler: &Handler, upcasters: Upcasters) -> Stream {
        Stream {
            aggregate,
            digest: handler.digest(),
            upcasters,
            schema_version: state_version(handler).into(),
            sequence: Sequence(0),
            last_domain: Sequence(0),
            state: None,
            used: Arc::default(),
            unfolded: Vec::new(),
            undecided: Vec::new(),
            last_decided: None,
            restored_to: Sequence(0),
            interval: 0,
            mark: None,
            snapshot: None,
        }
    }

    /// The stream as a snapshot of this handler and these upcasters left it. The records to be pushed begin with the
    /// oldest command that was undecided then.
    pub fn restored(snapshot: Snapshot, handler: &Handler, upcasters: Upcasters) -> Stream {
        let Snapshot { aggregate, sequence, last_domain, first_undecided, last_decided, used, state, .. } = snapshot;
        Stream {
            sequence: first_undecided.map_or(sequence, |first| Sequence(first.0.saturating_sub(1)).min(sequence)),
            last_domain,
            state,
            used: used.into(),
            last_decided,
            restored_to: sequence,
            ..Stream::new(aggregate, handler, upcasters)
        }
    }

    /// Makes a snapshot whenever an event whose sequence is a multiple of this was folded.
    #[must_use]
    pub fn snapshot_every(self, interval: u64) -> Stream {
        Stream { interval, ..self }
    }

    /// The last snapshot made, once. It lacks the store's id, which a stream does not know.
    pub fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.snapshot.take().map(|snapshot| *snapshot)
    }

    /// The aggregate.
    pub fn aggregate(&self) -> &Aggregate {
        &self.aggregate
    }

    /// Whether this handler behind these upcasters would fold it alike.
    pub fn is_folded_by(&self, handler: &Handler, upcasters: &Upcasters) -> bool {
        self.digest == handler.digest() && self.upcasters == *upcasters
    }

    /// The upcasters that were called for the state of a stream that is folded.
    pub fn used_upcasters(&self) -> &[Digest] {
        &self.used
    }

    /// Sequence of the last record taken.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Sequence of the last domain event taken: what a worker's append expects (I3).
    pub fn last_domain(&self) -> Sequence {
        self.last_domain
    }

    /// Commands without an outcome, oldest first.
    pub fn undecided(&self) -> &[Record] {
        &self.undecided
    }

    /// Bytes this stream holds, without what it shares with others; for bounded caches.
    pub fn weight(&self) -> usize {
        let lines: usize = self.unfolded.iter().chain(&self.undecided).map(|record| record.line.len()).sum();
        let records = (self.unfolded.capacity() + self.undecided.capacity()) * size_of::<Record>();
        let state = |state: &Option<Json>| state.as_ref().map_or(0, |s| s.as_str().len());
        let states = state(&self.state) + self.snapshot.as_ref().map_or(0, |snapshot| state(&snapshot.state));
        size_of::<Stream>() + self.aggregate.id.as_str().len() + states + records + lines
    }

    /// Gives back the room for records that it does not hold.
    pub fn shrink(&mut self) {
        self.unfolded.shrink_to_fit();
        self.undecided.shrink_to_fit();
    }

    /// Takes the next record. Gives `false`, and takes nothing, when it is not the next one: a gap is to be filled from
    /// the log; a record already taken is no gap and gives `true`. What is kept of it is a copy: streams are cached,
    /// and a slice would hold its whole segment.
    pub fn push(&mut self, record: &Record) -> bool {
        if record.sequence <= self.sequence {
            return true;
        }
        if record.sequence.0 != self.sequence.0 + 1 {
            return false;
        }
        self.sequence = record.sequence;
        match record.kind {
            EventKind::Command => self.undecided.push(record.detached()),
            EventKind::Domain if record.sequence <= self.restored_to => drop(self.take_decided(record)),
            EventKind::Domain => {
                self.last_domain = record.sequence;
                if let Some(command) = self.take_decided(record) {
                    let failed = &*record.event_type == event_type::COMMAND_FAILED;
                    self.last_decided = Some(Decided { command: command.sequence, failed });
                }
                if !event_type::is_host_outcome(&record.event_type) {
                    self.unfolded.push(record.detached());
                }
            }
        }
        if self.interval > 0 && record.sequence.0.is_multiple_of(self.interval) && record.sequence > self.restored_to {
            self.mark = Some(Mark {
                sequence: record.sequence,
                event_id: record.event_id,
                last_domain: self.last_domain,
                first_undecided: self.undecided.first().map(|command| command.sequence),
                last_decided: self.last_decided,
            });
        }
        true
    }

    /// Takes the command out of the undecided ones whose outcome this is.
    fn take_decided(&mut self, record: &Record) -> Option<Record> {
        let index = self.undecided.iter().position(|command| Some(command.event_id) == record.command_id)?;
        Some(self.undecided.remove(index))
    }

    /// Whether a command that expects `expected` relied on a command that failed.
    pub fn predecessor_failed(&self, expected: Option<u64>) -> bool {
        self.last_decided.is_some_and(|last| last.failed && expected == Some(last.command.0))
    }

    /// Calls `evolve` for what is not folded yet. After a failure what was folded stays folded, and the rest unfolded.
    pub fn fold(&mut self, handler: &Handler) -> Result<Folded, Error> {
        if let Some(mark) = &self.mark {
            let due = self.unfolded.partition_point(|record| record.sequence <= mark.sequence);
            let (state, used) = self.evolve(handler, self.state.clone(), self.used.clone(), 0..due)?;
            (self.state, self.used) = (state, used);
            self.unfolded.drain(..due);
            self.snapshot = self.mark.take().map(|mark| Box::new(self.snapshot_at(mark)));
        }
        if !self.unfolded.is_empty() {
            let all = 0..self.unfolded.len();
            (self.state, self.used) = self.evolve(handler, self.state.clone(), self.used.clone(), all)?;
            self.unfolded = Vec::new();
        }
        Ok(self.folded())
    }

    /// A state with some of the unfolded events folded into it, and the upcasters that were called so far.
    fn evolve(
        &self,
        handler: &Handler,
        mut state: Option<Json>,
        used: Arc<[Digest]>,
        events: Range<usize>,
    ) -> Result<(Option<Json>, Arc<[Digest]>), Error> {
        let mut all_used = used.to_vec();
        for chunk in self.unfolded[events].chunks(EVOLVE_EVENTS_MAX) {
            let presented = self.upcasters.present(handler, chunk)?;
            let new = presented.used().iter().filter(|digest| !used.contains(digest));
            all_used.extend(new);
            let evolved = handler.evolve(state.as_ref().map(Json::as_str), &presented.events());
            state = evolved.map_err(|failure| Error::Evolve {
                handler: handler.description().name.clone(),
                aggregate: self.aggregate.clone(),
                sequence: chunk.last().map_or(0, |r| r.sequence.0),
                failure,
            })?;
        }
        if all_used.len() == used.len() {
            return Ok((state, used));
        }
        let mut seen = HashSet::new();
        all_used.retain(|digest| seen.insert(*digest));
        Ok((state, all_used.into()))
    }

    fn snapshot_at(&self, mark: Mark) -> Snapshot {
        Snapshot {
            store: Uuid::nil(),
            aggregate: self.aggregate.clone(),
            sequence: mark.sequence,
            event_id: mark.event_id,
            last_domain: mark.last_domain,
            first_undecided: mark.first_undecided,
            last_decided: mark.last_decided,
            folder: Folder { handler: self.digest, upcasters: self.upcasters.digests().collect() },
            used: self.used.to_vec(),
            state: self.state.clone(),
        }
    }

    /// Whether [`Stream::fold`] has nothing to do.
    pub fn is_folded(&self) -> bool {
        self.unfolded.is_empty()
    }

    /// The state of a stream that is folded.
    pub fn folded(&self) -> Folded {
        debug_assert!(self.is_folded(), "events are left to fold");
        Folded {
            sequence: self.sequence,
            last_domain: self.last_domain,
            state: self.state.clone(),
            handler_digest: self.digest,
            schema_version: self.schema_version.clone(),
            upcasters: self.used.clone(),
        }
    }
}

/// Version of the states that a handler folds; 1.0.0 when its manifest names none.
fn state_version(handler: &Handler) -> String {
    let versions = handler.description().state.iter().flat_map(|contract| &contract.versions);
    versions.max().map_or_else(|| "1.0.0".to_owned(), ToString::to_string)
}
