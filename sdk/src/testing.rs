//! The harness for a handler's unit tests: `given(events).when(command).then(events)`.
//!
//! Calls go through the same text boundary as in the host. Besides the answer every scenario checks what the
//! host relies on: deciding twice gives equal bytes, folding any split of the history equals folding the whole,
//! and states, commands and events survive being written and read again (I8). A failed check panics with what
//! was expected, like an assertion.

use crate::{
    Aggregate, Change, Command, Context, Description, DocKey, Document, Fault, InstanceHandler, Message, Named,
    NewCommand, Problem, ProjectionHandler, ReadValue, Reads, RecordedEvent, Stored, Timestamp, UpcasterHandler,
    Verdict, Write, glue,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::marker::PhantomData;

/// The host's own bounds on `needs`.
const ROUNDS_MAX: usize = 8;
const READS_MAX: usize = 64;

/// The command id of every scenario.
pub const COMMAND_ID: &str = "7b1f2f4e-64a5-4c53-9d5c-2f0f5d1c9a10";
/// The time of every scenario: 2025-12-17T00:00:00Z.
pub const NOW: Timestamp = Timestamp { seconds: 1_765_929_600, nanoseconds: 0 };

/// What has happened to the aggregate, and what else exists.
pub struct Given<H> {
    target: Aggregate,
    history: Vec<RecordedEvent>,
    world: BTreeMap<Aggregate, String>,
    handler: PhantomData<H>,
}

/// Starts a scenario on the first kind of the manifest, with the id `test-1`.
pub fn given<H: InstanceHandler>(events: impl IntoIterator<Item = impl Named>) -> Given<H> {
    let kind = glue::describe::<H>().kinds.into_iter().next().expect("the manifest names a kind");
    let target = Aggregate::new(kind, "test-1");
    let history = history_of(&target, 0, events);
    Given { target, history, world: BTreeMap::new(), handler: PhantomData }
}

/// Starts a scenario on an aggregate that does not exist yet.
pub fn given_nothing<H: InstanceHandler>() -> Given<H> {
    given::<H>(std::iter::empty::<(&str, Value)>())
}

impl<H: InstanceHandler> Given<H> {
    /// Puts the scenario onto another aggregate.
    #[must_use]
    pub fn on(mut self, kind: &str, id: &str) -> Self {
        self.target = Aggregate::new(kind, id);
        for event in &mut self.history {
            event.source = self.target.clone();
        }
        self
    }

    /// Another aggregate exists with this state. A handler sees it only if its `needs` asks for it.
    #[must_use]
    pub fn reading(mut self, kind: &str, id: &str, state: &Value) -> Self {
        self.world.insert(Aggregate::new(kind, id), state.to_string());
        self
    }

    /// The state that the history folds to.
    pub fn state(&self) -> Option<Value> {
        fold::<H>(None, &self.history).map(|state| serde_json::from_str(&state).expect("a state is JSON"))
    }

    /// Lets the handler decide a command: one of its enum, or `("NAME", json!({…}))`.
    pub fn when(self, command: impl Named) -> Decided<H> {
        let (name, _, payload) = command.named().expect("the command is written as JSON");
        let command = Command {
            id: COMMAND_ID.into(),
            name,
            target: self.target.clone(),
            expected_seq: None,
            payload,
            actor: Some("tester".into()),
            headers: Vec::new(),
        };
        check_round_trip::<H::Command>("command", &command.name, None, &command.payload);
        let state = fold::<H>(None, &self.history);
        let (reads, verdict) = self.decide(&command, state.as_deref());
        Decided { reads, verdict, given: self }
    }

    fn decide(&self, command: &Command, state: Option<&str>) -> (Vec<Aggregate>, Result<Verdict, Fault>) {
        let mut have: Vec<ReadValue> = Vec::new();
        for round in 0.. {
            let asked = match glue::needs::<H>(command.clone(), state, have.clone()) {
                Ok(asked) => asked,
                Err(fault) => return (Vec::new(), Err(fault)),
            };
            let before = have.len();
            for source in asked {
                if have.iter().all(|value| value.source != source) {
                    have.push(self.read(source));
                }
            }
            if have.len() == before {
                break;
            }
            assert!(round < ROUNDS_MAX, "`needs` still asks for more after {ROUNDS_MAX} rounds");
            assert!(have.len() <= READS_MAX, "`needs` asks for more than {READS_MAX} aggregates");
        }
        let reads = have.iter().map(|value| value.source.clone()).collect();
        let context = Context { now: NOW, seed: (1, 2), reads: Reads::new(have) };
        let first = glue::decide::<H>(&context, state, command.clone());
        let second = glue::decide::<H>(&context, state, command.clone());
        assert_eq!(first, second, "deciding twice gives two answers");
        (reads, first)
    }

    fn read(&self, source: Aggregate) -> ReadValue {
        let state = self.world.get(&source).cloned();
        ReadValue { seq: u64::from(state.is_some()), schema_version: "1.0.0".into(), state, source }
    }
}

/// The answer to a command, to be checked.
pub struct Decided<H> {
    given: Given<H>,
    reads: Vec<Aggregate>,
    verdict: Result<Verdict, Fault>,
}

impl<H: InstanceHandler> Decided<H> {
    /// Accepted with exactly these events. Gives the scenario with the events added to its history, so that
    /// another command can follow.
    pub fn then(mut self, events: impl IntoIterator<Item = impl Named>) -> Given<H> {
        let Ok(Verdict::Accepted(outcome)) = &self.verdict else {
            panic!("expected events, the command was {:?}", self.verdict);
        };
        let made: Vec<(String, String, String)> = outcome
            .events
            .iter()
            .map(|event| (event.name.clone(), event.schema_version.clone(), event.data.clone()))
            .collect();
        let seen: Vec<(String, Value)> = made.iter().map(|(name, _, data)| (name.clone(), parsed(data))).collect();
        let wanted: Vec<(String, Value)> = events
            .into_iter()
            .map(|event| event.named().expect("the event is written as JSON"))
            .map(|(name, _, data)| (name, parsed(&data)))
            .collect();
        assert_eq!(seen, wanted, "other events than expected");
        let next = self.given.history.last().map_or(0, |event| event.seq);
        for (index, (name, version, data)) in made.into_iter().enumerate() {
            check_round_trip::<H::Event>("event", &name, Some(&version), &data);
            let seq = next + 1 + index as u64;
            self.given.history.push(recorded(&self.given.target, seq, name, version, data));
        }
        check_splits::<H>(&self.given.history);
        self.given
    }

    /// Refused, with this code first among the problems.
    pub fn then_rejected(self, code: &str) -> Given<H> {
        match &self.verdict {
            Ok(Verdict::Rejected(problems)) => {
                assert_eq!(problems.first().map(|problem| problem.code.as_str()), Some(code), "{problems:?}");
            }
            other => panic!("expected a refusal with {code}, the command was {other:?}"),
        }
        check_splits::<H>(&self.given.history);
        self.given
    }

    /// Valid, and nothing changes.
    pub fn then_unchanged(self) -> Given<H> {
        assert_eq!(self.verdict, Ok(Verdict::Unchanged), "expected no change");
        check_splits::<H>(&self.given.history);
        self.given
    }

    /// The handler says that it cannot do its job.
    pub fn then_fault(self, code: &str) {
        match &self.verdict {
            Err(fault) => assert_eq!(fault.code, code, "{fault}"),
            Ok(other) => panic!("expected the fault {code}, the command was {other:?}"),
        }
    }

    /// The problems of a refusal, for checks beyond the first code.
    pub fn problems(&self) -> &[Problem] {
        match &self.verdict {
            Ok(Verdict::Rejected(problems)) => problems,
            other => panic!("expected a refusal, the command was {other:?}"),
        }
    }

    /// The commands issued to other aggregates.
    pub fn commands(&self) -> &[NewCommand] {
        match &self.verdict {
            Ok(Verdict::Accepted(outcome)) => &outcome.commands,
            other => panic!("expected commands, the command was {other:?}"),
        }
    }

    /// The aggregates the decision asked for, in the order of asking.
    pub fn reads(&self) -> &[Aggregate] {
        &self.reads
    }
}

/// The manifest of a handler, as `describe` answers the host.
pub fn described<H: InstanceHandler>() -> Description {
    glue::describe::<H>()
}

/// The manifest of a projection.
pub fn described_projection<H: ProjectionHandler>() -> Description {
    glue::describe_projection::<H>()
}

/// The manifest of an upcaster.
pub fn described_upcaster<H: UpcasterHandler>() -> Description {
    glue::describe_upcaster::<H>()
}

/// One stored event through an upcaster; checks that doing it twice gives equal bytes, and that what it takes and makes
/// is declared: the host calls it for nothing else, and refuses anything else that it makes.
pub fn upcast<H: UpcasterHandler>(name: &str, version: &str, data: &Value) -> Vec<(String, String, Value)> {
    let stored = Stored { name: name.into(), schema_version: version.into(), data: data.to_string() };
    let first = H::upcast(stored.clone()).expect("the upcaster knows the event");
    let second = H::upcast(stored).expect("the upcaster knows the event");
    assert_eq!(first, second, "upcasting twice gives two answers");
    assert!(H::understands().contains(&(name, version)), "`understands` does not name {name} {version}");
    for Stored { name, schema_version, .. } in &first {
        let declared = H::makes().contains(&(name.as_str(), schema_version.as_str()));
        assert!(declared, "`makes` does not name {name} {schema_version}");
    }
    first.into_iter().map(|event| (event.name, event.schema_version, parsed(&event.data))).collect()
}

/// Runs a projection over a history and gives the documents and graph it leaves.
///
/// Checks that a projection in any two batches leaves the same as one batch, and that projecting twice gives
/// equal bytes.
pub fn projected<H: ProjectionHandler>(history: &[RecordedEvent]) -> Projected {
    let mut whole = Projected::default();
    whole.feed::<H>(history);
    for split in 1..history.len() {
        let mut parts = Projected::default();
        parts.feed::<H>(&history[..split]);
        parts.feed::<H>(&history[split..]);
        assert_eq!(parts, whole, "a split before event {split} leaves another read model");
    }
    whole
}

/// A recorded history of one aggregate, one second between events, numbered 2, 4, 6 … as commands lie between.
pub fn history(kind: &str, id: &str, events: impl IntoIterator<Item = impl Named>) -> Vec<RecordedEvent> {
    let mut all = history_of(&Aggregate::new(kind, id), 0, events);
    for (index, event) in (0u64..).zip(&mut all) {
        event.seq = 2 * (index + 1);
        event.at.seconds += index;
    }
    all
}

/// A read model as a projection leaves it.
#[derive(Debug, Default, PartialEq)]
pub struct Projected {
    documents: BTreeMap<DocKey, String>,
    nodes: BTreeMap<String, String>,
    edges: BTreeMap<(String, String), Vec<String>>,
}

impl Projected {
    pub fn document(&self, collection: &str, id: &str) -> Option<Value> {
        self.documents.get(&DocKey::new(collection, id)).map(|body| parsed(body))
    }

    /// The kind of a node, if there is one.
    pub fn node(&self, id: &str) -> Option<&str> {
        self.nodes.get(id).map(String::as_str)
    }

    /// The ids at the ends of a node's edges of one predicate.
    pub fn targets(&self, id: &str, predicate: &str) -> &[String] {
        self.edges.get(&(id.into(), predicate.into())).map_or(&[], Vec::as_slice)
    }

    fn feed<H: ProjectionHandler>(&mut self, events: &[RecordedEvent]) {
        let keys = glue::projection_needs::<H>(events.to_vec()).expect("`needs` knows the events");
        let have: Vec<Document> = keys
            .into_iter()
            .filter_map(|key| self.documents.get(&key).cloned().map(|body| Document { key, body }))
            .collect();
        let changes = glue::project::<H>(events.to_vec(), have.clone()).expect("`project` knows the events");
        let again = glue::project::<H>(events.to_vec(), have).expect("`project` knows the events");
        assert_eq!(changes, again, "projecting twice gives two answers");
        for Change { cause, write } in changes {
            assert!((cause as usize) < events.len(), "a change names no event");
            self.apply(write);
        }
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::Put(document) => {
                self.documents.insert(document.key, document.body);
            }
            Write::Remove(key) => {
                self.documents.remove(&key);
            }
            Write::PutNode(node) => {
                self.nodes.insert(node.id, node.kind);
            }
            Write::RemoveNode(node) => {
                self.nodes.remove(&node.id);
            }
            Write::SetEdges(edges) => {
                let targets = edges.targets.into_iter().map(|node| node.id).collect();
                self.edges.insert((edges.source.id, edges.predicate), targets);
            }
        }
    }
}

