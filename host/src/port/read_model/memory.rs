//! The read model in memory: the contract in its plainest form. For tests and simulations.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::builds::{self, Begun, Builds, Wanted};
use super::plan::{Plan, Write, belongs, document_words, edges_words, node_words};
use super::{AppliedBatch, Batch, Document, DocumentKey, Edge, EventChanges, Node, Query, ReadModel, matching};
use crate::domain::{Aggregate, Partition, Position};
use crate::port::registry::MemoryRegistry;
use crate::port::{Error, Result};

/// A read model that lives as long as this value and its clones. Its claims are those of one registry in memory.
#[derive(Debug, Clone)]
pub struct MemoryReadModel {
    registry: MemoryRegistry,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    builds: HashMap<String, Build>,
    checkpoints: BTreeMap<(String, Partition), Position>,
    known: BTreeMap<String, builds::Build>,
    /// By collection, the build that readers see.
    live: HashMap<String, String>,
}

#[derive(Debug, Clone, Default)]
struct Build {
    /// A removed document keeps its row, so that an older write does not bring it back.
    documents: BTreeMap<DocumentKey, Option<Row<Option<Arc<RawValue>>>>>,
    nodes: HashMap<Node, Option<Row<bool>>>,
    edges: HashMap<(Node, String), Option<Row<Vec<Node>>>>,
}

#[derive(Debug, Clone)]
struct Row<V> {
    owner: Aggregate,
    version: u64,
    value: V,
}

impl MemoryReadModel {
    /// An empty read model whose claims are kept by this registry.
    pub fn new(registry: MemoryRegistry) -> MemoryReadModel {
        MemoryReadModel { registry, state: Arc::default() }
    }

    /// A read model of its own that holds the same: a backup. Its claims are those of the same registry.
    pub fn copy(&self) -> MemoryReadModel {
        let state = self.state.lock().clone();
        MemoryReadModel { registry: self.registry.clone(), state: Arc::new(Mutex::new(state)) }
    }

    /// Becomes what a backup holds.
    pub fn restore(&self, backup: &MemoryReadModel) {
        let state = backup.state.lock().clone();
        *self.state.lock() = state;
    }

    /// The nodes of the builds that readers see, in no particular order: what a comparison asks another read model for.
    pub fn nodes(&self) -> Vec<Node> {
        let state = self.state.lock();
        let there = |row: &Option<Row<bool>>| row.as_ref().is_some_and(|row| row.value);
        let all = state.seen(None).flat_map(|build| &build.nodes);
        all.filter(|(_, row)| there(row)).map(|(node, _)| node.clone()).collect()
    }
}

#[async_trait]
impl ReadModel for MemoryReadModel {
    async fn apply(&self, batch: Batch<'_>) -> Result<AppliedBatch> {
        let state = &mut *self.state.lock();
        if batch.begun.is_some_and(|id| !state.is_kept(batch.build, id)) {
            return Ok(AppliedBatch { gone: true, ..AppliedBatch::default() });
        }
        let lost = self.registry.lost(batch.consumer, batch.owner, &batch.finished);
        let fenced: Vec<Uuid> =
            batch.finished.iter().map(|event| event.event_id).filter(|id| lost.contains(id)).collect();
        let build = state.builds.entry(batch.build.to_owned()).or_default();
        let foreign = build.foreign(&batch.events, &lost);
        if !foreign.is_empty() {
            return Ok(AppliedBatch { fenced, foreign, gone: false });
        }
        build.write(Plan::of(remaining(&batch.events, &lost, &HashSet::new())));
        self.registry.finish(batch.consumer, batch.owner, &batch.finished, batch.now);
        if let Some((partition, position)) = batch.checkpoint
            && fenced.is_empty()
        {
            state.advance(batch.consumer, partition, position);
        }
        Ok(AppliedBatch { fenced, foreign, gone: false })
    }

    async fn documents(&self, build: Option<&str>, keys: &[DocumentKey]) -> Result<Vec<Option<Document>>> {
        let state = self.state.lock();
        let found = |key| document(key, state.of_collection(build, &key.collection)?.documents.get(key)?);
        Ok(keys.iter().map(found).collect())
    }

    async fn search(&self, query: &Query) -> Result<Vec<Document>> {
        let words: Vec<String> = query.text.as_deref().map(|text| matching::words(text).collect()).unwrap_or_default();
        let state = self.state.lock();
        let Some(build) = state.of_collection(query.build.as_deref(), &query.collection) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for (key, row) in &build.documents {
            let in_range = key.collection == query.collection
                && key.id.starts_with(&query.id_prefix)
                && query.after.as_ref().is_none_or(|after| key.id > *after);
            let Some(document) = document(key, row).filter(|_| in_range && found.len() < query.limit) else {
                continue;
            };
            let body = serde_json::from_str(document.body.get())
                .map_err(|error| Error::Corrupt { what: "the read model", reason: error.to_string() })?;
            if matching::has_words(&body, &words) && matching::passes(&body, &query.filters) {
                found.push(document);
            }
        }
        Ok(found)
    }

