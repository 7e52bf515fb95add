//! What it takes to fold history: cold reads of streams from a folder through a handler, and the same with the same
//! code native: reading, checking digests and parsing envelopes are in both. Run with `cargo bench --bench replay`.
#![allow(clippy::unwrap_used)]

mod decider;

use std::hint::black_box;
use std::sync::Arc;

use carryall::adapter::fs::FolderStore;
use carryall::adapter::sqlite::Database;
use carryall::adapter::system_clock::SystemClock;
use carryall::codec::envelope::DomainDraft;
use carryall::codec::json::Json;
use carryall::domain::{Aggregate, Sequence, Timestamp};
use carryall::event_store::{self, Append, EventStore, Expected};
use carryall::metrics::Metrics;
use carryall::port::clock::Clock;
use carryall::sandbox::{Active, ActiveHandler, Catalog, Options, Sandbox};
use carryall::state::States;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use decider::{component, payload};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Events of one long stream.
const LONG: usize = 10_000;
/// Streams of a log as others have it, and events of each.
const STREAMS: usize = 2_000;
const EVENTS: usize = 10;
/// Events read at once.
const PAGE: usize = 1_000;
/// Of states: more than all of them together.
const CACHE_BYTES: usize = 64 << 20;

struct Log {
    events: EventStore,
    catalog: Arc<Catalog>,
    _folder: TempDir,
}

fn thing(id: &str) -> Aggregate {
    Aggregate::parse("Thing", id).unwrap()
}

/// Deposits without commands, as operations have them.
fn deposits(clock: &dyn Clock, aggregate: &Aggregate, data: &Json, count: usize) -> Vec<Append> {
    let deposit = || DomainDraft {
        command_id: clock.random_id(),
        index: 0,
        event_type: "DEPOSITED",
        aggregate,
        occurred_at: Timestamp(1_765_929_600_123),
        actor: "somebody",
        data,
        correlation_id: "bench",
        causation_id: None,
        handler: None,
        read_set: &[],
        traceparent: None,
        schema_version: "1.0.0",
        issued: None,
        extra: None,
        topic: "thing_events".into(),
        service: "bench",
    };
    let append = |draft: DomainDraft<'_>| Append {
        aggregate: aggregate.clone(),
        expected: Expected::Any,
        drafts: vec![draft.build().unwrap()],
        outcome_of: None,
        ids_are_new: true,
    };
    (0..count).map(|_| append(deposit())).collect()
}

impl Log {
    async fn new(appends: impl FnOnce(&dyn Clock) -> Vec<Append>) -> Log {
        let folder = tempfile::tempdir().unwrap();
        let objects = FolderStore::open(&folder.path().join("store"), &Metrics::new()).await.unwrap();
        let database = Database::open(&folder.path().join("carryall.db")).await.unwrap();
        let clock = Arc::new(SystemClock::new());
        let options = event_store::Options::default();
        let (events, tasks, _) =
            EventStore::open(options, Arc::new(objects), database.index(), clock.clone()).await.unwrap();
        for task in tasks {
            tokio::spawn(task.future);
        }
        for appended in events.append_all(appends(&*clock)).await {
            appended.unwrap();
        }
        let sandbox = Sandbox::new(Options::default()).unwrap();
        let handler = sandbox.load(&component()).unwrap();
        let catalog = Arc::new(Catalog::default());
        catalog.replace(Active::new([ActiveHandler { name: "abuse".into(), revision: 1, handler }]).unwrap());
        Log { events, catalog, _folder: folder }
    }

    /// The state in the sandbox, of which nothing is cached.
    async fn fold(&self, states: &States, aggregate: &Aggregate) {
        black_box(states.load(aggregate).await.unwrap().state.unwrap());
    }

    fn states(&self) -> States {
        States::new(self.events.clone(), self.catalog.clone(), CACHE_BYTES)
    }

    async fn fold_natively(&self, aggregate: &Aggregate) {
        let (mut state, mut last) = (None, Sequence(0));
        loop {
            let records = self.events.stream(aggregate, last, PAGE).await.unwrap();
            let envelopes: Vec<_> = records.iter().map(|record| record.envelope().unwrap()).collect();
            let data = envelopes.iter().map(|envelope| envelope.data.get());
            state = Some(carryall_abuse::evolve(state.as_deref(), data).unwrap());
            match records.last() {
                Some(record) if records.len() == PAGE => last = record.sequence,
                _ => break,
            }
        }
        black_box(state);
    }
}

fn long_stream(c: &mut Criterion, runtime: &Runtime) {
    let data = Json::parse(payload().as_bytes()).unwrap();
    let aggregate = thing("long");
    let log = runtime.block_on(Log::new(|clock| deposits(clock, &aggregate, &data, LONG)));
    let mut group = c.benchmark_group(format!("fold_one_of_{LONG}_events"));
    group.sample_size(10).throughput(Throughput::Elements(LONG as u64));
    group.bench_function("native", |b| b.iter(|| runtime.block_on(log.fold_natively(&aggregate))));
    group.bench_function("sandbox", |b| b.iter(|| runtime.block_on(log.fold(&log.states(), &aggregate))));
    group.finish();
}

fn whole_log(c: &mut Criterion, runtime: &Runtime) {
    let data = Json::parse(payload().as_bytes()).unwrap();
    let all: Vec<Aggregate> = (0..STREAMS).map(|n| thing(&format!("t-{n}"))).collect();
    let log = Log::new(|clock| all.iter().flat_map(|each| deposits(clock, each, &data, EVENTS)).collect());
    let log = Arc::new(runtime.block_on(log));
    let cores = std::thread::available_parallelism().unwrap().get();
    let all = Arc::new(all);
    let over_cores = |natively: bool| {
        let (log, states) = (log.clone(), log.states());
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for core in 0..cores {
                let (log, states, all) = (log.clone(), states.clone(), all.clone());
                tasks.spawn(async move {
                    for aggregate in all.iter().skip(core).step_by(cores) {
                        match natively {
                            true => log.fold_natively(aggregate).await,
                            false => log.fold(&states, aggregate).await,
                        }
                    }
                });
            }
            tasks.join_all().await;
        });
    };
    let mut group = c.benchmark_group(format!("fold_{STREAMS}_of_{EVENTS}_events"));
    group.sample_size(10).throughput(Throughput::Elements((STREAMS * EVENTS) as u64));
    group.bench_function("native", |b| b.iter(|| over_cores(true)));
    group.bench_function("sandbox", |b| b.iter(|| over_cores(false)));
    group.finish();
}

fn replay(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    long_stream(c, &runtime);
    whole_log(c, &runtime);
}

criterion_group!(benches, replay);
criterion_main!(benches);
