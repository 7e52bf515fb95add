//! What the tests of several modules share: a store in memory whose parts fail on demand, and processes over it.
#![allow(clippy::unwrap_used)]

pub mod components;
pub mod database;
pub mod failing;
// One file for the tests inside and outside of the host; each adapter's tests use their part.
#[path = "../../../tests/src/postgres.rs"]
pub mod postgres;
#[allow(dead_code)]
#[path = "../../../tests/src/services.rs"]
pub mod services;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::codec::envelope::{CommandDraft, DomainDraft, HandlerRef, ReadRef};
use crate::codec::json::Json;
use crate::domain::{Aggregate, Partition, Position, Timestamp, command_topic, event_topic};
use crate::event_store::{self, Append, EventStore, Expected, Record};
use crate::metrics::Metrics;
use crate::port::clock::Clock;
use crate::port::clock::manual::ManualClock;
use crate::port::object_store::ObjectStore;
use crate::port::object_store::memory::MemoryStore;
use crate::port::read_model::{DocumentKey, ReadModel as _};
use crate::port::registry::{Claim, ClaimFilter, ClaimRow, Claimed, MemoryRegistry, Owner, Registry as _};
use crate::sandbox::{Active, Catalog};
use crate::state::{Parking, Progress, States, consumer};
use database::{Database, Rows};
use failing::{Failing, Failures};

/// Bytes of folded states that a process keeps.
const STATES_BYTES_MAX: usize = 1 << 20;

/// The build that projections write and tests read.
pub const BUILD: &str = "build";

/// The only partition.
pub const P0: Partition = Partition(0);

/// What outlives a process.
#[derive(Debug, Clone)]
pub struct Store {
    pub objects: Arc<MemoryStore>,
    pub clock: ManualClock,
    pub failures: Failures,
    /// The registry without failures.
    pub letters: MemoryRegistry,
    pub database: Arc<Database<Failing>>,
}

/// What dies with a process.
#[derive(Debug, Clone)]
pub struct Process {
    pub store: Store,
    pub events: EventStore,
    pub catalog: Arc<Catalog>,
    pub states: States,
    pub parking: Parking,
    pub progress: Progress,
    pub metrics: Metrics,
    pub owner: Owner,
}

impl Store {
    pub fn new() -> Store {
        let (failures, rows) = (Failures::default(), Arc::new(Rows::empty()));
        Store {
            objects: Arc::new(MemoryStore::new()),
            clock: ManualClock::new(Timestamp(1_765_929_600_000), 7),
            letters: rows.registry.clone(),
            database: Arc::new(Database(Failing { rows, failures: failures.clone() })),
            failures,
        }
    }

    /// The same log with an empty database: what a rebuild begins with.
    pub fn without_database(&self) -> Store {
        Store { objects: self.objects.clone(), clock: self.clock.clone(), ..Store::new() }
    }

    /// The first run of a process.
    pub async fn process(&self, active: Active) -> Process {
        self.run(1, active).await
    }

    /// A run of the process with its own view of the log. What ran before must be gone.
    pub async fn run(&self, run: u64, active: Active) -> Process {
        self.run_on(run, active, self.objects.clone()).await
    }

    /// As [`Store::run`], with something between the process and its object store.
    pub async fn run_on(&self, run: u64, active: Active, objects: Arc<dyn ObjectStore>) -> Process {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let options = event_store::Options::default();
        let opened = EventStore::open(options, objects, self.database.clone(), clock.clone()).await;
        let (events, tasks, _) = opened.unwrap();
        for task in tasks {
            tokio::spawn(task.future);
        }
        let catalog = Arc::new(Catalog::default());
        catalog.replace(active);
        let parking = Parking::open(events.clone(), Arc::new(self.letters.clone()), self.database.clone(), clock).await;
        Process {
            store: self.clone(),
            states: States::new(events.clone(), catalog.clone(), STATES_BYTES_MAX),
            parking: parking.unwrap(),
            progress: Progress::default(),
            metrics: Metrics::new(),
            owner: Owner { name: "host".into(), run },
            events,
            catalog,
        }
    }

    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    pub fn advance(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    /// Another process claims an event, and does not get on.
    pub async fn claim_elsewhere(&self, consumer: &str, record: &Record, lease_ms: i64) {
        let owner = Owner { name: "other".into(), run: 1 };
        let claim = Claim {
            event_id: record.event_id,
            aggregate_id: record.aggregate.id.as_str().into(),
            sequence: record.sequence,
        };
        let claimed = self.letters.claim(consumer, &owner, &[claim], lease_ms, self.clock.now()).await.unwrap();
        assert_eq!(claimed, [Claimed::Yes { attempt: 1 }]);
    }

    /// Rows of a consumer with a status, by sequence.
    pub async fn rows(&self, consumer: &str, status: &str) -> Vec<ClaimRow> {
        let filter = ClaimFilter { handler: Some(consumer.into()), limit: usize::MAX, ..ClaimFilter::default() };
        let mut rows = self.letters.rows(&filter).await.unwrap();
        rows.retain(|row| row.status == status);
        rows.sort_by_key(|row| row.sequence_number);
        rows
    }

    pub async fn checkpoint(&self, consumer: &str) -> Position {
        let all = self.database.checkpoints().await.unwrap();
        all.into_iter().find(|(name, _, _)| name == consumer).map_or(Position(0), |(_, _, position)| position)
    }

    pub async fn document(&self, collection: &str, id: &str) -> Option<Value> {
        let key = DocumentKey { collection: collection.into(), id: id.into() };
        let found = self.database.documents(Some(BUILD), &[key]).await.unwrap().pop().flatten();
        found.map(|document| serde_json::from_str(document.body.get()).unwrap())
    }
}

impl Process {
    /// What a consumer of this process needs.
    pub fn parts(&self) -> consumer::Parts {
        consumer::Parts {
            events: self.events.clone(),
            catalog: self.catalog.clone(),
            registry: self.store.database.clone(),
            read_model: self.store.database.clone(),
            clock: self.store.clock(),
            parking: self.parking.clone(),
            progress: self.progress.clone(),
            metrics: self.metrics.clone(),
            owner: self.owner.clone(),
        }
    }

