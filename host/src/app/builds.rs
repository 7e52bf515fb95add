//! Keeps the builds of projections as the deployment history wants them (decision 0011): begins the one that is wanted
//! beside the one that readers see, lets it take over when it has caught up, and deletes what nobody sees any more.
//!
//! What is under way is in the read model, and everything here is safe to repeat: a process that dies goes on at its
//! next start, and several processes may do the same at the same time. Nothing is promised by a pause: whether a build
//! may take over is decided in the transaction that moves the pointer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::deploy::Deployments;
use crate::deploy::fold::{self, Deployment};
use crate::domain::{AggregateType, Partition, Position, event_topic};
use crate::event_store::EventStore;
use crate::failpoint;
use crate::metrics::Metrics;
use crate::port;
use crate::port::clock::Clock;
use crate::port::read_model::ReadModel;
use crate::port::read_model::builds::{BUNDLED, Begun, Build, Builds, State, Wanted, consumer_of, name, plain, shown};
use crate::projection::Target;
use crate::sandbox::ActiveHandler;
use crate::state::{self, Parking, Progress};

/// Events that a build may lack when the consumers of the live one are stopped for it: some batches, which it handles
/// in a fraction of a second.
const NEAR: u64 = 1_024;
/// How long the consumers of the live build stand still for one that takes over; then they go on, and it is tried again
/// after [`AGAIN`]: fresh reads wait meanwhile.
const TAKING_MAX: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(30);
/// How long other processes have to see that a build takes over: they look every [`BUILDING`]. A consumer of the live
/// build that goes on all the same loses nothing: the new one gets to its events by itself.
const OTHERS_STOP: Duration = Duration::from_millis(600);
/// Rows of each sort that one transaction deletes.
const DROP_ROWS: usize = 1_000;
/// How soon to look again while something is built, takes over, or is deleted.
const BUILDING: Duration = Duration::from_millis(200);
const TAKING: Duration = Duration::from_millis(20);
const DROPPING: Duration = Duration::from_millis(20);
/// Who releases the dead letters of a build that is deleted, in the log.
const ACTOR: &str = "system";

/// A consumer that writes a build.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Projecting {
    pub consumer: String,
    pub handler: String,
    pub topic: String,
    /// Aggregate type it is limited to.
    pub kind: Option<String>,
    pub build: Begun,
}

/// What is to run now, and when to look again at the latest.
pub(crate) struct Kept {
    pub run: BTreeSet<Projecting>,
    /// Consumers that are to be forgotten once they have ended.
    pub gone: BTreeSet<String>,
    pub again: Option<Duration>,
}

/// A build that takes over: since when, and the ends of the log when the consumers of the live one had stopped.
struct Taking {
    since: Duration,
    ends: Option<Vec<Position>>,
}

/// What a keeper works with.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub builds: Arc<dyn Builds>,
    pub read_model: Arc<dyn ReadModel>,
    pub deployments: Deployments,
    pub events: EventStore,
    pub parking: Parking,
    pub progress: Progress,
    pub metrics: Metrics,
    pub clock: Arc<dyn Clock>,
    /// Whether other processes write the same builds.
    pub is_shared: bool,
}

/// See the module.
pub(crate) struct Keeper {
    parts: Parts,
    /// [`Build::id`] of the builds that were seen, by name.
    seen: BTreeMap<String, Uuid>,
    taking: BTreeMap<String, Taking>,
    /// Builds that did not get there, and when they may try again.
    later: BTreeMap<String, Duration>,
}

impl Keeper {
    pub fn new(parts: Parts) -> Keeper {
        Keeper { parts, seen: BTreeMap::new(), taking: BTreeMap::new(), later: BTreeMap::new() }
    }

