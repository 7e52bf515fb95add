//! The database as one process reaches it: index, registry, dead letters and read model fail before or after their
//! effect, and are away for a while. Every effect and every checkpoint is told to the auditor.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::world::{Database, World, away};
use crate::domain::{Aggregate, Partition, Position, SegmentNumber, Sequence, Timestamp};
use crate::port::Result;
use crate::port::index::{Applied, EventRow, Index, Lookup, Seen, SegmentRows, Watermark};
use crate::port::read_model::{AppliedBatch, Batch, Document, DocumentKey, Edge, Node, Query, ReadModel};
use crate::port::registry::{
    Claim, ClaimFilter, ClaimRow, Claimed, DeadLetter, DeadLetters, Finished, Owner, Registry, Status,
};

const WHAT: &str = "the database";

#[derive(Debug, Clone)]
pub struct SimDatabase {
    pub world: Arc<World>,
    pub who: String,
}

impl SimDatabase {
    fn rows(&self) -> &Database {
        &self.world.database
    }

    /// The way to the database and back, with what happens there in between.
    async fn call<T>(
        &self,
        call: &'static str,
        words: impl FnOnce() -> String,
        effect: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.world.sim.hop().await;
        if *self.world.database_away.lock() || self.world.strikes(|faults| faults.before) {
            self.world.sim.note(&self.who, call, 0, || "fails".into());
            return away(WHAT);
        }
        self.world.sim.note(&self.who, call, 1, words);
        let done = effect.await;
        self.world.sim.hop().await;
        if self.world.strikes(|faults| faults.after) {
            self.world.sim.note(&self.who, call, 2, || "answer lost".into());
            return away(WHAT);
        }
        done
    }
}

#[async_trait]
impl Index for SimDatabase {
    async fn store_id(&self) -> Result<Option<Uuid>> {
        self.call("store_id", String::new, self.rows().index.store_id()).await
    }

    async fn reset(&self, store_id: Uuid, seen: &Seen) -> Result<bool> {
        self.call("reset", String::new, async {
            let done = self.rows().index.reset(store_id, seen).await?;
            if done {
                let empty = Database { index: self.rows().index.copy(), ..Database::empty() };
                self.rows().restore(&empty);
            }
            self.world.sim.note(&self.who, "was reset", u64::from(done), String::new);
            Ok(done)
        })
        .await
    }

    async fn watermark(&self, partition: Partition) -> Result<Watermark> {
        self.call("watermark", String::new, self.rows().index.watermark(partition)).await
    }

    async fn apply(&self, partition: Partition, from: &Watermark, segments: &[SegmentRows]) -> Result<Applied> {
        let words = || format!("{} segments from {}", segments.len(), from.segments);
        self.call("index", words, self.rows().index.apply(partition, from, segments)).await
    }

    async fn lookup(&self, partition: Partition, aggregates: &[Aggregate], ids: &[Uuid]) -> Result<Lookup> {
        let words = || format!("{aggregates:?} {ids:?}");
        self.call("lookup", words, self.rows().index.lookup(partition, aggregates, ids)).await
    }

    async fn stream(&self, aggregate: &Aggregate, after: Sequence, limit: usize) -> Result<Vec<EventRow>> {
        let words = || format!("{aggregate} after {after}");
        self.call("stream", words, self.rows().index.stream(aggregate, after, limit)).await
    }

    async fn locate(&self, partition: Partition, position: Position) -> Result<Option<(SegmentNumber, Position)>> {
        self.call("locate", String::new, self.rows().index.locate(partition, position)).await
    }

    async fn aggregates(&self, kind: &str, after: Option<&str>, limit: usize) -> Result<Vec<Aggregate>> {
        self.call("aggregates", String::new, self.rows().index.aggregates(kind, after, limit)).await
    }
}

#[async_trait]
impl Registry for SimDatabase {
    async fn claim(
        &self,
        handler: &str,
        owner: &Owner,
        claims: &[Claim],
        lease_ms: i64,
        now: Timestamp,
    ) -> Result<Vec<Claimed>> {
        let words = || format!("{handler} {owner} {:?}", ids(claims.iter().map(|claim| claim.event_id)));
        self.call("claim", words, async {
            let answers = self.rows().registry.claim(handler, owner, claims, lease_ms, now).await?;
            self.world.sim.note(&self.who, "claimed", answers.len() as u64, || format!("{answers:?}"));
            Ok(answers)
        })
        .await
    }

    async fn heartbeat(&self, handler: &str, owner: &Owner, ids: &[Uuid], now: Timestamp) -> Result<Vec<Uuid>> {
        let words = || format!("{handler} {owner}");
        self.call("heartbeat", words, self.rows().registry.heartbeat(handler, owner, ids, now)).await
    }

