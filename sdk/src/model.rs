//! The types of `wit/0.1` as plain Rust, with JSON still as text. They exist natively and in the guest alike.

use std::fmt;

/// A moment in UTC; its text form is in `time.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Since 1970-01-01T00:00:00Z.
    pub seconds: u64,
    /// Below 1,000,000,000.
    pub nanoseconds: u32,
}

/// A name and a value that travel with a message, outside its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: String,
}

/// Which aggregate: its kind (aggregate type) and its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregate {
    pub kind: String,
    pub id: String,
}

impl Aggregate {
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self { kind: kind.into(), id: id.into() }
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.kind, self.id)
    }
}

/// A command as the host hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub id: String,
    pub name: String,
    pub target: Aggregate,
    pub expected_seq: Option<u64>,
    pub payload: String,
    pub actor: Option<String>,
    pub headers: Vec<Header>,
}

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    pub id: String,
    pub name: String,
    pub schema_version: String,
    pub source: Aggregate,
    pub seq: u64,
    pub at: Timestamp,
    pub data: String,
    pub headers: Vec<Header>,
}

/// An event a decision asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    pub name: String,
    pub schema_version: String,
    pub data: String,
    pub headers: Vec<Header>,
}

/// A command a decision issues to another aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCommand {
    pub name: String,
    pub target: Aggregate,
    pub expected_seq: Option<u64>,
    pub payload: String,
    pub headers: Vec<Header>,
}

/// The state of another aggregate as it was read; no state: it does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadValue {
    pub source: Aggregate,
    pub seq: u64,
    pub schema_version: String,
    pub state: Option<String>,
}

/// Everything besides the state that a decision may depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// When the command was accepted. The only clock a handler has.
    pub now: Timestamp,
    /// Differs from command to command, and is the same for every run of one command.
    pub seed: (u64, u64),
    pub reads: crate::Reads,
}

/// Why a command is refused, for the one who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable, lower-case words with hyphens: clients branch on it.
    pub code: String,
    pub message: String,
    /// JSON pointer into the payload.
    pub pointer: Option<String>,
}

impl Problem {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), pointer: None }
    }

    /// Points at the part of the payload that is wrong.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }
}

/// Events of the decided aggregate, and commands for others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub events: Vec<NewEvent>,
    pub commands: Vec<NewCommand>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted(Outcome),
    Unchanged,
    Rejected(Vec<Problem>),
}

/// The handler cannot do its job: an event it does not know, a state it cannot read. The host retries, then
/// parks the aggregate. Never used for a business answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: String,
    pub message: String,
}

impl Fault {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Fault {}

/// Which document of which collection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocKey {
    pub collection: String,
    pub id: String,
}

impl DocKey {
    pub fn new(collection: impl Into<String>, id: impl Into<String>) -> Self {
        Self { collection: collection.into(), id: id.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub key: DocKey,
    pub body: String,
}

/// A node of the graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    pub kind: String,
    pub id: String,
}

impl Node {
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self { kind: kind.into(), id: id.into() }
    }
}

/// All edges of one predicate that leave a node; it replaces the ones there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edges {
    pub source: Node,
    pub predicate: String,
    pub targets: Vec<Node>,
}

/// What a projection wants written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Put(Document),
    Remove(DocKey),
    PutNode(Node),
    RemoveNode(Node),
    SetEdges(Edges),
}

/// A write, and the index of the event behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub cause: u32,
    pub write: Write,
}

/// A stored event as an upcaster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub name: String,
    pub schema_version: String,
    pub data: String,
}