    /// Begins and gives up builds, as the history wants; gives the consumers that are to run.
    pub async fn keep(&mut self) -> Result<Kept, state::Error> {
        let handlers = self.parts.deployments.handlers();
        let mut known = self.parts.builds.builds().await?;
        let mut changed = false;
        for deployment in handlers.values() {
            changed |= self.follow(deployment, &known).await?;
        }
        if changed {
            known = self.parts.builds.builds().await?;
        }
        let mut kept = Kept { run: BTreeSet::new(), gone: BTreeSet::new(), again: None };
        for build in &known {
            let Some((deployment, fold)) = find(&handlers, build) else { continue };
            let taking = |other: &Build| other.handler == build.handler && other.state == State::Taking;
            let all = all_consumers(&build.handler, fold);
            // It was deleted and begun anew while this process did not look: what it knows is of the other one.
            if self.seen.insert(build.name.clone(), build.id).is_some_and(|before| before != build.id) {
                kept.gone.extend(all.iter().cloned());
            }
            match build.state {
                State::Live => {
                    all.iter().for_each(|consumer| self.show(consumer));
                    // Readers wait for them also in a process that began while they were to stop, and never ran them.
                    for consumer in consumers(deployment, fold) {
                        self.partitions().for_each(|on| self.parts.progress.note_stored(&consumer, on, Position(0)));
                    }
                    if !known.iter().any(taking) {
                        kept.run.extend(projecting(deployment, fold, build));
                    }
                }
                State::Building | State::Taking => {
                    all.iter().for_each(|consumer| self.parts.metrics.show_consumer(consumer, &shown(consumer)));
                    kept.run.extend(projecting(deployment, fold, build));
                }
                State::Dropping => kept.gone.extend(all),
            }
            let soon = match build.state {
                State::Live => continue,
                State::Building => BUILDING,
                State::Taking => TAKING,
                State::Dropping => DROPPING,
            };
            kept.again = Some(kept.again.map_or(soon, |again| again.min(soon)));
        }
        let begun = |of: &Deployment| {
            of.wanted_build().is_none_or(|wanted| known.iter().any(|build| build.name == wanted.name))
        };
        let is_clean = |of: &Deployment| self.parts.parking.of_consumers(&gone(of, &known)).is_empty();
        if !handlers.values().all(|of| begun(of) && is_clean(of)) {
            kept.again = Some(kept.again.map_or(BUILDING, |again| again.min(BUILDING)));
        }
        self.taking.retain(|name, _| known.iter().any(|build| build.name == *name && build.state == State::Taking));
        Ok(kept)
    }

    /// Gets on with what is under way. Runs when the consumers that [`Keeper::keep`] named run, and no others.
    pub async fn proceed(&mut self) -> Result<(), state::Error> {
        let handlers = self.parts.deployments.handlers();
        let known = self.parts.builds.builds().await?;
        // A process that had not seen yet that a build is gone, found nothing of what it had written.
        for deployment in handlers.values() {
            self.release_letters(&gone(deployment, &known)).await?;
        }
        // What was begun since this process looked has consumers that do not run here yet.
        for build in known {
            let Some((deployment, fold)) = find(&handlers, &build) else { continue };
            if self.seen.get(&build.name) != Some(&build.id) {
                continue;
            }
            match build.state {
                State::Live => {}
                State::Building => self.approach(&build, deployment, fold).await?,
                State::Taking => self.take_over(&build, deployment, fold).await?,
                State::Dropping => self.drop_some(&build, fold).await?,
            }
        }
        Ok(())
    }

