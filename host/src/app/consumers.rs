//! Which consumers a process runs: those of its roles for the bundled domain, and one for each aggregate type of a
//! loaded handler, started as soon as the handler is active.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::membership;
use super::parts::Parts;
use super::start::is_away;
use super::supervisor::Supervisor;
use crate::api::Part;
use crate::config::{Config, Role};
use crate::domain::{Partition, command_topic, event_topic};
use crate::port::bus::{Bus, Share};
use crate::port::object_store::ObjectStore;
use crate::projection::Projector;
use crate::relay::{self, Relay};
use crate::sandbox::{Active, World};
use crate::state::{self, Consumer, Intake, States, consumer, intake};
use crate::worker::Worker;

/// Name of the bundled projection handler: its consumers have fixed names (contract §4).
const BUNDLED_PROJECTION: &str = "projection";
/// Records a consumer reads at once.
const BATCH_MAX: usize = 512;
/// Batches a worker has under way: one is decided while the ones before wait for their outcomes to be written.
const WORKER_BATCHES_MAX: usize = 3;
/// Batches a projection has under way: nobody waits for it as clients do for a worker, and the events that come while
/// one is applied make the next one larger, hence cheaper.
const PROJECTION_BATCHES_MAX: usize = 1;
/// How often the relay stores its checkpoint while it moves.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// How long a consumer of a loaded handler waits for a part that is away before it tries to start again.
const START_RETRY: Duration = Duration::from_secs(1);

/// One consumer that should run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Plan {
    Worker { consumer: String, topics: Vec<String>, attempts_max: u32 },
    Projector { consumer: String, handler: String, topic: String, kind: Option<String> },
}

/// The consumers of this process.
pub struct Consumers {
    names: BTreeSet<String>,
    groups: Groups,
}

/// The groups that this process belongs to, by consumer.
type Groups = Arc<Mutex<BTreeMap<String, Group>>>;

/// What is known of a membership.
struct Group {
    share: watch::Receiver<Share>,
    /// Why no messages come at present.
    trouble: watch::Receiver<Option<String>>,
}

impl Group {
    /// Without messages a consumer follows the log all the same, once it was told what is its own.
    fn part(&self, consumer: &str) -> Option<Part> {
        let (told, trouble) = (self.share.borrow().of > 0, self.trouble.borrow().clone());
        let detail = match (told, trouble) {
            (true, None) => return None,
            (_, Some(trouble)) => trouble,
            (false, None) => "joining its group".to_owned(),
        };
        Some(Part { name: format!("messages of {consumer}"), ready: told, detail })
    }
}

/// A consumer that is open: works until its signal, then finishes.
type Run = BoxFuture<'static, Result<(), state::Error>>;

#[derive(Clone)]
struct Starter {
    config: Arc<Config>,
    parts: consumer::Parts,
    states: States,
    supervisor: Supervisor,
    bus: Arc<dyn Bus>,
    lease_ms: i64,
    running: Arc<Mutex<BTreeSet<(Plan, Partition)>>>,
    groups: Groups,
}

impl Consumers {
    /// Starts the relay, the consumers of this process's roles, and the watch for handlers that come later.
    pub async fn start(config: &Config, parts: &Parts, supervisor: &Supervisor) -> anyhow::Result<Consumers> {
        let starter = Starter {
            config: Arc::new(config.clone()),
            parts: consumer_parts(parts),
            states: parts.states.clone(),
            supervisor: supervisor.clone(),
            bus: parts.bus.clone(),
            lease_ms: i64::try_from(super::bus::lease_ms(config, &*parts.bus))?,
            running: Arc::default(),
            groups: Arc::default(),
        };
        start_relay(config, parts, supervisor).await?;
        if !parts.bus.follows_log() {
            starter.follow_others(parts.objects.clone());
        }
        let bundled = bundled(config);
        let mut names: BTreeSet<String> = bundled.iter().map(|plan| plan.consumer().to_owned()).collect();
        // Commands are taken and decided without the relay: a process that takes them stays ready.
        if !config.roles.contains(&Role::Api) {
            names.insert(relay::NAME.to_owned());
        }
        let groups = starter.groups.clone();
        for plan in bundled {
            starter.start(plan).await?;
        }
        let changes = parts.catalog.changes();
        starter.start_loaded(&parts.catalog.active()).await?;
        let (catalog, clock) = (parts.catalog.clone(), parts.clock.clone());
        let stop = supervisor.signal();
        supervisor.spawn("loaded handlers", async move {
            let mut changes = changes;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return anyhow::Ok(()),
                    changed = changes.changed() => if changed.is_err() { return Ok(()) },
                }
                changes.borrow_and_update();
                while let Err(error) = starter.start_loaded(&catalog.active()).await {
                    if !is_away(&error) {
                        return Err(error);
                    }
                    tracing::warn!(error = %format!("{error:#}"), "a consumer of a loaded handler cannot start yet");
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = clock.sleep(START_RETRY) => {}
                    }
                }
            }
        });
        Ok(Consumers { names, groups })
    }

    /// Gives, when asked, the groups of which there is something to tell.
    pub fn parts(&self) -> impl Fn() -> Vec<Part> + use<> {
        let groups = self.groups.clone();
        move || groups.lock().iter().filter_map(|(consumer, group)| group.part(consumer)).collect()
    }

    /// Names of the consumers that must run for the process to be ready.
    pub fn names(&self) -> BTreeSet<String> {
        self.names.clone()
    }
}

