//! The event store on ports in memory: what appends, reads, restarts and faults give.
#![allow(clippy::unwrap_used)]

mod appends;
mod faults;
mod opening;
mod packs;
mod simulation;
mod verify;

use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::codec::envelope::{CommandDraft, DomainDraft, Draft};
use crate::codec::json::Json;
use crate::domain::Timestamp;
use crate::port::clock::manual::ManualClock;
use crate::port::index::memory::MemoryIndex;
use crate::port::object_store::memory::MemoryStore;

/// A process's event store with its ports and running tasks.
pub(super) struct Process {
    pub store: EventStore,
    pub report: OpenReport,
    pub tasks: Vec<tokio::task::JoinHandle<Result<(), Error>>>,
}

impl Process {
    pub(super) async fn end(self) {
        self.store.close().await;
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
    }
}

pub(super) fn options() -> Options {
    // The by-date index is written at the end only: the clock of these tests stands still.
    Options { unresolved_answer_after_ms: 1_000, ..Options::default() }
}

pub(super) async fn start(objects: Arc<dyn ObjectStore>, index: Arc<dyn Index>, options: Options) -> Process {
    // Different processes draw different ids.
    static PROCESSES: AtomicU64 = AtomicU64::new(1);
    let clock = clock(PROCESSES.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    start_with(objects, index, options, clock).await
}

pub(super) fn clock(seed: u64) -> ManualClock {
    ManualClock::new(Timestamp(1_765_929_600_000), seed)
}

/// Lets time pass, a millisecond for each turn of the other tasks, until the future is done.
pub(super) async fn with_time<T>(clocks: &[ManualClock], future: impl Future<Output = T>) -> T {
    let pass = async {
        loop {
            clocks.iter().for_each(|clock| clock.advance(std::time::Duration::from_millis(1)));
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = future => done,
        () = pass => unreachable!("time does not end"),
    }
}

pub(super) async fn start_with(
    objects: Arc<dyn ObjectStore>,
    index: Arc<dyn Index>,
    options: Options,
    clock: ManualClock,
) -> Process {
    let (store, tasks, report) = EventStore::open(options, objects, index, Arc::new(clock)).await.unwrap();
    let tasks = tasks.into_iter().map(|task| tokio::spawn(task.future)).collect();
    Process { store, report, tasks }
}

pub(super) async fn fresh() -> (Arc<MemoryStore>, Process) {
    let objects = Arc::new(MemoryStore::new());
    let process = start(objects.clone(), Arc::new(MemoryIndex::new()), options()).await;
    (objects, process)
}

pub(super) fn account(id: &str) -> Aggregate {
    Aggregate::parse("Account", id).unwrap()
}

pub(super) fn command_draft(id: Uuid, aggregate: &Aggregate, payload: &str) -> Draft {
    CommandDraft {
        command_id: id,
        command_type: "DEPOSIT",
        aggregate,
        expected_seq: None,
        payload: &Json::parse(payload.as_bytes()).unwrap(),
        actor: "ann",
        occurred_at: Timestamp(1),
        correlation_id: "c",
        causation_id: None,
        traceparent: None,
        extra: None,
        topic: "account_commands".into(),
        service: "api",
    }
    .build()
    .unwrap()
}

pub(super) fn event_draft(command_id: Uuid, index: usize, aggregate: &Aggregate) -> Draft {
    DomainDraft {
        command_id,
        index,
        event_type: "DEPOSITED",
        aggregate,
        occurred_at: Timestamp(2),
        actor: "ann",
        data: &Json::empty_object(),
        correlation_id: "c",
        causation_id: Some(command_id),
        handler: None,
        read_set: &[],
        traceparent: None,
        schema_version: "1.0.0",
        issued: None,
        extra: None,
        topic: "account_events".into(),
        service: "worker",
    }
    .build()
    .unwrap()
}

pub(super) fn command(id: u128, aggregate: &Aggregate, expected: Expected) -> Append {
    Append {
        aggregate: aggregate.clone(),
        expected,
        drafts: vec![command_draft(Uuid::from_u128(id), aggregate, "{}")],
        outcome_of: None,
        ids_are_new: false,
    }
}

/// The outcome, of so many events, of the command with this id at this sequence.
pub(super) fn outcome(id: u128, sequence: u64, aggregate: &Aggregate, events: usize, expected: Expected) -> Append {
    Append {
        aggregate: aggregate.clone(),
        expected,
        drafts: (0..events).map(|index| event_draft(Uuid::from_u128(id), index, aggregate)).collect(),
        outcome_of: Some(Sequence(sequence)),
        ids_are_new: false,
    }
}

pub(super) fn numbers(appended: &Appended) -> Vec<u64> {
    appended.records.iter().map(|record| record.sequence.0).collect()
}
