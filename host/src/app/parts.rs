//! The parts of a process, opened in the order they depend on one another.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use super::database::Database;
use super::supervisor::Supervisor;
use super::{bus, housekeeping, store};
use crate::adapter::system_clock::SystemClock;
use crate::bundled;
use crate::config::Config;
use crate::deploy::{self, Deployments};
use crate::domain::Partition;
use crate::event_store::{self, EventStore};
use crate::metrics::Metrics;
use crate::port::bus::Bus;
use crate::port::clock::Clock;
use crate::port::object_store::ObjectStore;
use crate::port::object_store::probe::probe;
use crate::port::read_model::ReadModel;
use crate::port::read_model::builds::Builds;
use crate::port::registry::{DeadLetters, Owner, Registry};
use crate::replay::Load;
use crate::sandbox::{Catalog, Sandbox};
use crate::state::{Completions, Parking, Progress, Snapshots, States, snapshots};

/// Bytes of folded states kept in memory.
pub const STATES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long committed segments wait to be indexed together. Readers find them in memory meanwhile; a start after a
/// crash folds as much again.
const INDEX_LINGER_MS: u64 = 1_000;

/// Everything the services of a process share.
pub struct Parts {
    pub events: EventStore,
    pub objects: Arc<dyn ObjectStore>,
    pub registry: Arc<dyn Registry>,
    pub letters: Arc<dyn DeadLetters>,
    pub read_model: Arc<dyn ReadModel>,
    pub builds: Arc<dyn Builds>,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    pub catalog: Arc<Catalog>,
    pub deployments: Deployments,
    pub states: States,
    pub parking: Parking,
    pub progress: Progress,
    pub completions: Completions,
    pub metrics: Metrics,
    pub owner: Owner,
    /// Where the derived things lie; a check makes its own in memory.
    pub database: Option<Database>,
    /// Of the data folder.
    pub _lock: File,
}

impl Parts {
    /// Opens everything, rebuilds what must be rebuilt, deploys the bundled handlers at the first start.
    pub async fn open(config: &Config, metrics: Metrics, supervisor: &Supervisor) -> anyhow::Result<Parts> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let store = store::open(config, clock.random_id(), &metrics).await?;
        let objects = store.store;
        probe(objects.as_ref(), clock.random_id()).await?;
        let (database, turn) = Database::open(config, &metrics, clock.as_ref()).await?;
        let options = event_store::Options {
            writer: config.owner.clone(),
            partitions: config.partitions,
            metrics: metrics.clone(),
            index_linger_ms: INDEX_LINGER_MS,
            commit_linger: Some(store.commit_linger),
            follow_ms: store.follow_ms,
            ..event_store::Options::default()
        };
        let (events, tasks, report) =
            EventStore::open(options, objects.clone(), database.index(), clock.clone()).await?;
        if let Some(why) = report.rebuilt {
            tracing::warn!(?why, events = report.folded_events, "the database was rebuilt from the log");
        }
        for task in tasks {
            supervisor.spawn_log(task.name, task.future);
        }
        let opened = Opened { events, objects, database, clock, metrics, lock: store.lock };
        let events = opened.events.clone();
        let parts = Box::pin(opened.with_services(config, supervisor)).await;
        if parts.is_err() {
            // The log's tasks end with it; a later attempt begins with new ones.
            events.close().await;
        }
        drop(turn);
        parts
    }

    /// Gives handlers by digest, active or not, as history was made with them.
    pub fn load(&self) -> Load {
        let deployments = self.deployments.clone();
        Arc::new(move |digest| {
            let deployments = deployments.clone();
            Box::pin(async move { deployments.component(digest).await.map_err(|error| error.to_string()) })
        })
    }

    /// Starts what follows the log's end for the other parts.
    pub fn follow(&self, supervisor: &Supervisor) {
        for partition in (0..self.events.partitions()).map(Partition) {
            let stop = supervisor.signal();
            supervisor.spawn("completions", self.completions.clone().follow(partition, stop.clone()));
            supervisor.spawn("dead letters", self.parking.clone().follow(partition, stop.clone()));
            supervisor.spawn("deployments", self.deployments.clone().follow(partition, stop));
        }
    }

    /// Closes the log; everything that appends has stopped before.
    pub async fn close(&self) {
        self.events.close().await;
        if let Some(database) = &self.database {
            database.close().await;
        }
    }
}

/// The active handlers, and the history of deployments that says which they are.
pub async fn handlers(
    config: &Config,
    events: &EventStore,
    objects: &Arc<dyn ObjectStore>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(Arc<Catalog>, Deployments)> {
    let cache_folder = Some(config.data_dir.join("cache").join("components"));
    let sandbox = Sandbox::new(crate::sandbox::Options { cache_folder, ..Default::default() })?;
    let catalog = Arc::new(Catalog::default());
    let deployments = Deployments::open(deploy::Parts {
        events: events.clone(),
        objects: objects.clone(),
        sandbox,
        catalog: catalog.clone(),
        clock: clock.clone(),
    })
    .await?;
    Ok((catalog, deployments))
}

/// The log with what it lies on, before the services are there.
struct Opened {
    events: EventStore,
    objects: Arc<dyn ObjectStore>,
    database: Database,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    lock: File,
}

impl Opened {
    async fn with_services(self, config: &Config, supervisor: &Supervisor) -> anyhow::Result<Parts> {
        let Opened { events, objects, database, clock, metrics, lock } = self;
        let (catalog, deployments) = handlers(config, &events, &objects, &clock).await?;
        let bundled = bundled::HANDLERS.iter().map(|(stem, bytes)| (*stem, Bytes::from_static(bytes)));
        deployments.ensure_bundled(&bundled.collect::<Vec<_>>()).await?;
        let kept_ms = config.claims_kept_ms;
        let keeping = housekeeping::run(database.clone(), events.clone(), clock.clone(), kept_ms, supervisor.signal());
        supervisor.spawn("housekeeping", keeping);
        let letters = database.dead_letters();
        let registry = database.registry();
        let parking = Parking::open(events.clone(), letters.clone(), registry.clone(), clock.clone()).await?;
        let run = database.next_run(&config.owner, &config.data_dir).await?;
        let mut states = States::new(events.clone(), catalog.clone(), STATES_BYTES_MAX);
        if config.snapshot_interval_events > 0 {
            let options = snapshots::Options {
                store: events.store_id(),
                objects: objects.clone(),
                interval: config.snapshot_interval_events,
                metrics: metrics.clone(),
            };
            let (snapshots, writer) = Snapshots::new(options, clock.clone());
            states = states.with_snapshots(snapshots);
            supervisor.spawn("snapshots", writer.run(supervisor.signal()));
        }
        let parts = Parts {
            states,
            completions: Completions::new(events.clone()),
            bus: bus::open(config, events.store_id(), events.partitions()).await?,
            owner: Owner { name: config.owner.clone(), run },
            read_model: database.read_model(),
            builds: database.builds(),
            progress: Progress::default(),
            events,
            objects,
            registry,
            letters,
            clock,
            catalog,
            deployments,
            parking,
            metrics,
            database: Some(database),
            _lock: lock,
        };
        parts.follow(supervisor);
        Ok(parts)
    }
}
