//! Which handlers are active, as one immutable set that is swapped atomically, and which others are loaded, for replay.
//! A reader takes the set once for each batch, so a swap takes effect between two events and work under way ends on the
//! handler it began with. Written by the deploy service alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use quick_cache::sync::Cache;
use tokio::sync::watch;

use super::handler::{Handler, World};
use crate::domain::{AggregateType, Digest};
use crate::error::{Classified, Kind};

/// Inactive handlers kept loaded: replays and work that ends on an older version need few at a time, and each costs
/// about a megabyte.
const LOADED_MAX: usize = 32;

/// A handler that is in charge under its name.
#[derive(Debug, Clone)]
pub struct ActiveHandler {
    pub name: Arc<str>,
    /// Counts the activations under this name: 1, 2, 3 …
    pub revision: u64,
    pub handler: Arc<Handler>,
}

/// Why a command is decided by nobody.
#[derive(Debug)]
pub enum NotTaken<'a> {
    /// The handler of the kind is in charge and could not be loaded.
    HandlerMissing,
    NoHandler,
    /// The handler of the kind does not declare the command.
    By(&'a ActiveHandler),
}

/// Why a set of handlers cannot be active together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    #[error("two active handlers have the name {name}")]
    NameTaken { name: Arc<str> },
    #[error("{first} and {second} both decide for {kind}: deactivate one")]
    KindTaken { kind: AggregateType, first: Arc<str>, second: Arc<str> },
}

impl Classified for CatalogError {
    fn kind(&self) -> Kind {
        Kind::Conflict
    }

    fn code(&self) -> &'static str {
        match self {
            CatalogError::NameTaken { .. } => "handler_name_taken",
            CatalogError::KindTaken { .. } => "handler_kind_taken",
        }
    }
}

/// An immutable set of active handlers. Exactly one handler decides for a kind; any number project or upcast it.
#[derive(Debug, Default)]
pub struct Active {
    by_name: BTreeMap<Arc<str>, Arc<ActiveHandler>>,
    deciding: HashMap<String, Arc<ActiveHandler>>,
    projecting: HashMap<String, Vec<Arc<ActiveHandler>>>,
    upcasting: HashMap<String, Vec<Arc<ActiveHandler>>>,
    missing: HashSet<String>,
    missing_upcasters: HashSet<String>,
}

impl Active {
    /// Builds the look-ups; refuses two handlers of one name, and two that decide for one kind.
    pub fn new(handlers: impl IntoIterator<Item = ActiveHandler>) -> Result<Active, CatalogError> {
        let mut active = Active::default();
        for handler in handlers {
            let handler = Arc::new(handler);
            if active.by_name.insert(handler.name.clone(), handler.clone()).is_some() {
                return Err(CatalogError::NameTaken { name: handler.name.clone() });
            }
        }
        for handler in active.by_name.values() {
            for kind in &handler.handler.description().kinds {
                match handler.handler.world() {
                    World::Instance | World::Ontology => {
                        if let Some(first) = active.deciding.insert(kind.to_string(), handler.clone()) {
                            let (first, second) = (first.name.clone(), handler.name.clone());
                            return Err(CatalogError::KindTaken { kind: kind.clone(), first, second });
                        }
                    }
                    World::Projection => active.projecting.entry(kind.to_string()).or_default().push(handler.clone()),
                    World::Upcaster => active.upcasting.entry(kind.to_string()).or_default().push(handler.clone()),
                }
            }
        }
        Ok(active)
    }

    /// Notes kinds whose handler is in charge and could not be loaded: nobody may take them for kinds without one.
    pub fn lacking(mut self, kinds: impl IntoIterator<Item = String>) -> Active {
        self.missing = kinds.into_iter().filter(|kind| !self.deciding.contains_key(kind)).collect();
        self
    }

    /// Whether the handler that decides for this kind could not be loaded: what needs it has to wait.
    pub fn lacks(&self, kind: &str) -> bool {
        self.missing.contains(kind)
    }

