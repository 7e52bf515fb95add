//! What the sandbox costs: the same `decide` and `evolve` natively and in a fresh instance. Take ratios, not absolutes.
//! Builds its component (`tests/abuse`, example `decider`) itself; run with `cargo bench --bench sandbox`.
#![allow(clippy::unwrap_used)]

mod decider;

use std::hint::black_box;
use std::sync::Arc;

use carryall::domain::Timestamp;
use carryall::sandbox::{AggregateRef, CallContext, Command, Handler, Options, RecordedEvent, Sandbox};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use decider::{component, payload};

const CONTEXT: CallContext = CallContext { now: Timestamp(1_765_929_600_123), seed: (7, 9) };
const BATCH: usize = 100;

fn event(data: &str) -> RecordedEvent<'_> {
    RecordedEvent {
        id: "0d8f3c52-0000-4000-8000-000000000001",
        name: "DEPOSITED",
        schema_version: "1.0.0",
        source: AggregateRef { kind: "Thing", id: "t-1" },
        seq: 2,
        at: CONTEXT.now,
        data,
        headers: &[],
    }
}

fn command(payload: &str) -> Command<'_> {
    Command {
        id: "7f2d6a3e-9d53-4c8e-a4a1-64a6d6f5b0aa",
        name: "DEPOSIT",
        target: AggregateRef { kind: "Thing", id: "t-1" },
        expected_seq: Some(3),
        payload,
        actor: Some("somebody"),
        headers: &[],
    }
}

fn decide(handler: &Handler, state: &str, payload: &str) {
    let command = command(payload);
    let mut decision = handler.decision(CONTEXT).unwrap();
    assert!(decision.needs(&command, Some(state), &[]).unwrap().is_empty());
    black_box(decision.decide(Some(state), &command, &[]).unwrap());
}

fn sandbox(c: &mut Criterion) {
    let sandbox = Sandbox::new(Options::default()).unwrap();
    let bytes = component();
    let handler: Arc<Handler> = sandbox.load(&bytes).unwrap();
    let payload = payload();
    let state = carryall_abuse::evolve(None, [payload.as_str()].into_iter()).unwrap();
    let native =
        |events: &[RecordedEvent]| carryall_abuse::evolve(Some(&state), events.iter().map(|event| event.data)).unwrap();

    let mut group = c.benchmark_group("decide");
    group.bench_function("native", |b| b.iter(|| carryall_abuse::decide(Some(&state), black_box(&payload)).unwrap()));
    group.bench_function("open_an_instance", |b| b.iter(|| handler.decision(CONTEXT).unwrap()));
    group.bench_function("fresh_instance", |b| {
        b.iter(|| handler.decision(CONTEXT).unwrap().decide(Some(&state), &command(&payload), &[]).unwrap());
    });
    group.bench_function("fresh_instance_with_needs", |b| b.iter(|| decide(&handler, &state, &payload)));
    group.bench_function("two_threads_100_each", |b| {
        b.iter(|| {
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| (0..100).for_each(|_| decide(&handler, &state, &payload)));
                }
            });
        });
    });
    group.finish();

    let mut group = c.benchmark_group("evolve");
    for count in [1, BATCH] {
        let events = vec![event(&payload); count];
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("native_{count}"), |b| b.iter(|| native(black_box(&events))));
        group.bench_function(format!("fresh_instance_{count}"), |b| {
            b.iter(|| handler.evolve(Some(&state), black_box(&events)).unwrap());
        });
    }
    group.finish();

    let folder = tempfile::tempdir().unwrap();
    let cached = Sandbox::new(Options { cache_folder: Some(folder.path().to_owned()), ..Options::default() }).unwrap();
    cached.load(&bytes).unwrap();
    let mut group = c.benchmark_group("load");
    group.sample_size(10);
    group.bench_function("compile", |b| b.iter(|| sandbox.load(&bytes).unwrap()));
    group.bench_function("cached_code", |b| b.iter(|| cached.load(&bytes).unwrap()));
    group.finish();
}

criterion_group!(benches, sandbox);
criterion_main!(benches);