    async fn edges(
        &self,
        build: Option<&str>,
        node: &Node,
        outgoing: bool,
        after: Option<&Edge>,
        limit: usize,
    ) -> Result<Vec<Edge>> {
        let order = |edge: &Edge| {
            let (source, target) = (&edge.source, &edge.target);
            if outgoing {
                [edge.predicate.clone(), target.kind.clone(), target.id.clone()]
            } else {
                [source.kind.clone(), source.id.clone(), edge.predicate.clone()]
            }
        };
        let state = self.state.lock();
        let sets = state.seen(build).flat_map(|build| &build.edges);
        let mut found: Vec<Edge> = sets
            .flat_map(|((source, predicate), row)| {
                let edge = |target: &Node| Edge {
                    source: source.clone(),
                    predicate: predicate.clone(),
                    target: target.clone(),
                };
                row.iter().flat_map(|row| &row.value).map(edge)
            })
            .filter(|edge| if outgoing { edge.source == *node } else { edge.target == *node })
            .filter(|edge| after.is_none_or(|after| order(edge) > order(after)))
            .collect();
        found.sort_by_key(order);
        found.dedup();
        found.truncate(limit);
        Ok(found)
    }

    async fn checkpoints(&self) -> Result<Vec<(String, Partition, Position)>> {
        let state = self.state.lock();
        Ok(state.checkpoints.iter().map(|((name, partition), at)| (name.clone(), *partition, *at)).collect())
    }

    async fn set_checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
        position: Position,
        build: Option<&Begun>,
    ) -> Result<()> {
        let state = &mut *self.state.lock();
        if build.is_none_or(|build| state.is_kept(&build.name, build.id)) {
            state.advance(consumer, partition, position);
        }
        Ok(())
    }
}

#[async_trait]
impl Builds for MemoryReadModel {
    async fn builds(&self) -> Result<Vec<builds::Build>> {
        Ok(self.state.lock().known.values().cloned().collect())
    }

    async fn begin(&self, wanted: Wanted<'_>, id: Uuid) -> Result<()> {
        let state = &mut *self.state.lock();
        let of_handler = |is: &[builds::State]| {
            state.known.values().any(|build| build.handler == wanted.handler && is.contains(&build.state))
        };
        if state.known.contains_key(wanted.name) || of_handler(&[builds::State::Building, builds::State::Taking]) {
            return Ok(());
        }
        let is_first = !of_handler(&[builds::State::Live]);
        let now = if is_first { builds::State::Live } else { builds::State::Building };
        let (name, handler) = (wanted.name.to_owned(), wanted.handler.to_owned());
        state.known.insert(name.clone(), builds::Build { name, handler, state: now, asked: wanted.asked, id });
        if is_first {
            state.show(wanted);
        }
        Ok(())
    }

    async fn turn(&self, name: &str, from: builds::State, to: builds::State) -> Result<bool> {
        let state = &mut *self.state.lock();
        let build = state.known.get_mut(name).filter(|build| build.state == from && from != builds::State::Live);
        Ok(build.map(|build| build.state = to).is_some())
    }

    async fn take_over(&self, wanted: Wanted<'_>, successors: &[(String, String)]) -> Result<bool> {
        let state = &mut *self.state.lock();
        let is_behind = |(old, new): &(String, String)| {
            let mut of_old = state.checkpoints.iter().filter(|((consumer, _), _)| consumer == old);
            let of_new = |partition| state.checkpoints.get(&(new.clone(), partition)).copied().unwrap_or_default();
            of_old.any(|((_, partition), at)| of_new(*partition) < *at)
        };
        let taking = state.known.get(wanted.name).is_some_and(|build| build.state == builds::State::Taking);
        if !taking || successors.iter().any(is_behind) {
            return Ok(false);
        }
        for build in state.known.values_mut().filter(|build| build.handler == wanted.handler) {
            match build.state {
                _ if build.name == wanted.name => build.state = builds::State::Live,
                builds::State::Live => {
                    build.state = builds::State::Dropping;
                    state.live.retain(|_, shown| *shown != build.name);
                }
                _ => {}
            }
        }
        state.show(wanted);
        Ok(true)
    }

