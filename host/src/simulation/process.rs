//! One simulated process: the real event store, workers, projection, relay and parking, over ports that fail. It is
//! started as the app starts it, and dies when its group is killed or one of its tasks ends.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::bus::SimBus;
use super::clock::SimClock;
use super::database::SimWay;
use super::executor::Group;
use super::handlers::{BUNDLED, Version, versions};
use super::objects::SimObjects;
use super::truth::Consumed;
use super::world::World;
use crate::app::membership;
use crate::command::{self, MismatchMode};
use crate::deploy::check::Ask;
use crate::deploy::{self, Deployments};
use crate::domain::{Digest, EventKind, Partition};
use crate::event_store::{self, EventStore};
use crate::metrics::Metrics;
use crate::port::clock::Clock;
use crate::port::registry::Owner;
use crate::projection::{Projector, Target, collections};
use crate::query;
use crate::relay::{self, Relay};
use crate::sandbox::Catalog;
use crate::state::{Completions, Consumer, Intake, Parking, Progress, Snapshots, States, Work};
use crate::state::{consumer, intake, snapshots};
use crate::tests::BUILD;
use crate::tests::components::sandbox;
use crate::tests::database::Database;
use crate::worker::Worker;

pub const ACCOUNTS: &str = "account:Account";
pub const THINGS: &str = "abuse:Thing";
pub const DOCUMENTS: &str = "account-projection:Account";
/// Short, so that a run sees many leases expire.
const LEASE_MS: i64 = 2_000;
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Attempts before an aggregate is parked.
const ATTEMPTS_MAX: u32 = 2;

/// Who consumes what.
pub fn consumed() -> Vec<Consumed> {
    vec![
        Consumed { consumer: ACCOUNTS, topic: "account_commands", kind: EventKind::Command },
        Consumed { consumer: THINGS, topic: "thing_commands", kind: EventKind::Command },
        Consumed { consumer: DOCUMENTS, topic: "account_events", kind: EventKind::Domain },
    ]
}

/// What clients and operators reach while the process runs.
#[derive(Debug)]
pub struct Services {
    pub group: Group,
    pub events: EventStore,
    pub commands: command::Service,
    pub queries: query::Service,
    pub parking: Parking,
    pub deployments: Deployments,
    stop: CancellationToken,
}

/// How a run of a process ended by itself, if it did.
pub type Ended = Arc<Mutex<Option<String>>>;

/// What differs from process to process.
#[derive(Debug, Clone)]
pub struct Setting {
    pub name: String,
    pub run: u64,
    pub skew_ms: i64,
    /// Heads and bytes kept in memory: little, so that the index and the objects are asked.
    pub heads_max: usize,
    pub recent_bytes_max: usize,
    pub index_linger_ms: u64,
    /// Of states and of segments: all or nothing, since what a cache in between gives up depends on its hashes.
    pub cache_bytes_max: usize,
    /// Batches that a consumer has under way at once.
    pub batches_max: usize,
    /// Events from one snapshot of an aggregate to the next; 0 without.
    pub snapshot_interval: u64,
    /// Whether components are loaded already, or must be read from the object store.
    pub is_warm: bool,
}

