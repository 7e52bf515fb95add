//! A database in memory, and something that may happen to each call on its way there and back: index, registry, dead
//! letters and read model of tests that have calls fail on demand, and of the simulation.

use std::collections::HashSet;
use std::future::Future;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::domain::{Aggregate, Partition, Position, SegmentNumber, Sequence, Timestamp};
use crate::port::Result;
use crate::port::index::memory::MemoryIndex;
use crate::port::index::{Applied, EventRow, Index, Lookup, Seen, SegmentRows, Watermark};
use crate::port::read_model::builds::{Begun, Build, Builds, State, Wanted, consumer_of, plain};
use crate::port::read_model::{
    AppliedBatch, Batch, Document, DocumentKey, Edge, MemoryReadModel, Node, Query, ReadModel,
};
use crate::port::registry::{
    Claim, ClaimFilter, ClaimRow, Claimed, DeadLetter, DeadLetters, Finished, MemoryRegistry, Owner, Registry, Status,
};

/// What the parts hold. A backup is a copy of all of it at one moment.
#[derive(Debug)]
pub struct Rows {
    pub index: MemoryIndex,
    pub registry: MemoryRegistry,
    pub model: MemoryReadModel,
    /// Events that each consumer has applied to the read model.
    pub effects: Mutex<HashSet<(String, Uuid)>>,
}

impl Rows {
    pub fn empty() -> Rows {
        let registry = MemoryRegistry::default();
        let model = MemoryReadModel::new(registry.clone());
        Rows { index: MemoryIndex::new(), registry, model, effects: Mutex::default() }
    }

    pub fn copy(&self) -> Rows {
        Rows {
            index: self.index.copy(),
            registry: self.registry.copy(),
            model: self.model.copy(),
            effects: Mutex::new(self.effects.lock().clone()),
        }
    }

    /// The build that a consumer writes, unless it is being deleted or gone.
    pub fn build_of(&self, consumer: &str) -> Option<Build> {
        let builds = self.model.builds().now_or_never().expect("it is in memory").expect("it never fails");
        let is_its = |build: &Build| consumer_of(&build.name, plain(consumer)) == consumer;
        builds.into_iter().find(|build| build.state != State::Dropping && is_its(build))
    }

    pub fn restore(&self, backup: &Rows) {
        self.index.restore(&backup.index);
        self.registry.restore(&backup.registry);
        self.model.restore(&backup.model);
        *self.effects.lock() = backup.effects.lock().clone();
    }
}

/// What a call did, the moment it did it; whoever called may never hear of it.
#[derive(Debug)]
pub enum Effect<'a> {
    Reset {
        done: bool,
    },
    Claimed(&'a [Claimed]),
    /// A worker's rows say done.
    Done {
        consumer: &'a str,
        ids: Vec<Uuid>,
    },
    /// A projection's transaction; `again`: events that had been applied before.
    Applied {
        consumer: &'a str,
        again: Vec<Uuid>,
        checkpoint: Option<(Partition, Position)>,
    },
    Checkpoint {
        consumer: &'a str,
        at: (Partition, Position),
    },
    /// Readers see another build of a projection: consumers of the one before, and those that do the same for it.
    TookOver {
        successors: &'a [(String, String)],
    },
}

/// The way to the database.
pub trait Way: std::fmt::Debug + Send + Sync + 'static {
    fn rows(&self) -> &Rows;

    /// Goes there, has the effect and comes back, or fails somewhere on the way. `words` tell what the call is about.
    fn call<T: Send>(
        &self,
        call: &'static str,
        words: impl FnOnce() -> String + Send,
        effect: impl Future<Output = Result<T>> + Send,
    ) -> impl Future<Output = Result<T>> + Send;

    fn saw(&self, _effect: Effect<'_>) {}

    /// The registry's time.
    fn time(&self, here: Timestamp) -> Timestamp {
        here
    }
}

/// The database at the end of a way.
#[derive(Debug, Clone)]
pub struct Database<W>(pub W);

#[async_trait]
impl<W: Way> Index for Database<W> {
    async fn store_id(&self) -> Result<Option<Uuid>> {
        self.0.call("store_id", String::new, self.0.rows().index.store_id()).await
    }

    async fn reset(&self, store_id: Uuid, seen: &Seen) -> Result<bool> {
        self.0
            .call("reset", String::new, async {
                let done = self.0.rows().index.reset(store_id, seen).await?;
                if done {
                    let empty = Rows { index: self.0.rows().index.copy(), ..Rows::empty() };
                    self.0.rows().restore(&empty);
                }
                self.0.saw(Effect::Reset { done });
                Ok(done)
            })
            .await
    }

    async fn watermark(&self, partition: Partition) -> Result<Watermark> {
        self.0.call("watermark", String::new, self.0.rows().index.watermark(partition)).await
    }

