//! One simulated process: the real event store, workers, projection, relay and parking, over ports that fail. It is
//! started as the app starts it, and dies when its group is killed or one of its tasks ends.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bus::SimBus;
use super::clock::{SimClock, Skew};
use super::database::SimWay;
use super::executor::Group;
use super::handlers::{BUNDLED, Version, versions};
use super::objects::SimObjects;
use super::truth::Consumed;
use super::world::World;
use crate::app::builds::{self, Keeper, Projecting};
use crate::app::membership;
use crate::codec::pack;
use crate::command::{self, MismatchMode};
use crate::deploy::check::Ask;
use crate::deploy::{self, Deployments};
use crate::domain::{Digest, EventKind, Partition};
use crate::error::{Classified as _, Kind};
use crate::event_store::{self, EventStore};
use crate::metrics::Metrics;
use crate::port::clock::Clock;
use crate::port::read_model::builds::Begun;
use crate::port::registry::{Owner, Registry};
use crate::projection::Projector;
use crate::query;
use crate::relay::{self, Relay};
use crate::sandbox::Catalog;
use crate::state::{self, consumer, intake, snapshots};
use crate::state::{Completions, Consumer, Intake, Parking, Progress, Snapshots, States, Work};
use crate::tests::components::sandbox;
use crate::tests::database::Database;
use crate::worker::Worker;

pub const ACCOUNTS: &str = "account:Account";
pub const THINGS: &str = "abuse:Thing";
pub const DOCUMENTS: &str = "account-projection:Account";
/// Short, so that a run sees many leases expire.
const LEASE_MS: i64 = 2_000;
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How often a process looks what others made of the builds that they share.
const LOOK: Duration = Duration::from_secs(1);
/// How often a process lets go of claims that have ended, and how long they are kept: so short that most of a run is
/// known from `aggregate_versions` only.
const RETIREMENT: Duration = Duration::from_millis(700);
const CLAIMS_KEPT_MS: i64 = 500;
/// How often a process packs segments, and how few are a pack.
const PACKING: Duration = Duration::from_millis(400);
pub const PACK_SIZE: pack::Size = pack::Size(4);
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