    /// Lets the builds of one projection follow its history; gives whether something changed.
    async fn follow(&self, deployment: &Deployment, known: &[Build]) -> Result<bool, state::Error> {
        let mine = || known.iter().filter(|build| build.handler == deployment.name);
        let Some(wanted) = deployment.wanted_build() else { return Ok(false) };
        // Another process knows more of the history.
        if mine().any(|build| build.asked > deployment.last.0) {
            return Ok(false);
        }
        let mut changed = false;
        for build in mine().filter(|build| build.name != wanted.name) {
            if matches!(build.state, State::Building | State::Taking) {
                tracing::info!(build = build.name, wanted = wanted.name, "the unfinished build is given up");
                changed |= self.parts.builds.turn(&build.name, build.state, State::Dropping).await?;
            }
        }
        if mine().any(|build| build.name == wanted.name) {
            return Ok(changed);
        }
        // A process that slept may have written to an earlier build of this name after it was deleted.
        if !self.parts.builds.drop_some(&wanted.name, &all_consumers(&deployment.name, wanted), DROP_ROWS).await? {
            return Ok(true);
        }
        let collections: Vec<String> = wanted.collections.iter().map(|each| each.name.clone()).collect();
        let (name, handler, asked) = (&wanted.name, &deployment.name, deployment.last.0);
        let id = self.parts.clock.random_id();
        self.parts.builds.begin(Wanted { name, handler, asked, collections: &collections }, id).await?;
        failpoint::pass("build.after_begin");
        tracing::info!(build = wanted.name, "a build of a projection begins");
        Ok(true)
    }

    /// Lets a build take over when it has nearly caught up, and nothing of it is parked.
    async fn approach(&mut self, build: &Build, of: &Deployment, fold: &fold::Build) -> Result<(), state::Error> {
        let now = self.parts.clock.monotonic();
        if self.later.get(&build.name).is_some_and(|later| now < *later) || self.is_parked(of, fold) {
            return Ok(());
        }
        let near = |partition, at: Position| at.0 + NEAR >= self.parts.events.end(partition).0;
        if self.all_at(of, fold, near) {
            self.parts.builds.turn(&build.name, State::Building, State::Taking).await?;
            failpoint::pass("build.after_stop");
        }
        Ok(())
    }

    /// Moves the pointer once the build is past everything that the live one may have applied.
    async fn take_over(&mut self, build: &Build, of: &Deployment, fold: &fold::Build) -> Result<(), state::Error> {
        let now = self.parts.clock.monotonic();
        let ends: Vec<Position> = self.partitions().map(|partition| self.parts.events.end(partition)).collect();
        let taking = self.taking.entry(build.name.clone()).or_insert(Taking { since: now, ends: None });
        // How long it takes until nobody writes to a live build that is being succeeded.
        let stopping = if self.parts.is_shared { OTHERS_STOP } else { Duration::ZERO };
        if now.saturating_sub(taking.since) < stopping {
            return Ok(());
        }
        let (since, ends) = (taking.since, taking.ends.get_or_insert(ends).clone());
        if now.saturating_sub(since) > TAKING_MAX || self.is_parked(of, fold) {
            tracing::warn!(build = build.name, "a build did not catch up in time; readers keep what they have");
            self.later.insert(build.name.clone(), now + AGAIN);
            self.parts.builds.turn(&build.name, State::Taking, State::Building).await?;
            return Ok(());
        }
        if !self.all_at(of, fold, |partition, at| at >= ends[usize::from(partition.0)]) {
            return Ok(());
        }
        // What was handled without an effect is stored now and then only; the comparison is of what is stored.
        let mine: BTreeSet<String> = consumers(of, fold).collect();
        for row in self.parts.progress.consumers().iter().filter(|row| mine.contains(&row.consumer)) {
            let (model, begun) = (&self.parts.read_model, build.begun());
            model.set_checkpoint(&row.consumer, row.partition, row.position, Some(&begun)).await?;
        }
        let successors = self.successors(build, of, &mine).await?;
        let collections: Vec<String> = fold.collections.iter().map(|each| each.name.clone()).collect();
        let (name, handler, asked) = (&build.name, &build.handler, build.asked);
        failpoint::pass("build.before_take_over");
        let wanted = Wanted { name, handler, asked, collections: &collections };
        if self.parts.builds.take_over(wanted, &successors).await? {
            failpoint::pass("build.after_take_over");
            mine.iter().for_each(|consumer| self.show(consumer));
            tracing::info!(build = build.name, "readers see the new build");
        }
        Ok(())
    }

