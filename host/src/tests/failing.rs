//! A registry and a read model that fail on demand.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::domain::{Partition, Position, Timestamp};
use crate::port::read_model::{
    AppliedBatch, Batch, Document, DocumentKey, Edge, MemoryReadModel, Node, Query, ReadModel,
};
use crate::port::registry::{Claim, ClaimFilter, ClaimRow, Claimed, Finished, MemoryRegistry, Owner, Registry, Status};
use crate::port::{Error, Result};

/// Which calls fail: after so many that go well, so many that do not.
#[derive(Debug, Clone, Default)]
pub struct Failures {
    plans: Arc<Mutex<HashMap<&'static str, (usize, usize)>>>,
}

impl Failures {
    /// The next call of this name fails, without an effect.
    pub fn next(&self, call: &'static str) {
        self.after(call, 0, 1);
    }

    /// `well` calls go well, then `failing` fail.
    pub fn after(&self, call: &'static str, well: usize, failing: usize) {
        self.plans.lock().insert(call, (well, failing));
    }

    /// Whether every failure that was asked for has happened.
    pub fn are_over(&self) -> bool {
        self.plans.lock().values().all(|(_, failing)| *failing == 0)
    }

    fn meet(&self, call: &'static str) -> Result<()> {
        match self.plans.lock().get_mut(call) {
            Some((well, _)) if *well > 0 => *well -= 1,
            Some((_, failing)) if *failing > 0 => {
                *failing -= 1;
                return Err(Error::Unavailable { what: "the database", reason: format!("{call}: an injected fault") });
            }
            _ => {}
        }
        Ok(())
    }
}

/// A registry that fails on demand.
#[derive(Debug)]
pub struct FailingRegistry {
    inner: MemoryRegistry,
    failures: Failures,
}

impl FailingRegistry {
    pub fn new(inner: MemoryRegistry, failures: Failures) -> FailingRegistry {
        FailingRegistry { inner, failures }
    }
}

#[async_trait]
impl Registry for FailingRegistry {
    async fn claim(
        &self,
        handler: &str,
        owner: &Owner,
        claims: &[Claim],
        lease_ms: i64,
        now: Timestamp,
    ) -> Result<Vec<Claimed>> {
        self.failures.meet("claim")?;
        let claimed = self.inner.claim(handler, owner, claims, lease_ms, now).await?;
        self.failures.meet("claim's answer")?;
        Ok(claimed)
    }

    async fn heartbeat(&self, handler: &str, owner: &Owner, ids: &[Uuid], now: Timestamp) -> Result<Vec<Uuid>> {
        self.failures.meet("heartbeat")?;
        self.inner.heartbeat(handler, owner, ids, now).await
    }

    async fn done(&self, handler: &str, owner: &Owner, finished: &[Finished], now: Timestamp) -> Result<Vec<Uuid>> {
        self.failures.meet("done")?;
        self.inner.done(handler, owner, finished, now).await
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
        self.failures.meet("fail")?;
        self.inner.fail(handler, owner, event, status, error, now).await
    }

    async fn rows(&self, filter: &ClaimFilter) -> Result<Vec<ClaimRow>> {
        self.failures.meet("rows")?;
        self.inner.rows(filter).await
    }

    async fn release(&self, handler: &str, event_id: Uuid, now: Timestamp) -> Result<bool> {
        self.failures.meet("release")?;
        self.inner.release(handler, event_id, now).await
    }

    async fn retire(&self, before: Timestamp, limit: usize) -> Result<u64> {
        self.failures.meet("retire")?;
        self.inner.retire(before, limit).await
    }
}

/// A read model that fails on demand.
#[derive(Debug)]
pub struct FailingReadModel {
    inner: MemoryReadModel,
    failures: Failures,
}

impl FailingReadModel {
    pub fn new(inner: MemoryReadModel, failures: Failures) -> FailingReadModel {
        FailingReadModel { inner, failures }
    }
}

#[async_trait]
impl ReadModel for FailingReadModel {
    async fn apply(&self, batch: Batch<'_>) -> Result<AppliedBatch> {
        self.failures.meet("apply")?;
        self.inner.apply(batch).await
    }

    async fn documents(&self, build: &str, keys: &[DocumentKey]) -> Result<Vec<Option<Document>>> {
        self.inner.documents(build, keys).await
    }

    async fn search(&self, query: &Query) -> Result<Vec<Document>> {
        self.inner.search(query).await
    }

    async fn edges(
        &self,
        build: &str,
        node: &Node,
        outgoing: bool,
        after: Option<&Edge>,
        limit: usize,
    ) -> Result<Vec<Edge>> {
        self.inner.edges(build, node, outgoing, after, limit).await
    }

    async fn checkpoints(&self) -> Result<Vec<(String, Partition, Position)>> {
        self.inner.checkpoints().await
    }

    async fn set_checkpoint(&self, consumer: &str, partition: Partition, position: Position) -> Result<()> {
        self.failures.meet("set_checkpoint")?;
        self.inner.set_checkpoint(consumer, partition, position).await
    }
}