impl Services {
    /// Opens a process and spawns its tasks into the group.
    pub async fn start(
        world: &Arc<World>,
        group: Group,
        setting: &Setting,
        ended: &Ended,
    ) -> Result<Services, Box<dyn std::error::Error + Send + Sync>> {
        let who = format!("{}#{}", setting.name, setting.run);
        let clock: Arc<dyn Clock> = Arc::new(SimClock { sim: world.sim.clone(), skew_ms: setting.skew_ms });
        let objects = Arc::new(SimObjects { world: world.clone(), who: who.clone() });
        let database = Arc::new(Database(SimWay { world: world.clone(), who: who.clone() }));
        let bus = Arc::new(SimBus { world: world.clone(), who: who.clone() });
        let tasks_of = Tasks { world, group, ended };
        let metrics = Metrics::new();
        let options = event_store::Options {
            writer: setting.name.clone(),
            partitions: world.partitions,
            heads_max: setting.heads_max,
            recent_bytes_max: setting.recent_bytes_max,
            cache_bytes_max: setting.cache_bytes_max,
            index_linger_ms: setting.index_linger_ms,
            unresolved_answer_after_ms: 1_000,
            follow_ms: Some(150),
            metrics: metrics.clone(),
            ..event_store::Options::default()
        };
        let (events, tasks, _) = EventStore::open(options, objects.clone(), database.clone(), clock.clone()).await?;
        for task in tasks {
            tasks_of.spawn(task.name, task.future);
        }
        let stop = CancellationToken::new();
        let deployments = deployed(&events, &objects, &clock, setting).await?;
        let catalog = deployments.catalog().clone();
        let mut states = States::new(events.clone(), catalog.clone(), setting.cache_bytes_max);
        if setting.snapshot_interval > 0 {
            let options = snapshots::Options {
                store: events.store_id(),
                objects: objects.clone(),
                interval: setting.snapshot_interval,
                metrics: metrics.clone(),
            };
            let (snapshots, writer) = Snapshots::new(options, clock.clone());
            states = states.with_snapshots(snapshots);
            tasks_of.spawn("snapshots", writer.run(stop.clone()));
        }
        let completions = Completions::new(events.clone());
        let progress = Progress::default();
        let parking = Parking::open(events.clone(), database.clone(), database.clone(), clock.clone()).await?;
        for partition in (0..world.partitions).map(Partition) {
            tasks_of.spawn("completions", completions.clone().follow(partition, stop.clone()));
            tasks_of.spawn("dead letters", parking.clone().follow(partition, stop.clone()));
            tasks_of.spawn("deployments", deployments.clone().follow(partition, stop.clone()));
        }
        let parts = consumer::Parts {
            events: events.clone(),
            catalog: catalog.clone(),
            registry: database.clone(),
            read_model: database.clone(),
            clock: clock.clone(),
            parking: parking.clone(),
            progress: progress.clone(),
            metrics: metrics.clone(),
            owner: Owner { name: setting.name.clone(), run: setting.run },
        };
        let consumers = Consumers { tasks: &tasks_of, parts: &parts, bus: &bus, setting, stop: &stop };
        for (consumer, topic) in [(ACCOUNTS, "account_commands"), (THINGS, "thing_commands")] {
            let states = states.clone();
            consumers.join(consumer, topic, move || Worker::new(states.clone()));
        }
        consumers.join(DOCUMENTS, "account_events", move || {
            // All versions of it have the same collections.
            let version = versions().iter().find(|version| version.name == "account-projection");
            let collections = version.map(|version| collections(&version.handler)).unwrap_or_default();
            let target = Target { build: BUILD.into(), collections, last: None };
            Projector::new("account-projection", Some("Account"), target)
        });
        for partition in (0..world.partitions).map(Partition) {
            let (events, objects, bus) = (events.clone(), objects.clone(), bus.clone());
            let (clock, progress) = (clock.clone(), progress.clone());
            let relay = Relay::open(relay_options(), events, objects, bus, clock, progress, partition).await?;
            tasks_of.spawn("relay", relay.run(stop.clone()));
        }
        let queries = query::Service::new(query::Sources {
            store: events.clone(),
            catalog: catalog.clone(),
            states,
            read_model: database.clone(),
            registry: database.clone(),
            letters: database,
            progress,
            completions,
            clock: clock.clone(),
        });
        let commands = command::Service::new(events.clone(), catalog, clock, MismatchMode::Error, &metrics);
        Ok(Services { group, events, commands, queries, parking, deployments, stop })
    }

    /// Puts a version in charge, as an operator does.
    pub async fn deploy(&self, version: &Version) -> Result<(), deploy::Error> {
        let upload = self.deployments.upload(version.bytes.clone(), "op").await?;
        let ask = Ask { force: true, ..Ask::default() };
        self.deployments.activate(&upload.name, upload.version.digest, ask, "op").await.map(drop)
    }

    /// Puts the version before the present one in charge again.
    pub async fn roll_back(&self, name: &str) -> Result<(), deploy::Error> {
        self.deployments.rollback(name, Ask::default(), "op").await.map(drop)
    }

    /// The digest that decides or projects under a name in this process.
    pub fn serving(&self, name: &str) -> Option<Digest> {
        self.deployments.catalog().active().get(name).map(|active| active.handler.digest())
    }