    async fn apply(&self, partition: Partition, from: &Watermark, segments: &[SegmentRows]) -> Result<Applied> {
        let words = || format!("{} segments from {}", segments.len(), from.segments);
        self.0.call("index", words, self.0.rows().index.apply(partition, from, segments)).await
    }

    async fn lookup(&self, partition: Partition, aggregates: &[Aggregate], ids: &[Uuid]) -> Result<Lookup> {
        let words = || format!("{aggregates:?} {ids:?}");
        self.0.call("lookup", words, self.0.rows().index.lookup(partition, aggregates, ids)).await
    }

    async fn streams(&self, asked: &[(Aggregate, Sequence)], limit: usize) -> Result<Vec<Vec<EventRow>>> {
        let words = || format!("{asked:?}");
        self.0.call("streams", words, self.0.rows().index.streams(asked, limit)).await
    }

    async fn locate(&self, partition: Partition, position: Position) -> Result<Option<(SegmentNumber, Position)>> {
        self.0.call("locate", String::new, self.0.rows().index.locate(partition, position)).await
    }

    async fn aggregates(&self, kind: &str, after: Option<&str>, limit: usize) -> Result<Vec<Aggregate>> {
        self.0.call("aggregates", String::new, self.0.rows().index.aggregates(kind, after, limit)).await
    }
}

#[async_trait]
impl<W: Way> Registry for Database<W> {
    async fn time(&self, here: Timestamp) -> Result<Timestamp> {
        self.0.call("time", String::new, async { Ok(self.0.time(here)) }).await
    }

    async fn claim(
        &self,
        handler: &str,
        owner: &Owner,
        claims: &[Claim],
        lease_ms: i64,
        now: Timestamp,
    ) -> Result<Vec<Claimed>> {
        let words = || format!("{handler} {owner} {:?}", ids(claims.iter().map(|claim| claim.event_id)));
        self.0
            .call("claim", words, async {
                let answers = self.0.rows().registry.claim(handler, owner, claims, lease_ms, now).await?;
                self.0.saw(Effect::Claimed(&answers));
                Ok(answers)
            })
            .await
    }

    async fn heartbeat(&self, handler: &str, owner: &Owner, ids: &[Uuid], now: Timestamp) -> Result<Vec<Uuid>> {
        let words = || format!("{handler} {owner}");
        self.0.call("heartbeat", words, self.0.rows().registry.heartbeat(handler, owner, ids, now)).await
    }

    async fn done(&self, handler: &str, owner: &Owner, finished: &[Finished], now: Timestamp) -> Result<Vec<Uuid>> {
        let words = || format!("{handler} {owner} {:?}", ids(finished.iter().map(|event| event.event_id)));
        self.0
            .call("done", words, async {
                let lost = self.0.rows().registry.done(handler, owner, finished, now).await?;
                let ids = finished.iter().map(|event| event.event_id).filter(|id| !lost.contains(id)).collect();
                self.0.saw(Effect::Done { consumer: handler, ids });
                Ok(lost)
            })
            .await
    }

    async fn fail(
        &self,
        handler: &str,
        owner: &Owner,
        events: &[Finished],
        status: Status,
        error: &str,
        now: Timestamp,
    ) -> Result<Vec<Uuid>> {
        let words = || {
            let ids: Vec<String> = events.iter().map(|event| event.event_id.to_string()).collect();
            format!("{handler} {owner} {} {}", ids.join(" "), status.as_str())
        };
        self.0.call("fail", words, self.0.rows().registry.fail(handler, owner, events, status, error, now)).await
    }

    async fn rows(&self, filter: &ClaimFilter) -> Result<Vec<ClaimRow>> {
        self.0.call("rows", String::new, self.0.rows().registry.rows(filter)).await
    }

    async fn release(&self, handler: &str, event_id: Uuid, now: Timestamp) -> Result<bool> {
        let words = || format!("{handler} {event_id}");
        self.0.call("release", words, self.0.rows().registry.release(handler, event_id, now)).await
    }

    async fn retire(&self, before: Timestamp, limit: usize) -> Result<u64> {
        self.0.call("retire", String::new, self.0.rows().registry.retire(before, limit)).await
    }
}

#[async_trait]
impl<W: Way> DeadLetters for Database<W> {
    async fn put(&self, letter: &DeadLetter) -> Result<bool> {
        let words = || format!("{} {} ", letter.aggregate_id, letter.state);
        self.0.call("letter", words, self.0.rows().registry.put(letter)).await
    }

    async fn get(&self, id: Uuid) -> Result<Option<DeadLetter>> {
        self.0.call("letter?", String::new, self.0.rows().registry.get(id)).await
    }

