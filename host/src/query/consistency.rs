//! Reads that must see a write: waits until what a token means is decided and projected, within a bound. A write never
//! fails because a projection is late; a read that cannot wait longer says how far it is (contract §2).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::error::Wanted;
use super::status::Terminal;
use super::{Error, Service, Token};
use crate::domain::{Partition, Position, Timestamp};
use crate::port::read_model::builds;
use crate::sandbox::{ActiveHandler, Handler, World};

/// Where a read gets its answer from, hence whom it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// The log itself: what is decided is there.
    Log,
    Instances,
    Classes,
    Databases,
    /// Documents of the projection that writes this collection.
    Collection(&'a str),
    /// What every projection writes.
    Graph,
}

/// How far the projection was that a read was served from.
#[derive(Debug, Clone, Default)]
pub struct Freshness {
    pub positions: Vec<(Partition, Position)>,
    /// When the last event it handled was recorded.
    pub at: Option<Timestamp>,
}

impl Service {
    /// Returns once the read may be served, or says how far the projection is when `wait` is over. Where this process
    /// does not know who writes what is read, `learn` is run first: it lets the catalog follow what other processes
    /// have put in charge, and gives whether it could.
    pub async fn consistent(
        &self,
        source: Source<'_>,
        token: Option<&Token>,
        wait: Duration,
        learn: impl Future<Output = bool>,
    ) -> Result<(), Error> {
        let Some(token) = token else { return Ok(()) };
        let deadline = self.sources.clock.monotonic() + wait;
        if !self.knows_writers_of(source) && self.within(deadline, learn).await != Some(true) {
            return Err(self.behind(source, token.into()));
        }
        let places = match token {
            Token::Command(id) => match self.decided(*id, deadline).await? {
                Some(terminal) => terminal.places,
                None => return Err(self.behind(source, token.into())),
            },
            Token::Positions(places) => places.clone(),
        };
        let consumers = self.consumers_of(source);
        for (partition, position) in &places {
            if self.reached(source, &consumers, *partition, *position) {
                continue;
            }
            let waited = match source {
                Source::Log => self.within(deadline, self.sources.store.reaches(*partition, *position)).await,
                _ => {
                    let projected = self.sources.progress.wait_for(&consumers, *partition, *position);
                    self.within(deadline, projected).await
                }
            };
            if waited.is_none() {
                return Err(self.behind(source, Wanted::Positions(places)));
            }
        }
        Ok(())
    }

    /// The outcome of a command, once it is there; `None` when the wait is over.
    pub async fn decided(&self, command_id: uuid::Uuid, deadline: Duration) -> Result<Option<Terminal>, Error> {
        loop {
            let undecided = match self.terminal(command_id).await? {
                Ok(terminal) => return Ok(Some(terminal)),
                Err(undecided) => undecided,
            };
            match self.within(deadline, self.sources.completions.wait(undecided)).await {
                Some(waited) => waited?,
                None => return Ok(None),
            }
        }
    }

    /// Runs a future until a moment of the monotonic clock.
    pub(super) async fn within<T>(&self, deadline: Duration, future: impl Future<Output = T>) -> Option<T> {
        let left = deadline.saturating_sub(self.sources.clock.monotonic());
        if left.is_zero() {
            return None;
        }
        tokio::select! {
            biased;
            value = future => Some(value),
            () = self.sources.clock.sleep(left) => None,
        }
    }

    /// The moment `wait` from now.
    pub fn deadline(&self, wait: Duration) -> Duration {
        self.sources.clock.monotonic() + wait
    }

    /// How far the projection behind a read is.
    pub fn freshness(&self, source: Source<'_>) -> Freshness {
        let consumers = self.consumers_of(source);
        if consumers.is_empty() {
            let positions = self.all_partitions().map(|p| (p, self.sources.store.end(p))).collect();
            return Freshness { positions, at: None };
        }
        let rows = self.sources.progress.consumers();
        let mine = || rows.iter().filter(|row| consumers.contains(&row.name));
        Freshness {
            positions: self.reached_positions(&consumers),
            at: mine().filter_map(|row| row.last_event_at).max(),
        }
    }

