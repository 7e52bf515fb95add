//! Reads: command status, the read model, folded states, history, the live tail, and what operators look at. Writes
//! nothing. What a read answers is a function of the log alone, so that a rebuilt host answers the same bytes; how far
//! the projection is goes beside it.

mod admin;
mod consistency;
mod error;
pub mod filter;
mod history;
mod model;
mod status;
mod token;

pub use admin::{Consumer, Lag, Page};
pub use consistency::{Freshness, Source};
pub use error::{Error, Wanted, What};
pub use history::{EventPage, Scope, Tail, TailStep};
pub use model::{Documents, Search};
pub use status::{Failure, OutcomeEvent, Row, Status, StatusName};
pub use token::{Cursor, Token};

/// An event as it is stored.
pub use crate::event_store::Record;

use std::sync::Arc;

use uuid::Uuid;

use crate::domain::{Aggregate, Partition, Sequence};
use crate::event_store::EventStore;
use crate::port::clock::Clock;
use crate::port::read_model::ReadModel;
use crate::port::registry::{DeadLetters, Registry};
use crate::sandbox::Catalog;
use crate::state::{At, Completions, Folded, Progress, States};

#[cfg(test)]
mod tests;

/// Items of a page when the client does not say (contract §2).
pub const PAGE_DEFAULT: usize = 100;
/// Greatest number of items of a page (contract §2).
pub const PAGE_MAX: usize = 1_000;

/// Everything the reads look at.
#[derive(Debug)]
pub struct Sources {
    pub store: EventStore,
    pub catalog: Arc<Catalog>,
    pub states: States,
    pub read_model: Arc<dyn ReadModel>,
    pub registry: Arc<dyn Registry>,
    pub letters: Arc<dyn DeadLetters>,
    pub progress: Progress,
    pub completions: Completions,
    pub clock: Arc<dyn Clock>,
}

/// The query service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    sources: Arc<Sources>,
}

impl Service {
    /// A service over these.
    pub fn new(sources: Sources) -> Service {
        Service { sources: Arc::new(sources) }
    }

    /// The state of an aggregate, now or in the past.
    pub async fn aggregate(&self, aggregate: &Aggregate, at: Option<At>) -> Result<Folded, Error> {
        let folded = match at {
            None => self.sources.states.load(aggregate).await?,
            Some(at) => self.sources.states.load_at(aggregate, at).await?,
        };
        if folded.sequence == Sequence(0) {
            return Err(Error::NotFound { what: What::Aggregate, id: aggregate.to_string() });
        }
        Ok(folded)
    }

    /// How many partitions the log has.
    pub fn partitions(&self) -> u16 {
        self.sources.store.partitions()
    }

    fn all_partitions(&self) -> impl Iterator<Item = Partition> {
        (0..self.partitions()).map(Partition)
    }

    /// Id of the store.
    pub fn store_id(&self) -> Uuid {
        self.sources.store.store_id()
    }
}
