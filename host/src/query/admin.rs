//! What operators look at: consumers and how far behind they are, the relay, dead letters, claims.

use uuid::Uuid;

use super::{Error, Service};
use crate::domain::{Partition, Position, Timestamp};
use crate::port::registry::{ClaimFilter, ClaimRow, DeadLetter};
use crate::state::{ConsumerProgress, ConsumerState};

/// Name under which the relay tells how far it is.
pub(super) const RELAY: &str = "event_publisher";

/// What lies between a place and the end of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    pub events: u64,
    /// Age of the oldest of them.
    pub ms: u64,
}

/// A consumer on one partition.
#[derive(Debug, Clone)]
pub struct Consumer {
    pub name: String,
    /// Its name in claims and dead letters.
    pub handler: String,
    pub partition: Partition,
    /// Everything below has had its effect.
    pub position: Position,
    pub lag: Lag,
    pub state: ConsumerState,
    pub last_error: Option<String>,
    pub last_event_at: Option<Timestamp>,
}

/// Some of a list, and where it goes on.
#[derive(Debug, Clone)]
pub struct Page<T, C> {
    pub items: Vec<T>,
    pub next: Option<C>,
}

impl Service {
    /// Every consumer of this process on every partition, without the relay.
    pub async fn consumers(&self) -> Result<Vec<Consumer>, Error> {
        self.progress_of(|name| name != RELAY).await
    }

    /// The relay on every partition; empty where no relay runs.
    pub async fn relay(&self) -> Result<Vec<Consumer>, Error> {
        self.progress_of(|name| name == RELAY).await
    }

    async fn progress_of(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Consumer>, Error> {
        let mut consumers = Vec::new();
        for row in self.sources.progress.consumers() {
            if wanted(&row.name) {
                consumers.push(self.measured(row).await?);
            }
        }
        Ok(consumers)
    }

    /// How far a place is behind the end of the log.
    pub async fn lag(&self, partition: Partition, position: Position) -> Result<Lag, Error> {
        let events = self.sources.store.end(partition).0.saturating_sub(position.0);
        if events == 0 {
            return Ok(Lag::default());
        }
        let oldest = self.sources.store.read(partition, position, 1).await?;
        let since = oldest.first().map_or(0, |record| self.sources.clock.now().0.saturating_sub(record.recorded_at.0));
        Ok(Lag { events, ms: u64::try_from(since).unwrap_or(0) })
    }

    async fn measured(&self, row: ConsumerProgress) -> Result<Consumer, Error> {
        Ok(Consumer {
            lag: self.lag(row.partition, row.position).await?,
            name: row.name,
            handler: row.consumer,
            partition: row.partition,
            position: row.position,
            state: row.state,
            last_error: row.last_error,
            last_event_at: row.last_event_at,
        })
    }

    /// Dead letters in a state, by id.
    pub async fn dead_letters(
        &self,
        state: Option<&str>,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Page<DeadLetter, Uuid>, Error> {
        let items = self.sources.letters.list(state, after, limit + 1).await?;
        Ok(page(items, limit, |letter| letter.id))
    }

    /// Rows of the registry, by handler and event.
    pub async fn claims(&self, mut filter: ClaimFilter) -> Result<Page<ClaimRow, (String, Uuid)>, Error> {
        let limit = filter.limit;
        filter.limit = limit + 1;
        let items = self.sources.registry.rows(&filter).await?;
        Ok(page(items, limit, |row| (row.handler.clone(), row.event_id)))
    }
}

fn page<T, C>(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> C) -> Page<T, C> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(cursor);
    Page { items, next }
}