    /// Appends a command, as a client that expects nothing.
    pub async fn send(&self, kind: &str, id: &str, name: &str, payload: Value) -> Record {
        self.send_expecting(kind, id, name, payload, None).await
    }

    pub async fn send_expecting(
        &self,
        kind: &str,
        id: &str,
        name: &str,
        payload: Value,
        expected_seq: Option<u64>,
    ) -> Record {
        let aggregate = Aggregate::parse(kind, id).unwrap();
        let draft = CommandDraft {
            command_id: self.store.clock.random_id(),
            command_type: name,
            aggregate: &aggregate,
            expected_seq,
            payload: &Json::from_value(&payload).unwrap(),
            actor: "alice",
            occurred_at: self.store.clock.now(),
            correlation_id: "c",
            causation_id: None,
            traceparent: None,
            extra: None,
            topic: command_topic(&aggregate.kind).into(),
            service: "test",
        };
        let expected = expected_seq.map_or(Expected::Any, Expected::Client);
        let drafts = vec![draft.build().unwrap()];
        let append = Append { aggregate: aggregate.clone(), expected, drafts, outcome_of: None, ids_are_new: true };
        self.events.append(append).await.unwrap().records.remove(0)
    }

    /// Appends a domain event without a command before it.
    pub async fn note(&self, kind: &str, id: &str, name: &str, data: Value) -> Record {
        let aggregate = Aggregate::parse(kind, id).unwrap();
        let command_id = self.store.clock.random_id();
        let draft = DomainDraft {
            command_id,
            index: 0,
            event_type: name,
            aggregate: &aggregate,
            occurred_at: self.store.clock.now(),
            actor: "alice",
            data: &Json::from_value(&data).unwrap(),
            correlation_id: "c",
            causation_id: None,
            handler: None,
            read_set: &[],
            traceparent: None,
            schema_version: "1.0.0",
            issued: None,
            extra: None,
            topic: event_topic(&aggregate.kind).into(),
            service: "test",
        };
        let drafts = vec![draft.build().unwrap()];
        let append = Append {
            aggregate: aggregate.clone(),
            expected: Expected::Any,
            drafts,
            outcome_of: None,
            ids_are_new: true,
        };
        self.events.append(append).await.unwrap().records.remove(0)
    }

    /// Types of the events of an aggregate, oldest first, without those of commands.
    pub async fn told(&self, kind: &str, id: &str) -> Vec<String> {
        let records = self.stream(kind, id).await;
        let domain = records.iter().filter(|record| record.kind == crate::domain::EventKind::Domain);
        domain.map(|record| record.event_type.to_string()).collect()
    }

    pub async fn stream(&self, kind: &str, id: &str) -> Vec<Record> {
        let aggregate = Aggregate::parse(kind, id).unwrap();
        self.events.stream(&aggregate, Default::default(), 10_000).await.unwrap()
    }

    /// Types of the events that a command ended with.
    pub async fn outcome(&self, command_id: Uuid) -> Vec<String> {
        let records = self.events.outcome(command_id).await.unwrap();
        records.iter().map(|record| record.event_type.to_string()).collect()
    }

    /// Data of the only event that a command ended with.
    pub async fn ending(&self, command_id: Uuid) -> Value {
        let records = self.events.outcome(command_id).await.unwrap();
        assert_eq!(records.len(), 1, "{records:?}");
        data(&records[0])
    }
}

/// The outcome of a command, of one event, as a worker appends it.
pub fn outcome_of(command: &Record, handler: Option<&HandlerRef>, event_type: &str, data: &Value) -> Append {
    outcome_with(command, handler, event_type, data, &[], None)
}

/// The same of a command whose decision read these states and issued so many others.
pub fn outcome_with(
    command: &Record,
    handler: Option<&HandlerRef>,
    event_type: &str,
    data: &Value,
    read_set: &[ReadRef],
    issued: Option<u32>,
) -> Append {
    let draft = DomainDraft {
        command_id: command.event_id,
        index: 0,
        event_type,
        aggregate: &command.aggregate,
        occurred_at: command.recorded_at,
        actor: "worker",
        data: &Json::from_value(data).unwrap(),
        correlation_id: "c",
        causation_id: Some(command.event_id),
        handler,
        read_set,
        traceparent: None,
        schema_version: "1.0.0",
        issued,
        extra: None,
        topic: event_topic(&command.aggregate.kind).into(),
        service: "test",
    };
    Append {
        aggregate: command.aggregate.clone(),
        expected: Expected::Any,
        drafts: vec![draft.build().unwrap()],
        outcome_of: Some(command.sequence),
        ids_are_new: false,
    }
}

/// Data of an event.
pub fn data(record: &Record) -> Value {
    serde_json::from_str(record.envelope().unwrap().data.get()).unwrap()
}
