//! The worker: decides commands in the order of the log and appends their outcomes. One service, one configuration for
//! each consumer (`instance_worker`, `ontology_worker`, `{handler}:{AggregateType}`). For each command: claim, look in
//! the log first, decide, append with the last domain event it was decided on (I3), and only then mark it done (I7).

mod decide;
mod outcome;
mod wave;

use async_trait::async_trait;

use crate::domain::EventKind;
use crate::event_store::Record;
use crate::state::{Batch, Context, Error, States, Work};

#[cfg(test)]
mod tests;

/// Decides the commands of one consumer.
#[derive(Debug)]
pub struct Worker {
    states: States,
}

impl Worker {
    /// A worker that keeps what it folds in these states.
    pub fn new(states: States) -> Worker {
        Worker { states }
    }
}

#[async_trait]
impl Work for Worker {
    fn wants(&self, _context: &Context, record: &Record) -> bool {
        record.kind == EventKind::Command
    }

    async fn handle(&self, context: &Context, batch: Batch) -> Result<(), Error> {
        wave::Wave { worker: self, context, batch: batch.number }.handle(batch.items).await
    }
}
