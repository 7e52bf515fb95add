//! `carryall check`: holds a data folder at rest against the six invariants, under the folder's lock. Works on a copy
//! of everything derived that is made in memory from the log alone, so that nothing is trusted and nothing is
//! changed.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, stream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::consumers::Consumers;
use super::database::Database;
use super::parts::{Parts, STATES_BYTES_MAX, handlers};
use super::store;
use super::supervisor::Supervisor;
use crate::adapter::system_clock::SystemClock;
use crate::codec::checkpoint::{self, Checkpoint};
use crate::codec::pack;
use crate::config::{Config, Role, Store};
use crate::domain::{Aggregate, EventKind, Partition, Position, Sequence};
use crate::error::Classified as _;
use crate::event_store::{self, EventStore, verify};
use crate::metrics::Metrics;
use crate::port::bus::InProcessBus;
use crate::port::clock::Clock;
use crate::port::index::memory::MemoryIndex;
use crate::port::object_store::ObjectStore;
use crate::port::read_model::MemoryReadModel;
use crate::port::read_model::builds::{Build, State};
use crate::port::registry::{ClaimFilter, MemoryRegistry, Owner, Status};
use crate::replay::{self, Again, Checked, Decisions, Invariant, Load, Order, Report};
use crate::sandbox::World;
use crate::state::{Completions, ConsumerState, Parking, Progress, States};

/// Records read at once.
const PAGE: usize = 1_000;
/// Aggregates that one thread folds and decides before it takes others.
const AGGREGATES_AT_ONCE: usize = 32;
/// How often the projections are asked how far they are, and after how long without a step they count as stuck.
const TICK: Duration = Duration::from_millis(50);
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Findings of the log's own check that concern numbers and ids; all others are about its wholeness.
const OF_ORDER: [&str; 2] = ["sequence_gap", "position_gap"];
const OF_IDEMPOTENCY: [&str; 1] = ["duplicate_event_id"];

