//! The fold of one aggregate's stream: its state as the handler sees it, and what the host must know besides. Pure: it
//! is given records and a handler, and performs no I/O.
//!
//! A stream is split in two steps so that guests never run on the threads that do I/O: [`Stream::push`] takes records
//! in order and keeps what is not folded yet, [`Stream::fold`] calls `evolve` once for all of them.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Error, Upcasters};
use crate::codec::json::Json;
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

/// A command whose outcome decides the fate of one that relied on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decided {
    command: Sequence,
    failed: bool,
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
        }
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

    /// Bytes this stream holds, roughly; for bounded caches.
    pub fn weight(&self) -> usize {
        let records = self.unfolded.iter().chain(&self.undecided).map(|r| r.line.len() + 200).sum::<usize>();
        256 + self.state.as_ref().map_or(0, |s| s.as_str().len()) + records
    }

    /// Takes the next record. Gives `false`, and takes nothing, when it is not the next one: a gap is to be filled from
    /// the log; a record already taken is no gap and gives `true`.
    pub fn push(&mut self, record: &Record) -> bool {
        if record.sequence <= self.sequence {
            return true;
        }
        if record.sequence.0 != self.sequence.0 + 1 {
            return false;
        }
        self.sequence = record.sequence;
        match record.kind {
            EventKind::Command => self.undecided.push(record.clone()),
            EventKind::Domain => {
                self.last_domain = record.sequence;
                self.note_outcome(record);
                if !event_type::is_host_outcome(&record.event_type) {
                    self.unfolded.push(record.clone());
                }
            }
        }
        true
    }

    fn note_outcome(&mut self, record: &Record) {
        let Some(index) = self.undecided.iter().position(|c| Some(c.event_id) == record.command_id) else {
            return;
        };
        let command = self.undecided.remove(index);
        let failed = &*record.event_type == event_type::COMMAND_FAILED;
        self.last_decided = Some(Decided { command: command.sequence, failed });
    }

    /// Whether a command that expects `expected` relied on a command that failed.
    pub fn predecessor_failed(&self, expected: Option<u64>) -> bool {
        self.last_decided.is_some_and(|last| last.failed && expected == Some(last.command.0))
    }

    /// Calls `evolve` for what is not folded yet. On a failure nothing has changed.
    pub fn fold(&mut self, handler: &Handler) -> Result<Folded, Error> {
        if !self.unfolded.is_empty() {
            let mut state = self.state.clone();
            let mut used = self.used.to_vec();
            for chunk in self.unfolded.chunks(EVOLVE_EVENTS_MAX) {
                let presented = self.upcasters.present(handler, chunk)?;
                used.extend(presented.used());
                let evolved = handler.evolve(state.as_ref().map(Json::as_str), &presented.events());
                state = evolved.map_err(|failure| Error::Evolve {
                    handler: handler.description().name.clone(),
                    aggregate: self.aggregate.clone(),
                    sequence: chunk.last().map_or(0, |r| r.sequence.0),
                    failure,
                })?;
            }
            self.state = state;
            if used.len() > self.used.len() {
                let mut seen = HashSet::new();
                used.retain(|digest| seen.insert(*digest));
                self.used = used.into();
            }
            self.unfolded = Vec::new();
        }
        Ok(self.folded())
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