    async fn drop_some(&self, name: &str, consumers: &[String], limit: usize) -> Result<bool> {
        let state = &mut *self.state.lock();
        if state.known.get(name).is_some_and(|build| build.state != builds::State::Dropping) {
            return Ok(false);
        }
        let mut left = self.registry.forget(consumers, limit);
        if let Some(build) = state.builds.get_mut(name) {
            let documents: Vec<_> = build.documents.keys().take(limit).cloned().collect();
            let nodes: Vec<_> = build.nodes.keys().take(limit).cloned().collect();
            let edges: Vec<_> = build.edges.keys().take(limit).cloned().collect();
            left |= !(documents.is_empty() && nodes.is_empty() && edges.is_empty());
            documents.iter().for_each(|key| drop(build.documents.remove(key)));
            nodes.iter().for_each(|node| drop(build.nodes.remove(node)));
            edges.iter().for_each(|set| drop(build.edges.remove(set)));
        }
        state.checkpoints.retain(|(consumer, _), _| !consumers.contains(consumer));
        if !left {
            state.builds.remove(name);
            state.known.remove(name);
        }
        Ok(!left)
    }
}

impl State {
    fn show(&mut self, wanted: Wanted<'_>) {
        self.live.extend(wanted.collections.iter().map(|each| (each.clone(), wanted.name.to_owned())));
    }

    /// Whether this very build is there, and stays.
    fn is_kept(&self, name: &str, id: Uuid) -> bool {
        self.known.get(name).is_some_and(|build| build.id == id && build.state != builds::State::Dropping)
    }

    /// The build named, or the one that readers see of a collection.
    fn of_collection(&self, build: Option<&str>, collection: &str) -> Option<&Build> {
        self.builds.get(build.or_else(|| self.live.get(collection).map(String::as_str))?)
    }

    /// The build named, or all that readers see.
    fn seen<'a>(&'a self, build: Option<&'a str>) -> impl Iterator<Item = &'a Build> {
        let live = self.known.values().filter(move |known| build.is_none() && known.state == builds::State::Live);
        build.into_iter().chain(live.map(|known| known.name.as_str())).filter_map(|name| self.builds.get(name))
    }

    fn advance(&mut self, consumer: &str, partition: Partition, position: Position) {
        let checkpoint = self.checkpoints.entry((consumer.to_owned(), partition)).or_default();
        *checkpoint = position.max(*checkpoint);
    }
}

impl Build {
    fn foreign(&self, events: &[EventChanges], lost: &HashSet<Uuid>) -> Vec<(usize, String)> {
        let mut known = HashSet::new();
        let mut found = Vec::new();
        loop {
            let plan = Plan::of(remaining(events, lost, &known));
            let mut round = Vec::new();
            for (key, write) in &plan.documents {
                refuse(self.documents.get(*key).and_then(Option::as_ref), write, &mut round, || document_words(key));
            }
            for (node, write) in &plan.nodes {
                refuse(self.nodes.get(*node).and_then(Option::as_ref), write, &mut round, || node_words(node));
            }
            for ((source, predicate), write) in &plan.edges {
                let row = self.edges.get(&((*source).clone(), (*predicate).to_owned()));
                refuse(row.and_then(Option::as_ref), write, &mut round, || edges_words(source, predicate));
            }
            // Only when none is foreign to what is stored do the events' own claims count.
            let last = round.is_empty();
            for (event, words) in if last { plan.foreign } else { round } {
                if known.insert(event) {
                    found.push((event, words));
                }
            }
            if last {
                found.sort();
                return found;
            }
        }
    }

    fn write(&mut self, plan: Plan<'_>) {
        for (key, write) in plan.documents {
            store(self.documents.entry(key.clone()).or_default(), &write, write.value.cloned());
        }
        for (node, write) in plan.nodes {
            store(self.nodes.entry(node.clone()).or_default(), &write, write.value);
        }
        for ((source, predicate), write) in plan.edges {
            let row = self.edges.entry((source.clone(), predicate.to_owned())).or_default();
            store(row, &write, write.value.to_vec());
        }
    }
}

fn refuse<V, W>(
    row: Option<&Row<V>>,
    write: &Write<'_, W>,
    found: &mut Vec<(usize, String)>,
    words: impl Fn() -> String,
) {
    if let Some(row) = row.filter(|row| row.owner != *write.owner) {
        found.push((write.event, belongs(&words(), &row.owner)));
    }
}

fn store<V, W>(row: &mut Option<Row<V>>, write: &Write<'_, W>, value: V) {
    if row.as_ref().is_none_or(|row| row.version < write.version) {
        *row = Some(Row { owner: write.owner.clone(), version: write.version, value });
    }
}

fn remaining<'a>(
    events: &'a [EventChanges],
    lost: &HashSet<Uuid>,
    foreign: &HashSet<usize>,
) -> impl Iterator<Item = (usize, &'a EventChanges)> {
    events.iter().enumerate().filter(|(index, event)| !lost.contains(&event.event_id) && !foreign.contains(index))
}

fn document(key: &DocumentKey, row: &Option<Row<Option<Arc<RawValue>>>>) -> Option<Document> {
    let row = row.as_ref()?;
    let body = Arc::clone(row.value.as_ref()?);
    Some(Document { key: key.clone(), body, owner: row.owner.clone(), version: row.version })
}
