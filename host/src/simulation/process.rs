//! One simulated process: the real event store, workers, projection, relay and parking, over ports that fail. It is
//! started as the app starts it, and dies when its group is killed or one of its tasks ends.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::bus::SimBus;
use super::clock::SimClock;
use super::database::SimDatabase;
use super::executor::Group;
use super::objects::SimObjects;
use super::truth::Consumed;
use super::world::World;
use crate::app::membership;
use crate::command::{self, MismatchMode};
use crate::domain::{EventKind, Partition};
use crate::event_store::{self, EventStore};
use crate::metrics::Metrics;
use crate::port::clock::Clock;
use crate::port::registry::Owner;
use crate::projection::Projector;
use crate::query;
use crate::relay::{self, Relay};
use crate::sandbox::{Active, Catalog, Handler};
use crate::state::{Completions, Consumer, Intake, Parking, Progress, States, Work, consumer, intake};
use crate::tests::components::{abuse, component, sandbox, together};
use crate::worker::Worker;

const P0: Partition = Partition(0);
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

/// The handlers, compiled once for all runs.
fn active() -> Active {
    static HANDLERS: OnceLock<Vec<Arc<Handler>>> = OnceLock::new();
    let handlers = HANDLERS.get_or_init(|| {
        let components: [Bytes; 3] =
            [component("examples/account"), abuse("decider").into(), component("examples/account-projection")];
        components.iter().map(|bytes| sandbox().load(bytes).unwrap()).collect()
    });
    together(handlers.iter().cloned())
}

/// What clients and operators reach while the process runs.
#[derive(Debug)]
pub struct Services {
    pub group: Group,
    pub events: EventStore,
    pub commands: command::Service,
    pub queries: query::Service,
    pub parking: Parking,
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
        let database = Arc::new(SimDatabase { world: world.clone(), who: who.clone() });
        let bus = Arc::new(SimBus { world: world.clone(), who: who.clone() });
        let metrics = Metrics::new();
        let options = event_store::Options {
            writer: setting.name.clone(),
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
        let tasks_of = Tasks { world, group, ended };
        for task in tasks {
            tasks_of.spawn(task.name, task.future);
        }
        let catalog = Arc::new(Catalog::default());
        catalog.replace(active());
        let states = States::new(events.clone(), catalog.clone(), setting.cache_bytes_max);
        let completions = Completions::new(events.clone());
        let progress = Progress::default();
        let parking = Parking::open(events.clone(), database.clone(), database.clone(), clock.clone()).await?;
        let stop = CancellationToken::new();
        tasks_of.spawn("completions", completions.clone().follow(P0, stop.clone()));
        tasks_of.spawn("dead letters", parking.clone().follow(P0, stop.clone()));
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
        consumers.join(ACCOUNTS, "account_commands", {
            let states = states.clone();
            move || Worker::new(states.clone())
        });
        consumers.join(THINGS, "thing_commands", {
            let states = states.clone();
            move || Worker::new(states.clone())
        });
        consumers.join(DOCUMENTS, "account_events", || Projector {
            handler: "account-projection".into(),
            kind: Some("Account".into()),
        });
        let options = relay::Options {
            batch_max: 8,
            checkpoint_interval: Duration::from_millis(200),
            metrics_log_interval: Duration::from_secs(3_600),
        };
        let relay = Relay::open(options, events.clone(), objects, bus, clock.clone(), progress.clone(), P0).await?;
        tasks_of.spawn("relay", relay.run(stop.clone()));
        let queries = query::Service::new(query::Sources {
            store: events.clone(),
            states,
            read_model: database.clone(),
            registry: database.clone(),
            letters: database,
            progress,
            completions,
            clock: clock.clone(),
        });
        let commands = command::Service::new(events.clone(), catalog, clock, MismatchMode::Error, &metrics);
        Ok(Services { group, events, commands, queries, parking, stop })
    }

    /// Asks the process to end as the app does: consumers first, the log last.
    pub async fn drain(&self, world: &World) {
        self.stop.cancel();
        world.sim.sleep_ms(500).await;
        self.events.close().await;
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
    fn join<W: Work>(&self, name: &'static str, topic: &'static str, work: impl Fn() -> W + Send + Sync + 'static) {
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
        let (share, stop, setting) = (intake.share(), self.stop.clone(), self.setting.clone());
        self.tasks.spawn(name, async move {
            let clock = parts.clock.clone();
            let run = |release| {
                let (parts, work, options) = (parts.clone(), work(), consumer_options(name, topic, &setting));
                async move {
                    let ended = match Consumer::open(options, parts.clone(), P0, work).await {
                        Ok(consumer) => consumer.run(release).await,
                        Err(error) => Err(error),
                    };
                    parts.progress.leave(name, P0);
                    ended
                }
            };
            membership::tend(P0, share, &*clock, stop, run).await
        });
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
