//! The event log on a real folder with the real clock, and the golden files of its formats: what a release has written
//! must be read, and written again the same, for ever (I9).
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use carryall::adapter::fs::FolderStore;
use carryall::adapter::system_clock::SystemClock;
use carryall::codec::checkpoint::{Checkpoint, Place};
use carryall::codec::envelope::{CommandDraft, DomainDraft, Draft, HandlerRef, ReadRef};
use carryall::codec::json::Json;
use carryall::codec::pack;
use carryall::codec::segment::{self, Header};
use carryall::codec::store::StoreMeta;
use carryall::domain::{Aggregate, Digest, Partition, Position, SegmentNumber, Sequence, Timestamp, event_topic};
use carryall::event_store::verify::verify;
use carryall::event_store::{Append, EventStore, Expected, OpenReport, Options, Rebuilt};
use carryall::metrics::Metrics;
use carryall::port::index::Index;
use carryall::port::index::memory::MemoryIndex;
use carryall::port::object_store::ObjectStore;
use carryall::port::object_store::probe::probe;
use uuid::Uuid;

const NOON: Timestamp = Timestamp(1_765_972_800_000);

fn command(id: Uuid, aggregate: &Aggregate, payload: &str) -> Draft {
    CommandDraft {
        command_id: id,
        command_type: "CREATE_INSTANCE",
        aggregate,
        expected_seq: Some(0),
        payload: &Json::parse(payload.as_bytes()).unwrap(),
        actor: "ann",
        occurred_at: NOON,
        correlation_id: "0b0e7a1c-5a43-4c0f-9d83-0a7d4b6e2f11",
        causation_id: None,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        extra: Some(&Json::parse(br#"{"tenant":"t-1"}"#).unwrap()),
        topic: "instance_commands".into(),
        service: "api",
    }
    .build()
    .unwrap()
}

fn created(command_id: Uuid, aggregate: &Aggregate) -> Draft {
    DomainDraft {
        command_id,
        index: 0,
        event_type: "INSTANCE_CREATED",
        aggregate,
        occurred_at: NOON.plus_ms(3),
        actor: "ann",
        data: &Json::parse("{\"name\":\"Zür\\u0069ch \u{1f600}\",\"price\":1.50}".as_bytes()).unwrap(),
        correlation_id: "0b0e7a1c-5a43-4c0f-9d83-0a7d4b6e2f11",
        causation_id: Some(command_id),
        handler: Some(&HandlerRef {
            name: "instance".into(),
            version: "0.1.0".into(),
            digest: Digest::of(b"component"),
            revision: 2,
            upcasters: vec![],
        }),
        read_set: &[ReadRef {
            aggregate_type: "OntologyClass".into(),
            aggregate_id: "shop:Product".into(),
            sequence_number: Sequence(2),
            handler_digest: Some(Digest::of(b"ontology")),
            upcasters: [].into(),
        }],
        traceparent: None,
        schema_version: "1.0.0",
        issued: None,
        extra: None,
        topic: event_topic(&aggregate.kind).into(),
        service: "instance_worker",
    }
    .build()
    .unwrap()
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(0x4a65_7d1e_0000_4000_8000_0000_0000_0000 | n)
}

/// Compares with the golden file. A new format gets a new file; an old file never changes.
fn golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(String::from_utf8_lossy(bytes), String::from_utf8_lossy(&stored), "{name}");
}

#[test]
fn a_segment_is_written_and_read_as_ever() {
    let aggregate = Aggregate::parse("Instance", "shop:Product:p-1").unwrap();
    let drafts = [command(id(1), &aggregate, r#"{"data":{"name":"a"}}"#), created(id(1), &aggregate)];
    let header = Header {
        store: id(100),
        partition: Partition(0),
        segment: SegmentNumber(7),
        epoch: 3,
        writer: "host-1:data".into(),
        put_id: id(101),
        prev_digest: Digest::of(b"segment 6"),
        first_position: Position(40),
        count: 0,
        recorded_at: NOON.plus_ms(5),
    };
    let events: Vec<_> = drafts.iter().zip([Sequence(1), Sequence(2)]).collect();
    let segment = segment::encode(header, &events);
    golden("segment-1.ndjson", &segment.bytes);
    let read = segment::decode(segment.bytes.clone()).unwrap();
    assert_eq!(format!("{:?}", read.events), format!("{:?}", segment.events));
}

#[test]
fn the_small_objects_are_written_and_read_as_ever() {
    let meta = StoreMeta { format: "carryall-store-1".into(), store: id(100), partitions: 1, created_at: NOON };
    golden("store-1.json", &meta.encode());
    assert_eq!(StoreMeta::decode(&meta.encode()).unwrap(), meta);
    let place = Place { segment: SegmentNumber(12), position: Position(345), digest: None };
    let checkpoint = Checkpoint { partitions: [(0, place)].into(), updated_at: NOON };
    golden("event_publisher-1.json", &checkpoint.encode());
    assert_eq!(Checkpoint::decode(&checkpoint.encode()).unwrap(), checkpoint);
}

struct Host {
    store: EventStore,
    objects: Arc<FolderStore>,
    report: OpenReport,
    tasks: Vec<tokio::task::JoinHandle<Result<(), carryall::event_store::Error>>>,
}

async fn start(folder: &Path, index: Arc<dyn Index>) -> Host {
    let objects = Arc::new(FolderStore::open(folder, &Metrics::new()).await.unwrap());
    probe(objects.as_ref(), Uuid::from_u128(1)).await.unwrap();
    let opened = EventStore::open(Options::default(), objects.clone(), index, Arc::new(SystemClock::new())).await;
    let (store, tasks, report) = opened.unwrap();
    let tasks = tasks.into_iter().map(|task| tokio::spawn(task.future)).collect();
    Host { store, objects, report, tasks }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appends_on_a_folder_are_there_after_a_stop_and_after_a_crash() {
    const CLIENTS: u128 = 32;
    const TURNS: u64 = 10;
    let folder = tempfile::tempdir().unwrap();
    let index: Arc<dyn Index> = Arc::new(MemoryIndex::new());
    let host = start(folder.path(), index.clone()).await;
    let clients = (0..CLIENTS).map(|client| {
        let store = host.store.clone();
        tokio::spawn(async move {
            let aggregate = Aggregate::parse("Account", &format!("a-{client}")).unwrap();
            for turn in 0..TURNS {
                let draft = command(id(client * 1_000 + u128::from(turn) + 1), &aggregate, "{}");
                let append = Append {
                    aggregate: aggregate.clone(),
                    expected: Expected::Client(turn),
                    drafts: vec![draft],
                    outcome_of: None,
                    ids_are_new: false,
                };
                let appended = store.append(append).await.unwrap();
                assert_eq!(appended.records[0].sequence, Sequence(turn + 1));
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let events = u64::try_from(CLIENTS).unwrap() * TURNS;
    assert_eq!(host.store.end(Partition(0)), Position(events));
    let segments = host.store.segment_of(Partition(0), Position(events)).await.unwrap().0;
    assert!(segments < events, "concurrent appends share segments: {segments} for {events} events");

    // A crash: nothing is closed, the tasks just end.
    for task in &host.tasks {
        task.abort();
    }
    drop((host.store, host.objects));
    for task in host.tasks {
        // Aborted or ended: either way its hold on the folder is gone.
        let _ended = task.await;
    }
    let host = start(folder.path(), Arc::new(MemoryIndex::new())).await;
    assert_eq!((host.report.rebuilt, host.report.folded_events), (Some(Rebuilt::Empty), events));
    let report = verify(host.objects.as_ref(), None, pack::Size::default(), |_| {}).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.events, report.aggregates), (events, 32));
    host.store.close().await;
    let days = host.objects.list("indexes/by-date/", None, 10).await.unwrap();
    assert_eq!(days.keys.len(), 2, "one day and the progress: {days:?}");
}
