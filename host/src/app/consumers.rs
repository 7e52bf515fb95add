//! Which consumers a process runs: those of its roles for the bundled domain, and one for each aggregate type of a
//! loaded handler, started as soon as the handler is active; for a projection, those of each of its builds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::builds::{self, Keeper, Projecting, target};
use super::membership;
use super::parts::Parts;
use super::start::is_away;
use super::supervisor::Supervisor;
use crate::api::Part;
use crate::config::{Config, Role};
use crate::deploy::Deployments;
use crate::domain::{Partition, command_topic};
use crate::error::{Classified as _, Kind};
use crate::port::bus::{Bus, Share};
use crate::port::object_store::ObjectStore;
use crate::port::read_model::builds::Builds;
use crate::projection::Projector;
use crate::relay::{self, Relay};
use crate::sandbox::{Active, World};
use crate::state::{self, Consumer, Intake, States, consumer, intake};
use crate::worker::Worker;

/// The consumers of the bundled projection: they have fixed names (contract §4).
const BUNDLED_PROJECTIONS: [&str; 3] =
    ["projection_worker:instance_events", "projection_worker:ontology_events", "projection_worker:database_events"];
/// Records a consumer reads at once.
const BATCH_MAX: usize = 512;
/// Batches a worker has under way: one is decided while the ones before wait for their outcomes to be written.
const WORKER_BATCHES_MAX: usize = 3;
/// Batches a projection has under way: nobody waits for it as clients do for a worker, and the events that come while
/// one is applied make the next one larger, hence cheaper.
const PROJECTION_BATCHES_MAX: usize = 1;
/// For the same reason a projection that is busy lets some time pass: a read that waits for its write waits so much
/// longer at most.
const PROJECTION_PACE: Duration = Duration::from_millis(10);
/// How often the relay stores its checkpoint while it moves.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// How often a process looks what others made of the builds that they share.
const SHARED_LOOK: Duration = Duration::from_secs(1);
/// How long a consumer of a loaded handler waits for a part that is away before it tries to start again.
const START_RETRY: Duration = Duration::from_secs(1);

/// One consumer that should run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Plan {
    Worker { consumer: String, topics: Vec<String>, attempts_max: u32 },
    Projector(Projecting),
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
    /// Whether the process is not ready without it.
    is_needed: bool,
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
        Some(Part { name: format!("messages of {consumer}"), ready: told || !self.is_needed, detail })
    }
}

/// A consumer that is open: works until its signal, then finishes.
type Run = BoxFuture<'static, Result<(), state::Error>>;

/// The tasks of a consumer.
struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Clone)]
struct Starter {
    config: Arc<Config>,
    parts: consumer::Parts,
    states: States,
    supervisor: Supervisor,
    bus: Arc<dyn Bus>,
    lease_ms: i64,
    builds: Arc<dyn Builds>,
    deployments: Deployments,
    groups: Groups,
}

/// Starts and stops consumers, as the handlers and the builds of projections want it.
struct Director {
    starter: Starter,
    /// In a process that projects.
    keeper: Option<Keeper>,
    running: BTreeMap<Plan, Running>,
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
            builds: parts.builds.clone(),
            deployments: parts.deployments.clone(),
            groups: Arc::default(),
        };
        start_relay(config, parts, supervisor).await?;
        if !parts.bus.follows_log() {
            starter.follow_others(parts.objects.clone());
        }
        let mut names: BTreeSet<String> = bundled(config).iter().map(|plan| plan.consumer().to_owned()).collect();
        let projects = config.roles.contains(&Role::ProjectionWorker);
        if projects {
            names.extend(BUNDLED_PROJECTIONS.map(str::to_owned));
        }
        // Commands are taken and decided without the relay: a process that takes them stays ready.
        if !config.roles.contains(&Role::Api) {
            names.insert(relay::NAME.to_owned());
        }
        let groups = starter.groups.clone();
        let keeper = projects.then(|| Keeper::new(keeper_parts(parts)));
        let mut director = Director { starter, keeper, running: BTreeMap::new() };
        let again = director.direct().await?;
        supervisor.spawn("handlers and builds", director.run(again));
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
            Plan::Worker { consumer, .. } => consumer,
            Plan::Projector(projecting) => &projecting.consumer,
        }
    }

    fn topics(&self) -> Vec<String> {
        match self {
            Plan::Worker { topics, .. } => topics.clone(),
            Plan::Projector(projecting) => vec![projecting.topic.clone()],
        }
    }
}

