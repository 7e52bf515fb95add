//! Turns a batch into the least rows to write: of several writes of one row by one owner in a batch the last one
//! counts, as it would when applied one by one. Pure.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::{Change, DocumentKey, EventChanges, Node};
use crate::domain::Aggregate;

/// A row to write, and the event that wants it.
#[derive(Debug)]
pub struct Write<'a, V> {
    /// Index into the batch's events.
    pub event: usize,
    pub owner: &'a Aggregate,
    pub version: u64,
    pub value: V,
}

/// The rows of a batch.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// `None` removes.
    pub documents: BTreeMap<&'a DocumentKey, Write<'a, Option<&'a Arc<RawValue>>>>,
    /// `false` removes.
    pub nodes: BTreeMap<&'a Node, Write<'a, bool>>,
    /// Edges by source and predicate.
    pub edges: BTreeMap<(&'a Node, &'a str), Write<'a, &'a [Node]>>,
    /// Writes to a row that an event before them in the batch claims for another owner.
    pub foreign: Vec<(usize, String)>,
}

impl<'a> Plan<'a> {
    /// Plans these events: pairs of their index in the batch and the event.
    pub fn of(events: impl Iterator<Item = (usize, &'a EventChanges)>) -> Plan<'a> {
        let mut plan = Plan::default();
        for (event, changes) in events {
            for change in &changes.changes {
                plan.add(event, changes, change);
            }
        }
        plan
    }

    fn add(&mut self, event: usize, by: &'a EventChanges, change: &'a Change) {
        let foreign = &mut self.foreign;
        let (owner, version) = (&by.owner, by.version);
        match change {
            Change::Put { key, body } => {
                let write = Write { event, owner, version, value: Some(body) };
                merge(self.documents.entry(key), write, foreign, || document_words(key));
            }
            Change::Remove { key } => {
                let write = Write { event, owner, version, value: None };
                merge(self.documents.entry(key), write, foreign, || document_words(key));
            }
            Change::PutNode { node } => {
                let write = Write { event, owner, version, value: true };
                merge(self.nodes.entry(node), write, foreign, || node_words(node));
            }
            Change::RemoveNode { node } => {
                let write = Write { event, owner, version, value: false };
                merge(self.nodes.entry(node), write, foreign, || node_words(node));
            }
            Change::SetEdges { source, predicate, targets } => {
                let write = Write { event, owner, version, value: targets.as_slice() };
                merge(self.edges.entry((source, predicate)), write, foreign, || edges_words(source, predicate));
            }
        }
    }
}

fn merge<'a, K: Ord, V>(
    entry: Entry<'_, K, Write<'a, V>>,
    write: Write<'a, V>,
    foreign: &mut Vec<(usize, String)>,
    words: impl Fn() -> String,
) {
    match entry {
        Entry::Vacant(slot) => {
            slot.insert(write);
        }
        Entry::Occupied(slot) if slot.get().owner != write.owner => {
            foreign.push((write.event, belongs(&words(), slot.get().owner)));
        }
        Entry::Occupied(mut slot) if write.version >= slot.get().version => {
            slot.insert(write);
        }
        Entry::Occupied(_) => {}
    }
}

/// Says whose row was written to.
pub fn belongs(row: &str, owner: &Aggregate) -> String {
    format!("{row} belongs to {owner}")
}

/// Names a document.
pub fn document_words(key: &DocumentKey) -> String {
    format!("document {}/{}", key.collection, key.id)
}

/// Names a node.
pub fn node_words(node: &Node) -> String {
    format!("node {}/{}", node.kind, node.id)
}

/// Names a set of edges.
pub fn edges_words(source: &Node, predicate: &str) -> String {
    format!("edges {predicate:?} of node {}/{}", source.kind, source.id)
}
