//! The traits a handler implements, and the typed views it is given.

use crate::memo::Memo;
use crate::{
    Aggregate, Context, DocKey, Document, Fault, Header, Manifest, Message, NewCommand, Problem, ReadValue, Stored,
};
use crate::{Timestamp, Write, json};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::rc::Rc;

thread_local! {
    /// A decision reads a handful of others again and again; one that reads more reads them anew.
    static SHARED: Memo<String, 16> = const { Memo::new() };
}

/// A command with its payload already read.
#[derive(Clone, Debug)]
pub struct Received<C> {
    pub id: String,
    pub target: Aggregate,
    pub expected_seq: Option<u64>,
    pub actor: Option<String>,
    pub headers: Vec<Header>,
    pub body: C,
}

/// An event of the log with its data already read.
#[derive(Clone, Debug)]
pub struct Recorded<E> {
    pub id: String,
    pub source: Aggregate,
    pub seq: u64,
    pub at: Timestamp,
    pub headers: Vec<Header>,
    pub body: E,
}

/// The states of other aggregates that were read for a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads(Vec<ReadValue>);

impl Reads {
    pub fn new(values: Vec<ReadValue>) -> Self {
        Self(values)
    }

    /// Whether the aggregate was read at all, existing or not.
    pub fn contains(&self, kind: &str, id: &str) -> bool {
        self.find(kind, id).is_some()
    }

    /// The state of an aggregate; `None` when it does not exist, was deleted, or was not read.
    pub fn get<T: DeserializeOwned>(&self, kind: &str, id: &str) -> Result<Option<T>, Fault> {
        match self.find(kind, id).and_then(|value| value.state.as_deref()) {
            Some(state) => json::read(&format!("state of {kind}/{id}"), state).map(Some),
            None => Ok(None),
        }
    }

    /// As [`Reads::get`]; what was read is kept for the next round of `needs` and for `decide`.
    pub fn shared<T: DeserializeOwned + 'static>(&self, kind: &str, id: &str) -> Result<Option<Rc<T>>, Fault> {
        let Some(state) = self.find(kind, id).and_then(|value| value.state.as_ref()) else { return Ok(None) };
        let read = |text: &String| json::read(&format!("state of {kind}/{id}"), text);
        SHARED.with(|memo| memo.get(state.clone(), read)).map(Some)
    }

    /// Whether the aggregate exists. Spares reading its state.
    pub fn exists(&self, kind: &str, id: &str) -> bool {
        self.find(kind, id).is_some_and(|value| value.state.is_some())
    }

    pub fn values(&self) -> &[ReadValue] {
        &self.0
    }

    fn find(&self, kind: &str, id: &str) -> Option<&ReadValue> {
        self.0.iter().find(|value| value.source.kind == kind && value.source.id == id)
    }
}

/// What a handler makes of a command.
#[derive(Clone, Debug)]
pub enum Decision<E> {
    Accepted {
        events: Vec<E>,
        commands: Vec<NewCommand>,
    },
    /// The command is valid and changes nothing.
    Unchanged,
    /// A business refusal, told to the sender.
    Rejected(Vec<Problem>),
}

impl<E> Decision<E> {
    pub fn accept(event: E) -> Self {
        Self::accept_all(vec![event])
    }

    pub fn accept_all(events: Vec<E>) -> Self {
        Self::Accepted { events, commands: Vec::new() }
    }

    pub fn reject(problem: Problem) -> Self {
        Self::Rejected(vec![problem])
    }
}

/// Decides the commands of one or several kinds of aggregates. World `instance-handler`.
pub trait InstanceHandler {
    /// `None` stands for "does not exist", before the first event and after a deletion: return `None` from
    /// `evolve` for an event that deletes, and readers see the aggregate as absent.
    type State: Serialize + DeserializeOwned + 'static;
    type Command: Message + 'static;
    type Event: Message;

    fn manifest() -> Manifest;

    /// Which other aggregates the decision must see, given those read so far. Asked again with what it asked
    /// for, until it names nothing new: at most 8 rounds and 64 aggregates.
    fn needs(
        command: &Received<Self::Command>,
        state: Option<&Self::State>,
        have: &Reads,
    ) -> Result<Vec<Aggregate>, Fault> {
        let _ = (command, state, have);
        Ok(Vec::new())
    }

    fn decide(
        context: &Context,
        state: Option<&Self::State>,
        command: &Received<Self::Command>,
    ) -> Result<Decision<Self::Event>, Fault>;

    /// Must not judge: what is in the log happened.
    fn evolve(state: Option<Self::State>, event: Recorded<Self::Event>) -> Result<Option<Self::State>, Fault>;
}

/// How far apart two class definitions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Identical,
    Compatible,
    Breaking,
}

/// The worst level found, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub level: Level,
    pub findings: Vec<Problem>,
}

/// Also compares class definitions. World `ontology-handler`.
pub trait OntologyHandler: InstanceHandler {
    /// Is the newer definition safe for what is stored under the older? Both are JSON text.
    fn compare(older: &str, newer: &str) -> Result<Comparison, Fault>;
}

/// The documents a projection asked for, kept up to date while it goes through its events.
#[derive(Clone, Debug, Default)]
pub struct Documents(BTreeMap<DocKey, String>);

impl Documents {
    pub(crate) fn new(documents: Vec<Document>) -> Self {
        Self(documents.into_iter().map(|document| (document.key, document.body)).collect())
    }

    /// The document as it is before this event, if there is one and `needs` named it.
    pub fn get<T: DeserializeOwned>(&self, collection: &str, id: &str) -> Result<Option<T>, Fault> {
        match self.0.get(&DocKey::new(collection, id)) {
            Some(body) => json::read(&format!("document {collection}/{id}"), body).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn apply(&mut self, write: &Write) {
        match write {
            Write::Put(document) => {
                self.0.insert(document.key.clone(), document.body.clone());
            }
            Write::Remove(key) => {
                self.0.remove(key);
            }
            Write::PutNode(_) | Write::RemoveNode(_) | Write::SetEdges(_) => {}
        }
    }
}

impl Write {
    /// Puts a document whose body is `body` as JSON.
    pub fn put<T: Serialize>(collection: &str, id: &str, body: &T) -> Result<Self, Fault> {
        Ok(Self::Put(Document { key: DocKey::new(collection, id), body: json::write(body)? }))
    }

    pub fn remove(collection: &str, id: &str) -> Self {
        Self::Remove(DocKey::new(collection, id))
    }
}

/// Turns events into documents, nodes and edges. World `projection-handler`.
pub trait ProjectionHandler {
    type Event: Message + 'static;

    fn manifest() -> Manifest;

    /// The documents that must be at hand to project this event.
    fn needs(event: &Recorded<Self::Event>) -> Result<Vec<DocKey>, Fault> {
        let _ = event;
        Ok(Vec::new())
    }

    /// The writes of one event. The SDK goes through a batch and shows each event the documents as the events
    /// before it left them.
    fn project(event: &Recorded<Self::Event>, documents: &Documents) -> Result<Vec<Write>, Fault>;
}

/// Brings stored events to newer versions. World `upcaster-handler`.
pub trait UpcasterHandler {
    fn manifest() -> Manifest;

    /// Name and version of every event this upcaster understands.
    fn understands() -> Vec<(&'static str, &'static str)>;

    /// Name and version of every event it makes.
    fn makes() -> Vec<(&'static str, &'static str)>;

    /// One stored event to one or more newer ones.
    fn upcast(event: Stored) -> Result<Vec<Stored>, Fault>;
}