    /// The consumers of the live build with those that do the same for the one that takes over.
    async fn successors(
        &self,
        build: &Build,
        of: &Deployment,
        mine: &BTreeSet<String>,
    ) -> Result<Vec<(String, String)>, state::Error> {
        let known = self.parts.builds.builds().await?;
        let live = known.iter().find(|other| other.handler == build.handler && other.state == State::Live);
        let Some(fold) = live.and_then(|live| of.builds.iter().find(|fold| fold.name == live.name)) else {
            return Ok(Vec::new());
        };
        let pairs = consumers(of, fold).map(|old| {
            let new = consumer_of(&build.name, plain(&old));
            (old, new)
        });
        Ok(pairs.filter(|(_, new)| mine.contains(new)).collect())
    }

    /// Deletes some of what nobody sees any more. What its consumers had set aside has its effect, or shall have none.
    async fn drop_some(&self, build: &Build, fold: &fold::Build) -> Result<(), state::Error> {
        let consumers = all_consumers(&build.handler, fold);
        self.release_letters(&consumers).await?;
        failpoint::pass("build.before_drop");
        if self.parts.builds.drop_some(&build.name, &consumers, DROP_ROWS).await? {
            tracing::info!(build = build.name, "the build is deleted");
        }
        Ok(())
    }

    async fn release_letters(&self, consumers: &[String]) -> Result<(), state::Error> {
        for letter in self.parts.parking.of_consumers(consumers) {
            match self.parts.parking.retry(letter, ACTOR).await {
                // Another process, or an operator, came first.
                Err(state::Error::NotParked { .. }) => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    fn show(&self, consumer: &str) {
        self.parts.progress.set_live(consumer);
        self.parts.metrics.show_consumer(consumer, plain(consumer));
    }

    fn is_parked(&self, of: &Deployment, fold: &fold::Build) -> bool {
        !self.parts.parking.of_consumers(&all_consumers(&of.name, fold)).is_empty()
    }

    /// Whether every consumer of a build is at such a position on every partition, as far as this process knows.
    fn all_at(&self, of: &Deployment, fold: &fold::Build, is_there: impl Fn(Partition, Position) -> bool) -> bool {
        let rows = self.parts.progress.consumers();
        let at = |consumer: &str, partition| {
            rows.iter().find(|row| row.consumer == consumer && row.partition == partition).map(|row| row.position)
        };
        consumers(of, fold)
            .all(|consumer| self.partitions().all(|on| is_there(on, at(&consumer, on).unwrap_or_default())))
    }

    fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.parts.events.partitions()).map(Partition)
    }
}

fn find<'a>(handlers: &'a BTreeMap<String, Deployment>, build: &Build) -> Option<(&'a Deployment, &'a fold::Build)> {
    let deployment = handlers.get(&build.handler)?;
    deployment.builds.iter().find(|fold| fold.name == build.name).map(|fold| (deployment, fold))
}

/// Consumers of the version that writes a build.
fn projecting<'a>(
    of: &'a Deployment,
    fold: &'a fold::Build,
    build: &'a Build,
) -> impl Iterator<Item = Projecting> + use<'a> {
    let kinds = of.version(fold.digest).into_iter().flat_map(|version| &version.manifest.kinds);
    kinds.filter_map(|kind| {
        Some(Projecting {
            consumer: consumer(&of.name, &build.name, kind)?,
            handler: of.name.clone(),
            topic: event_topic(&AggregateType::parse(kind).ok()?),
            kind: (of.name != BUNDLED).then(|| kind.clone()),
            build: build.begun(),
        })
    })
}

/// Names of the consumers that write a build.
fn consumers<'a>(of: &'a Deployment, fold: &'a fold::Build) -> impl Iterator<Item = String> + use<'a> {
    let kinds = of.version(fold.digest).into_iter().flat_map(|version| &version.manifest.kinds);
    kinds.filter_map(|kind| consumer(&of.name, &fold.name, kind))
}