impl Plan {
    fn consumer(&self) -> &str {
        match self {
            Plan::Worker { consumer, .. } | Plan::Projector { consumer, .. } => consumer,
        }
    }

    fn topics(&self) -> Vec<String> {
        match self {
            Plan::Worker { topics, .. } => topics.clone(),
            Plan::Projector { topic, .. } => vec![topic.clone()],
        }
    }
}

/// The consumers of the bundled domain that this process's roles ask for.
fn bundled(config: &Config) -> Vec<Plan> {
    let mut plans = Vec::new();
    if config.roles.contains(&Role::InstanceWorker) {
        plans.push(Plan::Worker {
            consumer: "instance_worker".into(),
            topics: vec!["instance_commands".into()],
            attempts_max: config.instance_attempts_max,
        });
    }
    if config.roles.contains(&Role::OntologyWorker) {
        plans.push(Plan::Worker {
            consumer: "ontology_worker".into(),
            topics: vec!["ontology_commands".into(), "database_commands".into()],
            attempts_max: config.ontology_attempts_max,
        });
    }
    if config.roles.contains(&Role::ProjectionWorker) {
        for topic in ["instance_events", "ontology_events", "database_events"] {
            plans.push(projector(BUNDLED_PROJECTION, topic.into(), None));
        }
    }
    plans
}

fn projector(handler: &str, topic: String, kind: Option<String>) -> Plan {
    let consumer = match &kind {
        None => format!("projection_worker:{topic}"),
        Some(kind) => format!("{handler}:{kind}"),
    };
    Plan::Projector { consumer, handler: handler.to_owned(), topic, kind }
}

/// The consumers that the active handlers ask for besides the bundled ones.
fn loaded(config: &Config, active: &Active) -> Vec<Plan> {
    let mut plans = Vec::new();
    for handler in active.iter() {
        for kind in &handler.handler.description().kinds {
            let bundled = matches!(kind.as_str(), "Instance" | "InstanceBatch" | "OntologyClass" | "Database");
            match handler.handler.world() {
                World::Instance | World::Ontology if !bundled && config.roles.contains(&Role::InstanceWorker) => {
                    plans.push(Plan::Worker {
                        consumer: format!("{}:{kind}", handler.name),
                        topics: vec![command_topic(kind)],
                        attempts_max: config.instance_attempts_max,
                    });
                }
                World::Projection if config.roles.contains(&Role::ProjectionWorker) => {
                    let is_bundled_handler = &*handler.name == BUNDLED_PROJECTION;
                    let kind_limit = (!is_bundled_handler).then(|| kind.to_string());
                    plans.push(projector(&handler.name, event_topic(kind), kind_limit));
                }
                _ => {}
            }
        }
    }
    plans
}

impl Starter {
    async fn start_loaded(&self, active: &Active) -> anyhow::Result<()> {
        for plan in loaded(&self.config, active) {
            self.start(plan).await?;
        }
        Ok(())
    }

    /// Starts a consumer on every partition, unless it runs.
    async fn start(&self, plan: Plan) -> anyhow::Result<()> {
        let partitions = (0..self.parts.events.partitions()).map(Partition);
        if !self.bus.follows_log() {
            // As a member of a group it takes the partitions it is given, whichever.
            if self.running.lock().insert((plan.clone(), Partition(0))) {
                self.join(plan, partitions);
            }
            return Ok(());
        }
        for partition in partitions {
            let one = (plan.clone(), partition);
            if !self.running.lock().contains(&one) {
                let run = self.open(&plan, partition, self.supervisor.signal()).await?;
                self.supervisor.spawn(format!("{} on partition {partition}", plan.consumer()), run);
                self.running.lock().insert(one);
            }
        }
        Ok(())
    }