    fn reached_positions(&self, consumers: &[String]) -> Vec<(Partition, Position)> {
        let progress = &self.sources.progress;
        self.all_partitions().map(|p| (p, progress.least(consumers, p).unwrap_or_default())).collect()
    }

    fn reached(&self, source: Source<'_>, consumers: &[String], partition: Partition, position: Position) -> bool {
        match source {
            Source::Log => self.sources.store.end(partition) > position,
            _ => self.sources.progress.least(consumers, partition).is_some_and(|least| least > position),
        }
    }

    fn behind(&self, source: Source<'_>, wanted: Wanted) -> Error {
        Error::Behind { wanted, reached: self.freshness(source).positions }
    }

    fn consumers_of(&self, source: Source<'_>) -> Vec<String> {
        let name = match source {
            Source::Log => return Vec::new(),
            Source::Instances => "projection_worker:instance_events",
            Source::Classes => "projection_worker:ontology_events",
            Source::Databases => "projection_worker:database_events",
            Source::Collection(collection) => return self.writers_of(collection),
            Source::Graph => return self.projections(),
        };
        vec![name.to_owned()]
    }

    /// Whether this process knows who writes what is read. The graph is written by all projections, of which another
    /// process may have put one in charge.
    fn knows_writers_of(&self, source: Source<'_>) -> bool {
        match source {
            Source::Collection(collection) => !self.in_charge(|handler| lists(handler, collection)).is_empty(),
            Source::Graph => !self.sources.store.others_write(),
            Source::Log | Source::Instances | Source::Classes | Source::Databases => true,
        }
    }

    /// The projections in charge whose manifests list the collection. When none does, it may be one of an earlier
    /// version: any.
    fn writers_of(&self, collection: &str) -> Vec<String> {
        let writers = self.in_charge(|handler| lists(handler, collection));
        if writers.is_empty() { self.projections() } else { writers.into_iter().collect() }
    }

    /// Every projection: those in charge, of which some may not have told yet how far they are, here or from another
    /// process; and those whose handler cannot be loaded here.
    fn projections(&self) -> Vec<String> {
        let mut names = self.in_charge(|_| true);
        let deciders = self.consumers_where(|handler| handler.world() != World::Projection);
        let is_other = |name: &str| name.ends_with("_worker") || name == super::admin::RELAY || deciders.contains(name);
        let settled = self.sources.progress.settled().into_iter().map(|row| row.name);
        names.extend(settled.filter(|name| !is_other(name)));
        names.into_iter().collect()
    }

    /// Consumers of the active projection handlers that are so.
    fn in_charge(&self, is_so: impl Fn(&Handler) -> bool) -> BTreeSet<String> {
        self.consumers_where(|handler| handler.world() == World::Projection && is_so(handler))
    }

    /// Plain names of the consumers of active handlers that are so.
    fn consumers_where(&self, is_so: impl Fn(&Handler) -> bool) -> BTreeSet<String> {
        let of = |each: &Arc<ActiveHandler>| {
            let kinds = each.handler.description().kinds.iter();
            kinds.map(|kind| builds::name(&each.name, kind)).collect::<Vec<_>>()
        };
        self.sources.catalog.active().iter().filter(|each| is_so(&each.handler)).flat_map(of).collect()
    }
}

fn lists(handler: &Handler, collection: &str) -> bool {
    handler.description().collections.iter().any(|each| each.name == collection)
}

impl From<&Token> for Wanted {
    fn from(token: &Token) -> Wanted {
        match token {
            Token::Command(id) => Wanted::Outcome(*id),
            Token::Positions(places) => Wanted::Positions(places.clone()),
        }
    }
}