/// The workers of the bundled domain that this process's roles ask for.
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
    plans
}

/// The workers that the active handlers ask for besides the bundled ones.
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
                _ => {}
            }
        }
    }
    plans
}

impl Director {
    /// Follows handlers and builds until told to stop.
    async fn run(mut self, mut again: Option<Duration>) -> anyhow::Result<()> {
        let (clock, stop) = (self.starter.parts.clock.clone(), self.starter.supervisor.signal());
        let (mut active, mut folded) = (self.starter.parts.catalog.changes(), self.starter.deployments.changes());
        loop {
            let wait = match &self.keeper {
                Some(_) if !self.starter.bus.follows_log() => Some(again.unwrap_or(SHARED_LOOK)),
                _ => again,
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = active.changed() => if changed.is_err() { return Ok(()) },
                changed = folded.changed() => if changed.is_err() { return Ok(()) },
                () = async { clock.sleep(wait.unwrap_or_default()).await }, if wait.is_some() => {}
            }
            active.borrow_and_update();
            folded.borrow_and_update();
            again = match self.direct().await {
                Ok(again) => again,
                Err(error) if is_away(&error) || is_unknown(&error) => {
                    tracing::warn!(error = %format!("{error:#}"), "consumers cannot be started or stopped yet");
                    Some(START_RETRY)
                }
                Err(error) => return Err(error),
            };
        }
    }

    /// Starts and stops consumers, then gets on with the builds; gives when to look again at the latest.
    async fn direct(&mut self) -> anyhow::Result<Option<Duration>> {
        let mut wanted: BTreeSet<Plan> = bundled(&self.starter.config).into_iter().collect();
        wanted.extend(loaded(&self.starter.config, &self.starter.parts.catalog.active()));
        let (mut again, mut gone) = (None, BTreeSet::new());
        if let Some(keeper) = &mut self.keeper {
            let kept = keeper.keep().await?;
            wanted.extend(kept.run.into_iter().map(Plan::Projector));
            (again, gone) = (kept.again, kept.gone);
        }
        // A worker whose handler is not active any more waits for the next one.
        let unwanted = |plan: &&Plan| matches!(plan, Plan::Projector(_)) && !wanted.contains(*plan);
        for plan in self.running.keys().filter(unwanted).cloned().collect::<Vec<_>>() {
            if let Some(running) = self.running.remove(&plan) {
                running.end().await;
                self.starter.groups.lock().remove(plan.consumer());
            }
        }
        for consumer in gone {
            self.starter.parts.progress.remove(&consumer);
            self.starter.parts.metrics.forget_consumer(&consumer);
        }
        for plan in wanted {
            if !self.running.contains_key(&plan) {
                let running = self.starter.start(&plan).await?;
                self.running.insert(plan, running);
            }
        }
        if let Some(keeper) = self.keeper.as_mut().filter(|_| again.is_some()) {
            keeper.proceed().await?;
        }
        Ok(again)
    }
}

/// Whether it is not known what came of a write, which is then done again.
fn is_unknown(error: &anyhow::Error) -> bool {
    error.downcast_ref::<state::Error>().is_some_and(|error| error.kind() == Kind::Unknown)
}