    async fn list(&self, state: Option<&str>, after: Option<Uuid>, limit: usize) -> Result<Vec<DeadLetter>> {
        self.0.call("letters", String::new, self.0.rows().registry.list(state, after, limit)).await
    }
}

#[async_trait]
impl<W: Way> ReadModel for Database<W> {
    async fn apply(&self, batch: Batch<'_>) -> Result<AppliedBatch> {
        let (consumer, checkpoint) = (batch.consumer.to_owned(), batch.checkpoint);
        let (finished, owner) = (batch.finished.clone(), batch.owner.clone());
        let words =
            || format!("{consumer} {owner} {:?} {checkpoint:?}", ids(finished.iter().map(|event| event.event_id)));
        self.0
            .call("apply", words, async {
                let applied = self.0.rows().model.apply(batch).await?;
                if applied.foreign.is_empty() && !applied.gone {
                    let had_effect =
                        finished.iter().map(|event| event.event_id).filter(|id| !applied.fenced.contains(id));
                    let again = {
                        let mut effects = self.0.rows().effects.lock();
                        had_effect.filter(|id| !effects.insert((consumer.clone(), *id))).collect()
                    };
                    let checkpoint = checkpoint.filter(|_| applied.fenced.is_empty());
                    self.0.saw(Effect::Applied { consumer: &consumer, again, checkpoint });
                }
                Ok(applied)
            })
            .await
    }

    async fn documents(&self, build: Option<&str>, keys: &[DocumentKey]) -> Result<Vec<Option<Document>>> {
        let words = || format!("{:?}", keys.iter().map(|key| &key.id).collect::<Vec<_>>());
        self.0.call("documents", words, self.0.rows().model.documents(build, keys)).await
    }

    async fn search(&self, query: &Query) -> Result<Vec<Document>> {
        self.0.call("search", String::new, self.0.rows().model.search(query)).await
    }

    async fn edges(
        &self,
        build: Option<&str>,
        node: &Node,
        outgoing: bool,
        after: Option<&Edge>,
        limit: usize,
    ) -> Result<Vec<Edge>> {
        self.0.call("edges", String::new, self.0.rows().model.edges(build, node, outgoing, after, limit)).await
    }

    async fn checkpoints(&self) -> Result<Vec<(String, Partition, Position)>> {
        self.0.call("checkpoints", String::new, self.0.rows().model.checkpoints()).await
    }

    async fn set_checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
        position: Position,
        build: Option<&Begun>,
    ) -> Result<()> {
        self.0
            .call("checkpoint", || format!("{consumer} {partition}/{position}"), async {
                let model = &self.0.rows().model;
                model.set_checkpoint(consumer, partition, position, build).await?;
                let stored = model.checkpoints().await?;
                // Nothing is seen of one that was refused.
                if let Some((.., at)) = stored.iter().find(|(of, on, _)| of == consumer && *on == partition) {
                    self.0.saw(Effect::Checkpoint { consumer, at: (partition, *at) });
                }
                Ok(())
            })
            .await
    }
}

#[async_trait]
impl<W: Way> Builds for Database<W> {
    async fn builds(&self) -> Result<Vec<Build>> {
        self.0.call("builds", String::new, self.0.rows().model.builds()).await
    }

    async fn begin(&self, wanted: Wanted<'_>, id: Uuid) -> Result<()> {
        self.0.call("begin", || wanted.name.to_owned(), self.0.rows().model.begin(wanted, id)).await
    }

    async fn turn(&self, name: &str, from: State, to: State) -> Result<bool> {
        let words = || format!("{name} {} to {}", from.as_str(), to.as_str());
        self.0.call("turn", words, self.0.rows().model.turn(name, from, to)).await
    }

    async fn take_over(&self, wanted: Wanted<'_>, successors: &[(String, String)]) -> Result<bool> {
        self.0
            .call("take over", || wanted.name.to_owned(), async {
                let done = self.0.rows().model.take_over(wanted, successors).await?;
                if done {
                    self.0.saw(Effect::TookOver { successors });
                }
                Ok(done)
            })
            .await
    }

    async fn drop_some(&self, name: &str, consumers: &[String], limit: usize) -> Result<bool> {
        self.0
            .call("drop", || name.to_owned(), async {
                let builds = self.0.rows().model.builds().await?;
                if !builds.iter().any(|build| build.name == name && build.state != State::Dropping) {
                    self.0.rows().effects.lock().retain(|(consumer, _)| !consumers.contains(consumer));
                }
                self.0.rows().model.drop_some(name, consumers, limit).await
            })
            .await
    }
}

/// The first digits of ids: enough to follow one through a trace.
fn ids(ids: impl Iterator<Item = Uuid>) -> Vec<String> {
    ids.map(|id| id.to_string()[..8].to_owned()).collect()
}
