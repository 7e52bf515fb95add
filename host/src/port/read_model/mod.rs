//! The read model: documents with full-text search and field filters, and a graph of nodes and edges. Written only by
//! projections; every row remembers the aggregate that owns it and the sequence that wrote it, so that a stale write
//! changes nothing.

pub mod builds;
pub mod matching;
pub mod memory;
pub mod plan;

#[cfg(test)]
pub mod conformance;
#[cfg(test)]
mod tests;

pub use memory::MemoryReadModel;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::value::RawValue;
use uuid::Uuid;

use self::builds::Begun;
use super::Result;
use super::registry::{Finished, Owner};
use crate::domain::{Aggregate, Partition, Position, Sequence, Timestamp};

/// Key of a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKey {
    pub collection: String,
    pub id: String,
}

/// A stored document.
#[derive(Debug, Clone)]
pub struct Document {
    pub key: DocumentKey,
    pub body: Arc<RawValue>,
    /// Aggregate that owns it, and the version that wrote it (its sequence, or its position for ordering `partition`).
    pub owner: Aggregate,
    pub version: u64,
}

/// A node of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Node {
    pub kind: String,
    pub id: String,
}

/// What a projection wants changed.
#[derive(Debug, Clone)]
pub enum Change {
    Put {
        key: DocumentKey,
        body: Arc<RawValue>,
    },
    Remove {
        key: DocumentKey,
    },
    PutNode {
        node: Node,
    },
    RemoveNode {
        node: Node,
    },
    /// Replaces all edges from `source` with this predicate.
    SetEdges {
        source: Node,
        predicate: String,
        targets: Vec<Node>,
    },
}

/// The changes of one event.
#[derive(Debug, Clone)]
pub struct EventChanges {
    /// The event, as its claim in [`Batch::finished`] names it.
    pub event_id: Uuid,
    /// Who owns the rows written: the event's aggregate or, with ordering `partition`, one stand-in that all
    /// aggregates of the partition share.
    pub owner: Aggregate,
    /// Version of the write: the event's sequence or, with ordering `partition`, its position.
    pub version: u64,
    pub changes: Vec<Change>,
}

/// What one consumer wants applied in one transaction.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// Consumer name, such as `projection_worker:instance_events`.
    pub consumer: &'a str,
    /// Build of the projection that is written.
    pub build: &'a str,
    /// [`builds::Build::id`] of it, when it is among the builds: nothing is applied once it is being deleted.
    pub begun: Option<Uuid>,
    pub owner: &'a Owner,
    pub events: Vec<EventChanges>,
    /// Claims that end with this transaction; each is fenced by owner and attempt.
    pub finished: Vec<Finished>,
    /// New checkpoint of the consumer: everything below is applied. Never moves backwards; not moved when a claim was
    /// lost, since its effect is then somebody else's to make (I7).
    pub checkpoint: Option<(Partition, Position)>,
    pub now: Timestamp,
}

/// What became of a batch.
#[derive(Debug, Clone, Default)]
pub struct AppliedBatch {
    /// Claims that were no longer ours: of these nothing was applied.
    pub fenced: Vec<Uuid>,
    /// Writes to a row of another owner: index into `events`, and the words. When there is one, **nothing** of the
    /// batch was applied: park these events (and, for their order, the later ones of their aggregates) and repeat the
    /// rest.
    pub foreign: Vec<(usize, String)>,
    /// The build is not there any more, or is being deleted: **nothing** of the batch was applied.
    pub gone: bool,
}

/// Comparison of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// `path operator value` on the JSON of a document; the path is dotted (`data.price`).
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    pub path: Vec<String>,
    pub operator: Operator,
    pub value: serde_json::Value,
}

/// A search over one collection.
#[derive(Debug, Clone)]
pub struct Query {
    /// `None`: the build of the collection that readers see.
    pub build: Option<String>,
    pub collection: String,
    /// Ids begin with this.
    pub id_prefix: String,
    /// Words that must all occur in string values; `None` for all documents.
    pub text: Option<String>,
    pub filters: Vec<Filter>,
    /// Ids after this one, in byte order.
    pub after: Option<String>,
    pub limit: usize,
}

/// An edge of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Edge {
    pub source: Node,
    pub predicate: String,
    pub target: Node,
}

/// The read model.
#[async_trait]
pub trait ReadModel: Send + Sync + std::fmt::Debug {
    /// Applies a batch in one transaction together with its claims and its checkpoint (I6, I7). A write with a version
    /// not above the stored one of the same owner changes nothing.
    async fn apply(&self, batch: Batch<'_>) -> Result<AppliedBatch>;
    /// Documents by key, in the order asked, of one build; `None`: of those that readers see.
    async fn documents(&self, build: Option<&str>, keys: &[DocumentKey]) -> Result<Vec<Option<Document>>>;
    /// Documents that match, ordered by id.
    async fn search(&self, query: &Query) -> Result<Vec<Document>>;
    /// Edges that leave (`outgoing`) or reach a node, ordered, after one, at most `limit`, in one build; `None`: in all
    /// that readers see.
    async fn edges(
        &self,
        build: Option<&str>,
        node: &Node,
        outgoing: bool,
        after: Option<&Edge>,
        limit: usize,
    ) -> Result<Vec<Edge>>;
    /// Checkpoints of every consumer: consumer, partition, position.
    async fn checkpoints(&self) -> Result<Vec<(String, Partition, Position)>>;
    /// Moves a consumer's checkpoint forward; never backwards, and not when the build that it writes is not there any
    /// more, or is being deleted.
    async fn set_checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
        position: Position,
        build: Option<&Begun>,
    ) -> Result<()>;
}

/// Sequence as the version of a write.
pub fn version(sequence: Sequence) -> u64 {
    sequence.0
}