/// Checks everything; `sample`: at most so many commands are decided again. `progress` gets what is done, and how much
/// of it.
pub async fn check(
    config: &Config,
    sample: Option<u64>,
    mut progress: impl FnMut(&'static str, u64) + Send,
) -> anyhow::Result<Report> {
    if let Store::Folder(folder) = &config.store {
        ensure!(folder.is_dir(), "there is no event log at {}: is --data-dir right?", folder.display());
    }
    let clock = SystemClock::new();
    let store::Objects { store: objects, lock, .. } = store::open(config, clock.random_id(), &Metrics::new()).await?;
    let database = Database::open_to_check(config).await?;
    let mut report = Report::new();
    let whole = log(&*objects, database.as_ref(), &mut report, &mut progress).await?;
    if whole {
        let stop = CancellationToken::new();
        let supervisor = Supervisor::new(stop.clone());
        let copy = Copy::open(config, objects, lock, &supervisor).await?;
        copy.walk(&mut report, &mut progress).await?;
        copy.decide(&mut report, sample, &mut progress).await?;
        copy.project(config, &supervisor, database.as_ref(), &mut report).await?;
        if let Some(database) = &database {
            copy.registry(database, &mut report).await?;
        }
        supervisor.stop(copy.parts.close()).await;
    } else {
        for invariant in [Invariant::Projection, Invariant::Composition, Invariant::Determinism] {
            report.of(invariant).note = Some("not looked at: the log is not whole".into());
        }
    }
    report.of(Invariant::ReadYourWrites).note = Some("looked at by a running host only".into());
    if let Some(database) = database {
        database.close().await;
    }
    Ok(report)
}

/// What `carryall verify` finds; gives whether the log can be read from one end to the other.
async fn log(
    objects: &dyn ObjectStore,
    database: Option<&Database>,
    report: &mut Report,
    progress: &mut (impl FnMut(&'static str, u64) + Send),
) -> anyhow::Result<bool> {
    let index = database.map(Database::index);
    let segments = |so_far: &verify::Report| progress("segments", so_far.segments);
    let verified = verify::verify(objects, index.as_deref(), pack::Size::default(), segments).await?;
    report.events = verified.events;
    report.of(Invariant::Log).checked = verified.segments;
    let mut whole = verified.store.is_some() && verified.segments > 0;
    for finding in verified.findings {
        let invariant = match finding.code {
            code if OF_ORDER.contains(&code) => Invariant::Order,
            code if OF_IDEMPOTENCY.contains(&code) => Invariant::Idempotency,
            _ => Invariant::Log,
        };
        whole &= finding.code.starts_with("index_") || finding.code == "stray_object";
        report.of(invariant).add(finding.key, finding.code, finding.message);
    }
    Ok(whole)
}

/// Folds and decides again. Cheap to clone.
#[derive(Clone)]
struct Decider {
    events: EventStore,
    states: States,
    load: Load,
    /// Of so many commands one is decided again.
    every: u64,
}

impl Decider {
    /// What is found out about composition and determinism, and how many commands there are up to the last of these.
    async fn decide(self, aggregates: Vec<Aggregate>, before: u64) -> anyhow::Result<(Checked, Checked, u64)> {
        let mut composition = Checked::new(Invariant::Composition);
        let mut determinism = Checked::new(Invariant::Determinism);
        let mut decisions = Decisions::new(self.events.clone(), self.load);
        let mut seen = before;
        for aggregate in aggregates {
            match self.states.load(&aggregate).await {
                Ok(_) => composition.checked += 1,
                Err(crate::state::Error::NoHandler { .. }) => composition.skipped += 1,
                Err(error) => composition.add(aggregate.to_string(), error.code(), error.to_string()),
            }
            self.states.forget(&aggregate);
            let mut after = Sequence(0);
            loop {
                let records = self.events.stream(&aggregate, after, PAGE).await?;
                for command in records.iter().filter(|record| record.kind == EventKind::Command) {
                    seen += 1;
                    if !seen.is_multiple_of(self.every) {
                        continue;
                    }
                    let key = || format!("{aggregate}#{}", command.sequence);
                    match decisions.again(command).await {
                        Ok(Again::Same) => determinism.checked += 1,
                        Ok(Again::NotJudged(_)) => determinism.skipped += 1,
                        Ok(Again::Differs { code, message }) => determinism.add(key(), code, message),
                        Err(error) => determinism.add(key(), error.code(), error.to_string()),
                    }
                }
                match records.last() {
                    Some(last) if records.len() == PAGE => after = last.sequence,
                    _ => break,
                }
            }
        }
        Ok((composition, determinism, seen))
    }
}

/// A host in memory over the log: everything derived is made anew, nothing is appended.
struct Copy {
    parts: Parts,
    read_model: MemoryReadModel,
    order: parking_lot::Mutex<Order>,
}

impl Copy {
    async fn open(
        config: &Config,
        objects: Arc<dyn ObjectStore>,
        lock: File,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Copy> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let options = event_store::Options { writer: config.owner.clone(), ..event_store::Options::default() };
        let index = Arc::new(MemoryIndex::new());
        // Without its tasks a store takes no append.
        let (events, _tasks, _) = EventStore::open(options, objects.clone(), index, clock.clone()).await?;
        let (catalog, deployments) = handlers(config, &events, &objects, &clock).await?;
        let rows = MemoryRegistry::default();
        let (letters, registry) = (Arc::new(rows.clone()), Arc::new(rows.clone()));
        let read_model = MemoryReadModel::new(rows);
        let parking = Parking::open(events.clone(), letters.clone(), registry.clone(), clock.clone()).await?;
        let parts = Parts {
            states: States::new(events.clone(), catalog.clone(), STATES_BYTES_MAX),
            completions: Completions::new(events.clone()),
            bus: Arc::new(InProcessBus::default()),
            owner: Owner { name: "check".into(), run: 1 },
            read_model: Arc::new(read_model.clone()),
            builds: Arc::new(read_model.clone()),
            progress: Progress::default(),
            metrics: Metrics::new(),
            events,
            objects,
            registry,
            letters,
            clock,
            catalog,
            deployments,
            parking,
            database: None,
            _lock: lock,
        };
        parts.follow(supervisor);
        Ok(Copy { parts, read_model, order: parking_lot::Mutex::default() })
    }

    fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.parts.events.partitions()).map(Partition)
    }

    /// Order and idempotency, in one walk over the log.
    async fn walk(
        &self,
        report: &mut Report,
        progress: &mut (impl FnMut(&'static str, u64) + Send),
    ) -> anyhow::Result<()> {
        let mut seen = 0;
        for partition in self.partitions() {
            let mut from = Position(0);
            loop {
                let records = self.parts.events.read(partition, from, PAGE).await?;
                let Some(last) = records.last() else { break };
                from = Position(last.position.0 + 1);
                seen += records.len() as u64;
                let mut order = self.order.lock();
                let mut idempotency =
                    std::mem::replace(report.of(Invariant::Idempotency), replay::Checked::new(Invariant::Idempotency));
                for record in &records {
                    order.take(record, &mut idempotency, report.of(Invariant::Order));
                }
                *report.of(Invariant::Idempotency) = idempotency;
                progress("events", seen);
            }
        }
        Ok(())
    }

    /// Folds every aggregate with the handler that is active now, and decides every command again with the one that
    /// decided it then; on all cores, some aggregates at a time.
    async fn decide(
        &self,
        report: &mut Report,
        sample: Option<u64>,
        progress: &mut (impl FnMut(&'static str, u64) + Send),
    ) -> anyhow::Result<()> {
        let mut chunks = Vec::new();
        let mut commands = 0;
        for some in self.order.lock().aggregates().chunks(AGGREGATES_AT_ONCE) {
            chunks.push((commands, some.iter().map(|(aggregate, _)| aggregate.clone()).collect()));
            commands += some.iter().map(|(_, count)| count).sum::<u64>();
        }
        let every = sample.map_or(1, |sample| commands.div_ceil(sample.max(1)).max(1));
        let decider = Decider {
            events: self.parts.events.clone(),
            states: self.parts.states.clone(),
            load: self.parts.load(),
            every,
        };
        // Guests run where the work is: threads of its own, which may block.
        let work =
            chunks.into_iter().map(|(before, aggregates)| {
                let decider = decider.clone();
                let runtime = Handle::current();
                async move {
                    tokio::task::spawn_blocking(move || runtime.block_on(decider.decide(aggregates, before))).await
                }
            });
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut decided = stream::iter(work).buffered(threads);
        while let Some(done) = decided.next().await {
            let (composition, determinism, seen) = done.context("deciding again")??;
            report.of(Invariant::Composition).join(composition);
            report.of(Invariant::Determinism).join(determinism);
            progress("commands", seen);
        }
        Ok(())
    }

    /// Projects the whole log into memory and compares the read model with it.
    async fn project(
        &self,
        config: &Config,
        supervisor: &Supervisor,
        database: Option<&Database>,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let config = Config { roles: BTreeSet::from([Role::ProjectionWorker]), ..config.clone() };
        let _consumers = Consumers::start(&config, &self.parts, supervisor).await?;
        let projection = report.of(Invariant::Projection);
        if let Err(why) = self.projected().await {
            projection.add("projection", "cannot_project", why);
            return Ok(());
        }
        let Some(database) = database else {
            projection.note = Some("not looked at: there is no read model; the next start makes it".into());
            return Ok(());
        };
        let live = database.read_model();
        let fresh = self.parts.builds.builds().await?;
        let there = database.builds().builds().await?;
        let is_there = |build: &&Build| there.iter().any(|one| one.name == build.name && one.state == State::Live);
        if let Some(unfinished) = fresh.iter().find(|build| !is_there(build)) {
            let words = format!("not looked at: readers do not see the build {} yet; start the host", unfinished.name);
            report.of(Invariant::Projection).note = Some(words);
            return Ok(());
        }
        let settled: BTreeSet<String> = self.parts.progress.settled().into_iter().map(|row| row.consumer).collect();
        for (consumer, partition, position) in live.checkpoints().await? {
            let end = self.parts.events.end(partition);
            if position > end {
                let message = format!("its checkpoint is {position}, the log of partition {partition} ends at {end}");
                report.of(Invariant::Idempotency).add(&consumer, "checkpoint_ahead", message);
            } else if position < end && settled.contains(&consumer) {
                let words = format!("not looked at: {consumer} is at {position} of {end}; start the host, and stop it");
                report.of(Invariant::Projection).note = Some(words);
                return Ok(());
            }
        }
        let projections = self.parts.catalog.active();
        let collections: BTreeSet<String> = projections
            .iter()
            .filter(|active| active.handler.world() == World::Projection)
            .flat_map(|active| active.handler.description().collections.iter().map(|each| each.name.clone()))
            .collect();
        let collections: Vec<String> = collections.into_iter().collect();
        let (nodes, fresh) = (self.read_model.nodes(), &self.read_model);
        let checked = report.of(Invariant::Projection);
        replay::compare(&*live, fresh, &collections, &nodes, checked).await?;
        Ok(())
    }

    /// Waits until every projection has seen the whole log; the words say which one cannot.
    async fn projected(&self) -> Result<(), String> {
        let mut last_step = Instant::now();
        let mut before = 0;
        loop {
            let consumers = self.parts.progress.consumers();
            let behind: Vec<_> =
                consumers.iter().filter(|one| one.position < self.parts.events.end(one.partition)).collect();
            let Some(first) = behind.first() else { return Ok(()) };
            let sum = consumers.iter().map(|one| one.position.0).sum();
            if sum != before {
                (before, last_step) = (sum, Instant::now());
            }
            let failed = first.state == ConsumerState::Paused && first.last_error.is_some();
            if failed || last_step.elapsed() > STUCK_AFTER {
                let error = first.last_error.clone().unwrap_or_else(|| "it does not get on".into());
                return Err(format!("{} stays at {}: {error}", first.name, first.position));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// What is done has its effect in the log, and no checkpoint is ahead of it.
    async fn registry(&self, database: &Database, report: &mut Report) -> anyhow::Result<()> {
        let checked = report.of(Invariant::Idempotency);
        let registry = database.registry();
        let mut filter = ClaimFilter { status: Some(Status::Done), limit: PAGE, ..ClaimFilter::default() };
        loop {
            let rows = registry.rows(&filter).await?;
            let ids: Vec<_> = rows.iter().map(|row| row.event_id).collect();
            let events = self.parts.events.find(&ids).await?;
            for (row, event) in rows.iter().zip(events) {
                checked.checked += 1;
                let key = format!("processed_events/{}/{}", row.handler, row.event_id);
                match event {
                    None => checked.add(key, "done_not_in_log", "the log holds no such event"),
                    Some(event) if event.kind == EventKind::Command => {
                        if self.parts.events.outcome(event.event_id).await?.is_empty() {
                            checked.add(key, "done_without_outcome", "it is done, and the log holds no outcome");
                        }
                    }
                    Some(_) => {}
                }
            }
            match rows.last() {
                Some(last) if rows.len() == PAGE => filter.after = Some((last.handler.clone(), last.event_id)),
                _ => break,
            }
        }
        if let Some(bytes) = self.parts.objects.get(checkpoint::KEY).await? {
            for (partition, place) in Checkpoint::decode(&bytes)?.partitions {
                checked.checked += 1;
                let end = self.parts.events.end(Partition(partition));
                if place.position > end {
                    let message = format!("it says {}, the log of partition {partition} ends at {end}", place.position);
                    checked.add(checkpoint::KEY, "checkpoint_ahead", message);
                }
            }
        }
        Ok(())
    }
}
