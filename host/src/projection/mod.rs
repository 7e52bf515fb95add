//! A projection: feeds domain events of one topic to a projection handler and applies what it returns to the read
//! model, in one transaction with its claims and its checkpoint (I6, I7).
//!
//! Whole batches go to the handler in one call; when that fails, the batch is halved until the event that fails is
//! alone, so that one bad event holds back its own aggregate only: it is tried again, then parked with the later events
//! of its aggregate.

mod apply;

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::{EventKind, event_type};
use crate::event_store::Record;
use crate::sandbox::ActiveHandler;
use crate::state::{Batch, Context, Error, Work};

#[cfg(test)]
mod tests;

/// Build of the read model that readers see.
pub const LIVE: &str = "live";

/// Projects the events of one consumer.
#[derive(Debug)]
pub struct Projector {
    /// Name of the projection handler.
    pub handler: String,
    /// Aggregate type it is limited to; `None`: every type that the handler lists in its kinds.
    pub kind: Option<String>,
}

impl Projector {
    fn active(&self, context: &Context) -> Option<Arc<ActiveHandler>> {
        context.parts.catalog.active().get(&self.handler).cloned()
    }
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
        apply::Step { context, active, batch: batch.number }.handle(records).await
    }
}