    /// Notes kinds with an upcaster that is in charge and could not be loaded: what others do not understand may be
    /// understood when it is back.
    pub fn lacking_upcasters(mut self, kinds: impl IntoIterator<Item = String>) -> Active {
        self.missing_upcasters = kinds.into_iter().collect();
        self
    }

    /// Whether an upcaster of this kind could not be loaded.
    pub fn lacks_upcaster(&self, kind: &str) -> bool {
        self.missing_upcasters.contains(kind)
    }

    /// The handler of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<ActiveHandler>> {
        self.by_name.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ActiveHandler>> {
        self.by_name.values()
    }

    /// The handler that decides and folds aggregates of this kind.
    pub fn command_handler(&self, kind: &str) -> Option<&Arc<ActiveHandler>> {
        self.deciding.get(kind)
    }

    /// Whether some handler in charge decides this command of this kind.
    pub fn takes(&self, kind: &str, command: &str) -> Result<(), NotTaken<'_>> {
        let Some(handler) = self.command_handler(kind) else {
            return Err(if self.lacks(kind) { NotTaken::HandlerMissing } else { NotTaken::NoHandler });
        };
        let is_taken = handler.handler.description().commands.iter().any(|known| known.name == command);
        if is_taken { Ok(()) } else { Err(NotTaken::By(handler)) }
    }

    /// The projections of events of this kind, by name.
    pub fn projection_handlers(&self, kind: &str) -> &[Arc<ActiveHandler>] {
        self.projecting.get(kind).map_or(&[], Vec::as_slice)
    }

    /// The upcasters of events of this kind, by name.
    pub fn upcasters(&self, kind: &str) -> &[Arc<ActiveHandler>] {
        self.upcasting.get(kind).map_or(&[], Vec::as_slice)
    }

    /// The active handler with this digest.
    pub fn by_digest(&self, digest: Digest) -> Option<&Arc<ActiveHandler>> {
        self.by_name.values().find(|handler| handler.handler.digest() == digest)
    }
}

/// The active set, and a bounded cache of other loaded handlers.
#[derive(Debug)]
pub struct Catalog {
    active: ArcSwap<Active>,
    loaded: Cache<Digest, Arc<Handler>>,
    changes: watch::Sender<u64>,
}

impl Default for Catalog {
    fn default() -> Self {
        Catalog { active: ArcSwap::default(), loaded: Cache::new(LOADED_MAX), changes: watch::Sender::new(0) }
    }
}

impl Catalog {
    /// The set that is active now. Take it once for a batch.
    pub fn active(&self) -> Arc<Active> {
        self.active.load_full()
    }

    /// Puts another set in charge, atomically. The handlers that leave stay loaded for a while.
    pub fn replace(&self, next: Active) {
        let before = self.active.swap(Arc::new(next));
        for handler in before.iter() {
            self.remember(handler.handler.clone());
        }
        self.changes.send_modify(|generation| *generation += 1);
    }

    /// Follows the active set: the number counts its replacements, and is new only once the new set is in charge. Who
    /// runs something for each active handler starts and ends it by this.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Keeps a handler loaded, so that [`Catalog::resolve`] finds it; the one used longest ago may leave.
    pub fn remember(&self, handler: Arc<Handler>) {
        self.loaded.insert(handler.digest(), handler);
    }

    /// A handler by digest, active or loaded.
    pub fn resolve(&self, digest: Digest) -> Option<Arc<Handler>> {
        match self.active.load().by_digest(digest) {
            Some(active) => Some(active.handler.clone()),
            None => self.loaded.get(&digest),
        }
    }

    /// As [`Catalog::resolve`]; what is not loaded is made by `load`, once even when many ask at the same time.
    pub fn resolve_or_load<E>(
        &self,
        digest: Digest,
        load: impl FnOnce() -> Result<Arc<Handler>, E>,
    ) -> Result<Arc<Handler>, E> {
        if let Some(active) = self.active.load().by_digest(digest) {
            return Ok(active.handler.clone());
        }
        self.loaded.get_or_insert_with(&digest, load)
    }
}