    async fn done(&self, handler: &str, owner: &Owner, finished: &[Finished], now: Timestamp) -> Result<Vec<Uuid>> {
        let words = || format!("{handler} {owner} {:?}", ids(finished.iter().map(|event| event.event_id)));
        self.call("done", words, async {
            let lost = self.rows().registry.done(handler, owner, finished, now).await?;
            let truth = self.world.truth.lock();
            for event in finished.iter().filter(|event| !lost.contains(&event.event_id)) {
                truth.done(handler, event.event_id);
            }
            Ok(lost)
        })
        .await
    }

    async fn fail(
        &self,
        handler: &str,
        owner: &Owner,
        event: &Finished,
        status: Status,
        error: &str,
        now: Timestamp,
    ) -> Result<bool> {
        let words = || format!("{handler} {owner} {} {}", event.event_id, status.as_str());
        self.call("fail", words, self.rows().registry.fail(handler, owner, event, status, error, now)).await
    }

    async fn rows(&self, filter: &ClaimFilter) -> Result<Vec<ClaimRow>> {
        self.call("rows", String::new, self.rows().registry.rows(filter)).await
    }

    async fn release(&self, handler: &str, event_id: Uuid, now: Timestamp) -> Result<bool> {
        let words = || format!("{handler} {event_id}");
        self.call("release", words, self.rows().registry.release(handler, event_id, now)).await
    }

    async fn retire(&self, before: Timestamp, limit: usize) -> Result<u64> {
        self.call("retire", String::new, self.rows().registry.retire(before, limit)).await
    }
}

#[async_trait]
impl DeadLetters for SimDatabase {
    async fn put(&self, letters: &[DeadLetter]) -> Result<()> {
        let words = || letters.iter().map(|letter| format!("{} {} ", letter.aggregate_id, letter.state)).collect();
        self.call("letter", words, self.rows().registry.put(letters)).await
    }

    async fn get(&self, id: Uuid) -> Result<Option<DeadLetter>> {
        self.call("letter?", String::new, self.rows().registry.get(id)).await
    }

    async fn list(&self, state: Option<&str>, after: Option<Uuid>, limit: usize) -> Result<Vec<DeadLetter>> {
        self.call("letters", String::new, self.rows().registry.list(state, after, limit)).await
    }

    async fn of_aggregate(&self, handler: &str, aggregate_type: &str, aggregate_id: &str) -> Result<Vec<DeadLetter>> {
        let rows = self.rows().registry.of_aggregate(handler, aggregate_type, aggregate_id);
        self.call("letters of", String::new, rows).await
    }
}

#[async_trait]
impl ReadModel for SimDatabase {
    async fn apply(&self, batch: Batch<'_>) -> Result<AppliedBatch> {
        let (consumer, checkpoint) = (batch.consumer.to_owned(), batch.checkpoint);
        let (finished, owner) = (batch.finished.clone(), batch.owner.clone());
        let words =
            || format!("{consumer} {owner} {:?} {checkpoint:?}", ids(finished.iter().map(|event| event.event_id)));
        self.call("apply", words, async {
            let applied = self.rows().model.apply(batch).await?;
            if applied.foreign.is_empty() {
                let mut effects = self.rows().effects.lock();
                for event in finished.iter().filter(|event| !applied.fenced.contains(&event.event_id)) {
                    if !effects.insert((consumer.clone(), event.event_id)) {
                        self.world.sim.broken("I6", format!("{consumer} applied {} twice", event.event_id));
                    }
                }
                if let Some((partition, position)) = checkpoint.filter(|_| applied.fenced.is_empty()) {
                    self.world.truth.lock().checkpoint(&consumer, partition, position, &effects);
                }
            }
            Ok(applied)
        })
        .await
    }

    async fn documents(&self, build: &str, keys: &[DocumentKey]) -> Result<Vec<Option<Document>>> {
        let words = || format!("{:?}", keys.iter().map(|key| &key.id).collect::<Vec<_>>());
        self.call("documents", words, self.rows().model.documents(build, keys)).await
    }

    async fn search(&self, query: &Query) -> Result<Vec<Document>> {
        self.call("search", String::new, self.rows().model.search(query)).await
    }

    async fn edges(
        &self,
        build: &str,
        node: &Node,
        outgoing: bool,
        after: Option<&Edge>,
        limit: usize,
    ) -> Result<Vec<Edge>> {
        self.call("edges", String::new, self.rows().model.edges(build, node, outgoing, after, limit)).await
    }

    async fn checkpoints(&self) -> Result<Vec<(String, Partition, Position)>> {
        self.call("checkpoints", String::new, self.rows().model.checkpoints()).await
    }

    async fn set_checkpoint(&self, consumer: &str, partition: Partition, position: Position) -> Result<()> {
        self.call("checkpoint", || format!("{consumer} {partition}/{position}"), async {
            self.rows().model.set_checkpoint(consumer, partition, position).await?;
            self.world.truth.lock().checkpoint(consumer, partition, position, &self.rows().effects.lock());
            Ok(())
        })
        .await
    }
}

/// The first digits of ids: enough to follow one through a trace.
fn ids(ids: impl Iterator<Item = Uuid>) -> Vec<String> {
    ids.map(|id| id.to_string()[..8].to_owned()).collect()
}
