//! A projection: feeds domain events of one topic to a projection handler and applies what it returns to the read
//! model, in one transaction with its claims and its checkpoint (I6, I7).
//!
//! Whole batches go to the handler in one call; when that fails, the batch is halved until the event that fails is
//! alone, so that one bad event holds back its own aggregate only: it is tried again, then parked with the later events
//! of its aggregate.

mod apply;

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::domain::{EventKind, event_type};
use crate::event_store::Record;
use crate::sandbox::{ActiveHandler, Handler};
use crate::state::{Batch, Context, Error, Work};

#[cfg(test)]
mod tests;

/// What a projector writes: everything that the versions of its handler with the same collections make (decision 0011).
#[derive(Debug)]
pub struct Target {
    /// Build of the read model.
    pub build: String,
    /// Names and revisions of the collections of these versions, in the order of their names.
    pub collections: Vec<(String, u32)>,
    /// The last of them that was active, as far as it could be loaded: it goes on when another build is wanted.
    pub last: Option<Arc<ActiveHandler>>,
}

/// Projects the events of one consumer.
#[derive(Debug)]
pub struct Projector {
    /// Name of the projection handler.
    handler: String,
    /// Aggregate type it is limited to; `None`: every type that the handler lists in its kinds.
    kind: Option<String>,
    build: String,
    collections: Vec<(String, u32)>,
    last: Mutex<Option<Arc<ActiveHandler>>>,
}

impl Projector {
    /// A projector of the events of one aggregate type, or of every type that the handler lists.
    pub fn new(handler: &str, kind: Option<&str>, target: Target) -> Projector {
        Projector {
            handler: handler.to_owned(),
            kind: kind.map(str::to_owned),
            build: target.build,
            collections: target.collections,
            last: Mutex::new(target.last),
        }
    }

    /// The version that writes this build: the active one, while its collections are those of the build.
    fn active(&self, context: &Context) -> Option<Arc<ActiveHandler>> {
        let together = context.parts.catalog.active();
        let active = together.get(&self.handler)?;
        let mut last = self.last.lock();
        let known = last.as_ref().is_some_and(|last| Arc::ptr_eq(last, active));
        if !known && collections(&active.handler) == self.collections {
            *last = Some(active.clone());
        }
        last.clone()
    }
}

/// Names and revisions of the collections that a handler writes, in the order of their names.
pub fn collections(handler: &Handler) -> Vec<(String, u32)> {
    let listed = handler.description().collections.iter();
    let mut collections: Vec<_> = listed.map(|each| (each.name.clone(), each.revision)).collect();
    collections.sort();
    collections
}

#[async_trait]
impl Work for Projector {
    fn obstacle(&self, context: &Context) -> Option<String> {
        self.active(context).is_none().then(|| format!("handler {} is not active", self.handler))
    }

    fn wants(&self, context: &Context, record: &Record) -> bool {
        let of_kind = || match &self.kind {
            Some(kind) => record.aggregate.kind.as_str() == kind,
            None => self
                .active(context)
                .is_some_and(|active| active.handler.description().kinds.contains(&record.aggregate.kind)),
        };
        record.kind == EventKind::Domain && !event_type::is_host_outcome(&record.event_type) && of_kind()
    }

    async fn handle(&self, context: &Context, batch: Batch) -> Result<(), Error> {
        let active = self.active(context).ok_or_else(|| Error::NoHandler { kind: self.handler.clone() })?;
        let mut records: Vec<Record> = batch.items.into_iter().flat_map(|item| item.records).collect();
        records.retain(|record| self.wants(context, record));
        records.sort_by_key(|record| record.position);
        apply::Step { context, active, build: &self.build, batch: batch.number }.handle(records).await
    }
}