/// Of all processes of all runs: to register them anew for each process would take a twentieth of the time.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// What differs from process to process.
#[derive(Debug, Clone)]
pub struct Setting {
    pub name: String,
    pub run: u64,
    pub skew: Skew,
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
    /// Whether it packs segments; all read what others packed.
    pub packs: bool,
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
        let clock: Arc<dyn Clock> = Arc::new(SimClock { sim: world.sim.clone(), skew: setting.skew.clone() });
        let objects = Arc::new(SimObjects { world: world.clone(), who: who.clone() });
        let database = Arc::new(Database(SimWay { world: world.clone(), who: who.clone() }));
        let bus = Arc::new(SimBus { world: world.clone(), who: who.clone() });
        let tasks_of = Tasks { world: world.clone(), group, ended: ended.clone() };
        let metrics = METRICS.clone();
        let options = event_store::Options {
            writer: setting.name.clone(),
            partitions: world.partitions,
            heads_max: setting.heads_max,
            recent_bytes_max: setting.recent_bytes_max,
            cache_bytes_max: setting.cache_bytes_max,
            index_linger_ms: setting.index_linger_ms,
            unresolved_answer_after_ms: 1_000,
            follow_ms: Some(150),
            pack_size: PACK_SIZE,
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
        let consumers = Consumers {
            tasks: tasks_of.clone(),
            parts,
            deployments: deployments.clone(),
            bus: bus.clone(),
            setting: setting.clone(),
        };
        for (consumer, topic) in [(ACCOUNTS, "account_commands"), (THINGS, "thing_commands")] {
            let states = states.clone();
            let worker = move || std::future::ready(Worker::new(states.clone()));
            consumers.join(consumer, topic, None, &Running::until(&stop), worker);
        }
        let keeper = Keeper::new(builds::Parts {
            builds: database.clone(),
            read_model: database.clone(),
            deployments: deployments.clone(),
            events: events.clone(),
            parking: parking.clone(),
            progress: progress.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            is_shared: true,
        });
        let director = Director { consumers, keeper, running: BTreeMap::new(), stop: stop.clone() };
        tasks_of.spawn("builds", director.run());
        let (others, model, store) = (progress.clone(), database.clone(), objects.clone());
        let (look, until) = (clock.clone(), stop.clone());
        tasks_of.spawn("progress of other processes", async move {
            membership::follow_others(others, &*model, &*model, &*store, &*look, until).await
        });
        tasks_of.spawn("retirement", retire(database.clone(), clock.clone()));
        if setting.packs {
            tasks_of.spawn("packs", pack(events.clone(), clock.clone()));
        }
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

    /// Has a projection written anew.
    pub async fn rebuild(&self, name: &str) -> Result<(), deploy::Error> {
        self.deployments.rebuild(name, None, "op").await.map(drop)
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
        let bundled: Vec<_> =
            versions()[..BUNDLED].iter().map(|version| (version.name, version.bytes.clone())).collect();
        deployments.ensure_bundled(&bundled).await?;
    }
    Ok(deployments)
}

/// Lets go of old claims.
async fn retire(registry: Arc<dyn Registry>, clock: Arc<dyn Clock>) -> Result<(), state::Error> {
    loop {
        clock.sleep(RETIREMENT).await;
        // What an error leaves is there the next time.
        let _retired = registry.retire(clock.now().plus_ms(-CLAIMS_KEPT_MS), usize::MAX).await;
    }
}

/// Packs small segments.
async fn pack(events: EventStore, clock: Arc<dyn Clock>) -> Result<(), state::Error> {
    loop {
        clock.sleep(PACKING).await;
        for partition in (0..events.partitions()).map(Partition) {
            // What an error leaves is there the next time.
            let _packed = events.pack(partition, usize::MAX).await;
        }
    }
}

fn relay_options() -> relay::Options {
    relay::Options {
        batch_max: 8,
        checkpoint_interval: Duration::from_millis(200),
        metrics_log_interval: Duration::from_secs(3_600),
    }
}

fn consumer_options(name: &str, topic: &str, build: Option<Begun>, setting: &Setting) -> consumer::Options {
    consumer::Options {
        consumer: name.into(),
        topics: vec![topic.into()],
        build,
        attempts_max: ATTEMPTS_MAX,
        lease_ms: LEASE_MS,
        heartbeat_interval: HEARTBEAT,
        batch_max: 8,
        batches_max: setting.batches_max,
        pace: Duration::ZERO,
    }
}

/// A consumer that runs until it is told to stop.
struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    fn until(stop: &CancellationToken) -> Running {
        Running { stop: stop.child_token(), tasks: TaskTracker::new() }
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Runs the consumers of the builds that the deployment history wants, as the app does.
struct Director {
    consumers: Consumers,
    keeper: Keeper,
    running: BTreeMap<Projecting, Running>,
    stop: CancellationToken,
}

impl Director {
    async fn run(mut self) -> Result<(), state::Error> {
        let clock = self.consumers.parts.clock.clone();
        let mut changes = self.consumers.deployments.changes();
        loop {
            let again = match self.direct().await {
                Ok(again) => again.unwrap_or(LOOK),
                Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Unknown) => LOOK,
                Err(error) => return Err(error),
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
                () = clock.sleep(again) => {}
            }
        }
    }

    async fn direct(&mut self) -> Result<Option<Duration>, state::Error> {
        let kept = self.keeper.keep().await?;
        let unwanted = self.running.keys().filter(|each| !kept.run.contains(*each)).cloned();
        for each in unwanted.collect::<Vec<_>>() {
            if let Some(running) = self.running.remove(&each) {
                running.end().await;
            }
        }
        kept.gone.iter().for_each(|consumer| self.consumers.parts.progress.remove(consumer));
        for each in kept.run {
            if !self.running.contains_key(&each) {
                let running = Running::until(&self.stop);
                self.consumers.project(&each, &running);
                self.running.insert(each, running);
            }
        }
        if kept.again.is_some() {
            self.keeper.proceed().await?;
        }
        Ok(kept.again)
    }
}

/// Starts consumers as members of their groups, as the app does on a bus between processes.
struct Consumers {
    tasks: Tasks,
    parts: consumer::Parts,
    deployments: Deployments,
    bus: Arc<SimBus>,
    setting: Setting,
}

impl Consumers {
    fn project(&self, each: &Projecting, running: &Running) {
        let (deployments, of) = (self.deployments.clone(), each.clone());
        self.join(&each.consumer, &each.topic, Some(&each.build), running, move || {
            let (deployments, of) = (deployments.clone(), of.clone());
            async move {
                let target = builds::target(&deployments, &of).await;
                Projector::new(&of.handler, of.kind.as_deref(), target)
            }
        });
    }

    fn join<W, F, M>(&self, name: &str, topic: &str, build: Option<&Begun>, running: &Running, work: F)
    where
        W: Work,
        M: Future<Output = W> + Send,
        F: Fn() -> M + Clone + Send + Sync + 'static,
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
            let (share, stop) = (intake.share(), running.stop.clone());
            let (parts, work) = (parts.clone(), work.clone());
            let (consumer, options) = (name.to_owned(), consumer_options(name, topic, build.cloned(), &self.setting));
            self.tasks.spawn_until(name, running, async move {
                let clock = parts.clock.clone();
                let run = |release| {
                    let (parts, work, options, name) = (parts.clone(), work.clone(), options.clone(), &consumer);
                    async move {
                        let ended = match Consumer::open(options, parts.clone(), partition, work().await).await {
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
        self.tasks.spawn_until(name, running, intake.run(running.stop.clone()));
    }
}

#[derive(Clone)]
struct Tasks {
    world: Arc<World>,
    group: Group,
    ended: Ended,
}

impl Tasks {
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

    /// The same for one that may end when it was told to.
    fn spawn_until(
        &self,
        name: &str,
        running: &Running,
        task: impl Future<Output = Result<(), state::Error>> + Send + 'static,
    ) {
        let (stop, here) = (running.stop.clone(), running.tasks.token());
        self.spawn(name, async move {
            let ended = task.await;
            drop(here);
            if ended.is_ok() && stop.is_cancelled() {
                std::future::pending::<()>().await;
            }
            ended
        });
    }
}