    /// Asks the process to end as the app does: consumers first, the log last.
    pub async fn drain(&self, world: &World) {
        self.stop.cancel();
        world.sim.sleep_ms(500).await;
        self.events.close().await;
    }
}

/// The handlers in charge; at the first start of all, those that every process brings.
async fn deployed(
    events: &EventStore,
    objects: &Arc<SimObjects>,
    clock: &Arc<dyn Clock>,
    setting: &Setting,
) -> Result<Deployments, deploy::Error> {
    let catalog = Arc::new(Catalog::default());
    if setting.is_warm {
        versions().iter().for_each(|version| catalog.remember(version.handler.clone()));
    }
    let deployments = Deployments::open(deploy::Parts {
        events: events.clone(),
        objects: objects.clone(),
        sandbox: sandbox().clone(),
        catalog,
        clock: clock.clone(),
    })
    .await?;
    // What is known needs no digest of a component: that is most of what a start costs here.
    let active = deployments.list().await?.values().filter(|deployment| deployment.active.is_some()).count();
    if active < BUNDLED {
        let bundled: Vec<(&str, &[u8])> =
            versions()[..BUNDLED].iter().map(|version| (version.name, &*version.bytes)).collect();
        deployments.ensure_bundled(&bundled).await?;
    }
    Ok(deployments)
}

fn relay_options() -> relay::Options {
    relay::Options {
        batch_max: 8,
        checkpoint_interval: Duration::from_millis(200),
        metrics_log_interval: Duration::from_secs(3_600),
    }
}

fn consumer_options(name: &str, topic: &str, setting: &Setting) -> consumer::Options {
    consumer::Options {
        consumer: name.into(),
        topics: vec![topic.into()],
        attempts_max: ATTEMPTS_MAX,
        lease_ms: LEASE_MS,
        heartbeat_interval: HEARTBEAT,
        batch_max: 8,
        batches_max: setting.batches_max,
        pace: Duration::ZERO,
    }
}

/// Starts consumers as members of their groups, as the app does on a bus between processes.
struct Consumers<'a> {
    tasks: &'a Tasks<'a>,
    parts: &'a consumer::Parts,
    bus: &'a Arc<SimBus>,
    setting: &'a Setting,
    stop: &'a CancellationToken,
}

impl Consumers<'_> {
    fn join<W, F>(&self, name: &'static str, topic: &'static str, work: F)
    where
        W: Work,
        F: Fn() -> W + Clone + Send + Sync + 'static,
    {
        let parts = self.parts.clone();
        let intake = Intake::new(
            name,
            &[topic.to_owned()],
            intake::Parts {
                events: parts.events.clone(),
                bus: self.bus.clone(),
                parking: parts.parking.clone(),
                progress: parts.progress.clone(),
                clock: parts.clock.clone(),
            },
        );
        for partition in (0..parts.events.partitions()).map(Partition) {
            let (share, stop, setting) = (intake.share(), self.stop.clone(), self.setting.clone());
            let (parts, work) = (parts.clone(), work.clone());
            self.tasks.spawn(name, async move {
                let clock = parts.clock.clone();
                let run = |release| {
                    let (parts, work, options) = (parts.clone(), work(), consumer_options(name, topic, &setting));
                    async move {
                        let ended = match Consumer::open(options, parts.clone(), partition, work).await {
                            Ok(consumer) => consumer.run(release).await,
                            Err(error) => Err(error),
                        };
                        parts.progress.leave(name, partition);
                        ended
                    }
                };
                membership::tend(partition, share, &*clock, stop, run).await
            });
        }
        self.tasks.spawn(name, intake.run(self.stop.clone()));
    }
}

struct Tasks<'a> {
    world: &'a Arc<World>,
    group: Group,
    ended: &'a Ended,
}

impl Tasks<'_> {
    /// A task that ends, ends its process: as the app has it.
    fn spawn<E: std::fmt::Display + 'static>(
        &self,
        name: &str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let (name, ended) = (name.to_owned(), self.ended.clone());
        self.world.sim.spawn(self.group, async move {
            let why = match task.await {
                Ok(()) => format!("{name} ended"),
                Err(error) => format!("{name}: {error}"),
            };
            ended.lock().get_or_insert(why);
        });
    }
}