fn history_of(target: &Aggregate, after: u64, events: impl IntoIterator<Item = impl Named>) -> Vec<RecordedEvent> {
    (after + 1..)
        .zip(events)
        .map(|(seq, event)| {
            let (name, version, data) = event.named().expect("the event is written as JSON");
            recorded(target, seq, name, version.unwrap_or_else(|| "1.0.0".into()), data)
        })
        .collect()
}

fn recorded(target: &Aggregate, seq: u64, name: String, schema_version: String, data: String) -> RecordedEvent {
    let id = format!("{}-{seq}", target.id);
    RecordedEvent { id, name, schema_version, source: target.clone(), seq, at: NOW, data, headers: Vec::new() }
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).expect("the handler writes JSON")
}

fn fold<H: InstanceHandler>(state: Option<&str>, events: &[RecordedEvent]) -> Option<String> {
    let state = glue::evolve::<H>(state, events.to_vec()).expect("the history can be folded");
    if let Some(text) = &state {
        let again = glue::evolve::<H>(Some(text), Vec::new()).expect("a written state can be read");
        assert_eq!(again.as_ref(), Some(text), "a state changes when it is read and written");
    }
    state
}

fn check_splits<H: InstanceHandler>(history: &[RecordedEvent]) {
    let whole = fold::<H>(None, history);
    for split in 1..history.len() {
        let first = fold::<H>(None, &history[..split]);
        let parts = fold::<H>(first.as_deref(), &history[split..]);
        assert_eq!(parts, whole, "a split before event {split} folds to another state");
    }
}

/// A message written, read and written again has equal bytes. A payload of another shape is left alone:
/// refusing it is what is being tested.
fn check_round_trip<M: Message>(what: &str, name: &str, version: Option<&str>, json: &str) {
    if let Some(Ok(message)) = M::parse(name, version, json) {
        let written = message.to_json().expect("a message that was read can be written");
        let again = match M::parse(name, version, &written) {
            Some(Ok(message)) => message.to_json().expect("a message that was read can be written"),
            other => panic!("{what} {name} cannot be read back: {:?}", other.map(|parsed| parsed.err())),
        };
        assert_eq!(written, again, "{what} {name} changes when it is written and read");
    }
}

#[cfg(test)]
mod tests;