    /// Joins the consumer's group, and runs the consumer on the partitions that the group leaves to this process.
    fn join(&self, plan: Plan, partitions: impl Iterator<Item = Partition>) {
        let parts = intake::Parts {
            events: self.parts.events.clone(),
            bus: self.bus.clone(),
            parking: self.parts.parking.clone(),
            progress: self.parts.progress.clone(),
            clock: self.parts.clock.clone(),
        };
        let intake = Intake::new(plan.consumer(), &plan.topics(), parts);
        let group = Group { share: intake.share(), trouble: intake.trouble() };
        self.groups.lock().insert(plan.consumer().to_owned(), group);
        for partition in partitions {
            let (starter, plan, share) = (self.clone(), plan.clone(), intake.share());
            let name = format!("{} on partition {partition}", plan.consumer());
            self.supervisor.spawn(name, async move {
                let (clock, stop) = (starter.parts.clock.clone(), starter.supervisor.signal());
                let run = |release| starter.while_mine(&plan, partition, release);
                membership::tend(partition, share, &*clock, stop, run).await
            });
        }
        let stop = self.supervisor.signal();
        self.supervisor.spawn(format!("messages of {}", plan.consumer()), intake.run(stop));
    }

    async fn while_mine(
        &self,
        plan: &Plan,
        partition: Partition,
        release: CancellationToken,
    ) -> Result<(), state::Error> {
        let ended = match self.open(plan, partition, release).await {
            Ok(run) => run.await,
            Err(error) => Err(error),
        };
        self.parts.progress.leave(plan.consumer(), partition);
        ended
    }

    fn follow_others(&self, objects: Arc<dyn ObjectStore>) {
        let (progress, read_model, clock) =
            (self.parts.progress.clone(), self.parts.read_model.clone(), self.parts.clock.clone());
        let stop = self.supervisor.signal();
        self.supervisor.spawn("progress of other processes", async move {
            membership::follow_others(progress, &*read_model, &*objects, &*clock, stop).await
        });
    }

    /// Opens a consumer on a partition, from its checkpoint.
    async fn open(&self, plan: &Plan, partition: Partition, stop: CancellationToken) -> Result<Run, state::Error> {
        let topics = plan.topics();
        match plan {
            Plan::Worker { consumer, attempts_max, .. } => {
                let options = self.options(consumer, topics, *attempts_max, WORKER_BATCHES_MAX);
                let work = Worker::new(self.states.clone());
                Ok(Consumer::open(options, self.parts.clone(), partition, work).await?.run(stop).boxed())
            }
            Plan::Projector { consumer, handler, kind, .. } => {
                let attempts_max = self.config.projection_attempts_max;
                let options = self.options(consumer, topics, attempts_max, PROJECTION_BATCHES_MAX);
                let work = Projector { handler: handler.clone(), kind: kind.clone() };
                Ok(Consumer::open(options, self.parts.clone(), partition, work).await?.run(stop).boxed())
            }
        }
    }

    fn options(&self, consumer: &str, topics: Vec<String>, attempts_max: u32, batches_max: usize) -> consumer::Options {
        consumer::Options {
            consumer: consumer.to_owned(),
            topics,
            attempts_max,
            lease_ms: self.lease_ms,
            heartbeat_interval: Duration::from_millis(self.config.heartbeat_ms),
            batch_max: BATCH_MAX,
            batches_max,
        }
    }
}

async fn start_relay(config: &Config, parts: &Parts, supervisor: &Supervisor) -> anyhow::Result<()> {
    if !config.roles.contains(&Role::Relay) {
        return Ok(());
    }
    for partition in (0..parts.events.partitions()).map(Partition) {
        let options = relay::Options {
            batch_max: config.publisher.batch_events,
            checkpoint_interval: CHECKPOINT_INTERVAL,
            metrics_log_interval: Duration::from_millis(config.publisher.metrics_log_interval_ms),
        };
        let relay = Relay::open(
            options,
            parts.events.clone(),
            parts.objects.clone(),
            parts.bus.clone(),
            parts.clock.clone(),
            parts.progress.clone(),
            partition,
        )
        .await?;
        supervisor.spawn(format!("relay on partition {partition}"), relay.run(supervisor.signal()));
    }
    Ok(())
}

fn consumer_parts(parts: &Parts) -> consumer::Parts {
    consumer::Parts {
        events: parts.events.clone(),
        catalog: parts.catalog.clone(),
        registry: parts.registry.clone(),
        read_model: parts.read_model.clone(),
        clock: parts.clock.clone(),
        parking: parts.parking.clone(),
        progress: parts.progress.clone(),
        metrics: parts.metrics.clone(),
        owner: parts.owner.clone(),
    }
}