impl Running {
    /// Tells the tasks to finish, and waits for them.
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Starter {
    /// Starts a consumer on every partition.
    async fn start(&self, plan: &Plan) -> anyhow::Result<Running> {
        let running = Running { stop: self.supervisor.signal().child_token(), tasks: TaskTracker::new() };
        let partitions = (0..self.parts.events.partitions()).map(Partition);
        if !self.bus.follows_log() {
            // As a member of a group it takes the partitions it is given, whichever.
            self.join(plan, partitions, &running);
            return Ok(running);
        }
        let mut runs = Vec::new();
        for partition in partitions {
            runs.push((partition, self.open(plan, partition, running.stop.clone()).await?));
        }
        for (partition, run) in runs {
            let here = running.tasks.token();
            self.supervisor.spawn(format!("{} on partition {partition}", plan.consumer()), async move {
                let _here = here;
                run.await
            });
        }
        Ok(running)
    }

    /// Joins the consumer's group, and runs the consumer on the partitions that the group leaves to this process.
    fn join(&self, plan: &Plan, partitions: impl Iterator<Item = Partition>, running: &Running) {
        let parts = intake::Parts {
            events: self.parts.events.clone(),
            bus: self.bus.clone(),
            parking: self.parts.parking.clone(),
            progress: self.parts.progress.clone(),
            clock: self.parts.clock.clone(),
        };
        let intake = Intake::new(plan.consumer(), &plan.topics(), parts);
        let group = Group {
            share: intake.share(),
            trouble: intake.trouble(),
            is_needed: self.parts.progress.is_live(plan.consumer()),
        };
        self.groups.lock().insert(plan.consumer().to_owned(), group);
        for partition in partitions {
            let (starter, plan, share) = (self.clone(), plan.clone(), intake.share());
            let (here, stop) = (running.tasks.token(), running.stop.clone());
            let name = format!("{} on partition {partition}", plan.consumer());
            self.supervisor.spawn(name, async move {
                let (_here, clock) = (here, starter.parts.clock.clone());
                let run = |release| starter.while_mine(&plan, partition, release);
                membership::tend(partition, share, &*clock, stop, run).await
            });
        }
        let (here, stop) = (running.tasks.token(), running.stop.clone());
        self.supervisor.spawn(format!("messages of {}", plan.consumer()), async move {
            let _here = here;
            intake.run(stop).await
        });
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
        let (progress, clock) = (self.parts.progress.clone(), self.parts.clock.clone());
        let (read_model, builds) = (self.parts.read_model.clone(), self.builds.clone());
        let stop = self.supervisor.signal();
        self.supervisor.spawn("progress of other processes", async move {
            membership::follow_others(progress, &*read_model, &*builds, &*objects, &*clock, stop).await
        });
    }

    /// Opens a consumer on a partition, from its checkpoint.
    async fn open(&self, plan: &Plan, partition: Partition, stop: CancellationToken) -> Result<Run, state::Error> {
        let topics = plan.topics();
        match plan {
            Plan::Worker { consumer, attempts_max, .. } => {
                let options = self.options(consumer, topics, *attempts_max);
                let work = Worker::new(self.states.clone());
                Ok(Consumer::open(options, self.parts.clone(), partition, work).await?.run(stop).boxed())
            }
            Plan::Projector(each) => {
                let attempts_max = self.config.projection_attempts_max;
                let options = self.options(&each.consumer, topics, attempts_max);
                let options = consumer::Options {
                    build: Some(each.build.clone()),
                    batches_max: PROJECTION_BATCHES_MAX,
                    pace: PROJECTION_PACE,
                    ..options
                };
                let work = Projector::new(&each.handler, each.kind.as_deref(), target(&self.deployments, each).await);
                Ok(Consumer::open(options, self.parts.clone(), partition, work).await?.run(stop).boxed())
            }
        }
    }

    /// Those of a worker.
    fn options(&self, consumer: &str, topics: Vec<String>, attempts_max: u32) -> consumer::Options {
        consumer::Options {
            consumer: consumer.to_owned(),
            topics,
            build: None,
            attempts_max,
            lease_ms: self.lease_ms,
            heartbeat_interval: Duration::from_millis(self.config.heartbeat_ms),
            batch_max: BATCH_MAX,
            batches_max: WORKER_BATCHES_MAX,
            pace: Duration::ZERO,
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

fn keeper_parts(parts: &Parts) -> builds::Parts {
    builds::Parts {
        builds: parts.builds.clone(),
        read_model: parts.read_model.clone(),
        deployments: parts.deployments.clone(),
        events: parts.events.clone(),
        parking: parts.parking.clone(),
        progress: parts.progress.clone(),
        metrics: parts.metrics.clone(),
        clock: parts.clock.clone(),
        is_shared: !parts.bus.follows_log(),
    }
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
