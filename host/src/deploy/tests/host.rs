//! A host for the tests of the service: a log and components in memory, real components, and processes over them.

use std::sync::Arc;

use bytes::Bytes;

use crate::deploy::{Activation, Deployments, Error, Parts, check::Ask};
use crate::domain::{Digest, Timestamp};
use crate::event_store::{self, EventStore};
use crate::port::clock::Clock;
use crate::port::clock::manual::ManualClock;
use crate::port::index::memory::MemoryIndex;
use crate::port::object_store::memory::MemoryStore;
use crate::sandbox::Catalog;
pub(super) use crate::tests::components::{component, sandbox, variant};

/// A store: what outlives a process.
pub(super) struct Store {
    pub(super) objects: Arc<MemoryStore>,
    pub(super) clock: ManualClock,
    index: Arc<MemoryIndex>,
}

/// What dies with a process.
pub(super) struct Process {
    pub(super) deployments: Deployments,
    events: EventStore,
}

impl std::ops::Deref for Process {
    type Target = Deployments;

    fn deref(&self) -> &Deployments {
        &self.deployments
    }
}

impl Store {
    pub(super) fn new() -> Store {
        Store {
            objects: Arc::new(MemoryStore::new()),
            clock: ManualClock::new(Timestamp(1_765_929_600_000), 7),
            index: Arc::new(MemoryIndex::new()),
        }
    }

    /// A process with its own view of the log.
    pub(super) async fn process(&self) -> Process {
        self.process_on(self.events().await).await
    }

    /// A process that sees what the other appends at once, and has a catalog of its own.
    pub(super) async fn sibling(&self, of: &Process) -> Process {
        self.process_on(of.events.clone()).await
    }

    async fn process_on(&self, events: EventStore) -> Process {
        let deployments = Deployments::open(Parts {
            events: events.clone(),
            objects: self.objects.clone(),
            sandbox: sandbox().clone(),
            catalog: Arc::new(Catalog::default()),
            clock: self.clock(),
        });
        Process { deployments: deployments.await.unwrap(), events }
    }

    async fn events(&self) -> EventStore {
        let options = event_store::Options::default();
        let opened = EventStore::open(options, self.objects.clone(), self.index.clone(), self.clock()).await;
        let (events, tasks, _) = opened.unwrap();
        for task in tasks {
            tokio::spawn(task.future);
        }
        events
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }
}

impl Process {
    /// Uploads and puts in charge.
    pub(super) async fn deploy(&self, component: &Bytes) -> Digest {
        let upload = self.upload(component.clone(), "alice").await.unwrap();
        self.activate(&upload.name, upload.version.digest, forced(), "alice").await.unwrap();
        upload.version.digest
    }

    /// Puts in charge by force, from a revision on.
    pub(super) async fn force(&self, name: &str, digest: Digest, if_revision: u64) -> Result<Activation, Error> {
        let ask = Ask { if_revision: Some(if_revision), ..forced() };
        self.activate(name, digest, ask, "alice").await
    }

    /// The digest that serves under a name.
    pub(super) fn serving(&self, name: &str) -> Option<Digest> {
        self.catalog().active().get(name).map(|active| active.handler.digest())
    }

    /// Types of the events in a handler's stream, oldest first.
    pub(super) async fn told(&self, name: &str) -> Vec<String> {
        match self.get(name).await {
            Ok(deployment) => deployment.history.into_iter().map(|entry| entry.event_type).collect(),
            Err(Error::UnknownHandler { .. }) => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) fn forced() -> Ask {
    Ask { force: true, ..Ask::default() }
}

pub(super) fn account() -> Bytes {
    component("examples/account")
}