fn consumer(handler: &str, build: &str, kind: &str) -> Option<String> {
    // The sandbox has judged the names in a manifest.
    let aggregates = AggregateType::parse(kind).ok()?;
    Some(consumer_of(build, &name(handler, &aggregates)))
}

/// What a consumer writes, and the version that goes on with it when the active one writes something else.
pub(crate) async fn target(deployments: &Deployments, each: &Projecting) -> Target {
    let handlers = deployments.handlers();
    let known = handlers.get(&each.handler).and_then(|of| of.builds.iter().find(|build| build.name == each.build.name));
    let Some(build) = known else {
        return Target { build: each.build.name.clone(), collections: Vec::new(), last: None };
    };
    let collections = build.collections.iter().map(|each| (each.name.clone(), each.revision)).collect();
    let last = match deployments.component(build.digest).await {
        Ok(handler) => Some(Arc::new(ActiveHandler { name: each.handler.as_str().into(), revision: 0, handler })),
        Err(error) => {
            tracing::warn!(consumer = each.consumer, %error, "the version that writes this build cannot be loaded");
            None
        }
    };
    Target { build: each.build.name.clone(), collections, last }
}

/// Consumers of the builds of a projection that are gone.
fn gone(of: &Deployment, known: &[Build]) -> Vec<String> {
    let wanted = of.wanted_build().map(|wanted| &wanted.name);
    let is_gone = |fold: &&fold::Build| Some(&fold.name) != wanted && known.iter().all(|build| build.name != fold.name);
    of.builds.iter().filter(is_gone).flat_map(|fold| all_consumers(&of.name, fold)).collect()
}

/// Consumers of all versions that wrote a build.
fn all_consumers(handler: &str, fold: &fold::Build) -> Vec<String> {
    let all: BTreeSet<String> = fold.kinds.iter().filter_map(|kind| consumer(handler, &fold.name, kind)).collect();
    all.into_iter().collect()
}

/// The projection whose consumer has this plain name.
fn handler_of(plain: &str) -> &str {
    match plain.split_once(':') {
        Some(("projection_worker", _)) => BUNDLED,
        Some((handler, _)) => handler,
        None => plain,
    }
}

fn is_of_handler(build: &Build, consumer: &str) -> bool {
    build.handler == handler_of(plain(consumer))
}

/// Whether a consumer writes a build.
fn writes(build: &Build, consumer: &str) -> bool {
    is_of_handler(build, consumer) && consumer_of(&build.name, plain(consumer)) == consumer
}

/// Notes in a process that shares the read model how far the consumers of others are, and which of them write what
/// readers see.
pub(super) async fn note_stored(
    builds: &dyn Builds,
    read_model: &dyn ReadModel,
    progress: &Progress,
) -> port::Result<()> {
    let shown = progress.consumers();
    // Those that came to be seen before the checkpoints were read, not after: nobody waits for one and reads another.
    let checkpoints = read_model.checkpoints().await?;
    let known = builds.builds().await?;
    for (consumer, partition, position) in checkpoints {
        match known.iter().find(|build| writes(build, &consumer)).map(|build| build.state) {
            Some(State::Live) => progress.set_live(&consumer),
            Some(State::Building | State::Taking) => {}
            // Its rows are being deleted, or somebody wrote them after that.
            Some(State::Dropping) => {
                progress.remove(&consumer);
                continue;
            }
            None if plain(&consumer) != consumer => continue,
            None => {}
        }
        progress.note_stored(&consumer, partition, position);
    }
    // A build that was deleted between two looks leaves no checkpoint that would tell.
    for row in shown {
        let any = |is: fn(&Build, &str) -> bool| known.iter().any(|build| is(build, &row.consumer));
        if any(is_of_handler) && !any(writes) {
            progress.remove(&row.consumer);
        }
    }
    Ok(())
}
