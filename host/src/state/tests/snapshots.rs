//! Snapshots: a stream that goes on from one is the stream that was read whole, and one that cannot be trusted serves
//! nobody.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::codec::envelope::DomainDraft;
use crate::codec::json::Json;
use crate::codec::snapshot::{Folder, Snapshot, key};
use crate::domain::{EventKind, Sequence, event_type};
use crate::event_store::{Append, Expected, Record};
use crate::metrics::Metrics;
use crate::port::clock::Clock as _;
use crate::port::object_store::{Listing, ObjectStore, PutIf, PutNew};
use crate::state::snapshots::{Options, Snapshots, Writer};

/// Counts reads of segments.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn ObjectStore>,
    segments: AtomicUsize,
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_new(&self, key: &str, bytes: Bytes) -> crate::port::Result<PutNew> {
        self.inner.put_new(key, bytes).await
    }
    async fn get(&self, key: &str) -> crate::port::Result<Option<Bytes>> {
        self.segments.fetch_add(usize::from(key.starts_with("events/")), Ordering::Relaxed);
        self.inner.get(key).await
    }
    async fn put(&self, key: &str, bytes: Bytes) -> crate::port::Result<()> {
        self.inner.put(key, bytes).await
    }
    async fn put_if(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> crate::port::Result<PutIf> {
        self.inner.put_if(key, expected, bytes).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> crate::port::Result<Listing> {
        self.inner.list(prefix, after, limit).await
    }
    async fn delete(&self, key: &str) -> crate::port::Result<()> {
        self.inner.delete(key).await
    }
}

/// States with snapshots, and the end that writes them.
fn with_snapshots(process: &Process, interval: u64) -> (crate::state::States, Writer, Metrics) {
    let metrics = Metrics::new();
    let options = Options {
        store: process.events.store_id(),
        objects: process.store.objects.clone(),
        interval,
        metrics: metrics.clone(),
    };
    let (snapshots, writer) = Snapshots::new(options, process.store.clock());
    (fresh(process).with_snapshots(snapshots), writer, metrics)
}

/// States that have nothing cached.
fn fresh(process: &Process) -> crate::state::States {
    crate::state::States::new(process.events.clone(), process.catalog.clone(), 1 << 20)
}

fn folder() -> Folder {
    Folder { handler: decider().digest(), upcasters: Vec::new() }
}

/// An outcome of a command, as a worker appends it.
async fn outcome(process: &Process, command: &Record, name: &str) {
    let data = Json::from_value(&json!({"amount": 1, "note": "n", "tags": []})).unwrap();
    let draft = DomainDraft {
        command_id: command.event_id,
        index: 0,
        event_type: name,
        aggregate: &command.aggregate,
        occurred_at: process.store.clock.now(),
        actor: "alice",
        data: &data,
        correlation_id: "c",
        causation_id: Some(command.event_id),
        handler: None,
        read_set: &[],
        traceparent: None,
        schema_version: "1.0.0",
        issued: None,
        extra: None,
        topic: "thing_events".into(),
        service: "test",
    };
    let append = Append {
        aggregate: command.aggregate.clone(),
        expected: Expected::Any,
        drafts: vec![draft.build().unwrap()],
        outcome_of: Some(command.sequence),
        ids_are_new: true,
    };
    process.events.append(append).await.unwrap();
}

/// Commands and their endings as they may lie in a stream: several commands may wait, the oldest is decided first.
#[derive(Debug, Clone, Copy)]
enum Step {
    Command,
    Decide,
    Fail,
    Unchanged,
    Note,
}

async fn history(process: &Process, steps: &[Step]) -> Vec<Record> {
    let mut waiting = std::collections::VecDeque::new();
    for step in steps {
        let ending = match step {
            Step::Command => {
                waiting.push_back(process.send("Thing", "t", "ECHO", json!({})).await);
                continue;
            }
            Step::Note => {
                deposits(process, 1).await;
                continue;
            }
            Step::Decide => "NOTED",
            Step::Fail => event_type::COMMAND_FAILED,
            Step::Unchanged => event_type::COMMAND_UNCHANGED,
        };
        if let Some(command) = waiting.pop_front() {
            outcome(process, &command, ending).await;
        }
    }
    process.stream("Thing", "t").await
}

/// Everything that a worker asks of a stream.
fn seen(stream: &mut Stream) -> (Folded, Vec<Sequence>, Vec<bool>) {
    let folded = stream.fold(&decider()).unwrap();
    let undecided = stream.undecided().iter().map(|command| command.sequence).collect();
    let failed = (0..=folded.sequence.0).map(|sequence| stream.predecessor_failed(Some(sequence))).collect();
    (folded, undecided, failed)
}

fn assert_same(one: &mut Stream, other: &mut Stream, at: &str) {
    let (one, other) = (seen(one), seen(other));
    assert_eq!((one.0.sequence, one.0.last_domain), (other.0.sequence, other.0.last_domain), "{at}");
    assert_eq!(one.0.state, other.0.state, "{at}");
    assert_eq!((one.1, one.2), (other.1, other.2), "{at}");
}

fn snapshots_of(records: &[Record], interval: u64, fold_every: usize) -> Vec<Snapshot> {
    let handler = decider();
    let mut stream = Stream::new(thing(), &handler, Upcasters::default()).snapshot_every(interval);
    let mut taken = Vec::new();
    for (index, record) in records.iter().enumerate() {
        assert!(stream.push(record));
        if index % fold_every == 0 {
            stream.fold(&handler).unwrap();
            taken.extend(stream.take_snapshot());
        }
    }
    stream.fold(&handler).unwrap();
    taken.extend(stream.take_snapshot());
    taken
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_from_a_snapshot_anywhere_is_the_stream_read_whole(
        steps in proptest::collection::vec(
            prop_oneof![
                3 => Just(Step::Command), 2 => Just(Step::Decide), 1 => Just(Step::Fail),
                1 => Just(Step::Unchanged), 1 => Just(Step::Note),
            ],
            1..24,
        ),
        interval in 1..6u64,
        fold_every in 1..5usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let process = process().await;
            let records = history(&process, &steps).await;
            let handler = decider();
            for snapshot in snapshots_of(&records, interval, fold_every) {
                prop_assert_eq!(snapshot.sequence.0 % interval, 0);
                let at = &records[usize::try_from(snapshot.sequence.0).unwrap() - 1];
                prop_assert_eq!(snapshot.event_id, at.event_id);
                let snapshot = Snapshot::decode(&snapshot.encode()).unwrap();
                let mut whole = Stream::new(thing(), &handler, Upcasters::default());
                let mut restored = Stream::restored(snapshot.clone(), &handler, Upcasters::default());
                let from = restored.sequence();
                for record in &records {
                    prop_assert!(whole.push(record));
                    if record.sequence > from {
                        prop_assert!(restored.push(record));
                    }
                    if record.sequence >= snapshot.sequence {
                        assert_same(&mut restored, &mut whole, &format!("{snapshot:?} at {}", record.sequence));
                    }
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_cold_read_goes_on_from_the_newest_snapshot_and_gives_the_same() {
    let process = process().await;
    deposits(&process, 23).await;
    let (states, mut writer, metrics) = with_snapshots(&process, 5);
    states.load(&thing()).await.unwrap();
    for at in [3, 11] {
        states.load_at(&thing(), At::Sequence(at)).await.unwrap();
    }
    writer.write_waiting().await;
    let kept = process.store.objects.list("snapshots/", None, 100).await.unwrap().keys;
    let named = [10, 20].map(|sequence| key(&thing(), Sequence(sequence), &folder()));
    assert_eq!(kept, named, "the newest of what was folded");

    let (cold, _writer, used) = with_snapshots(&process, 5);
    assert_eq!(balance(&cold.load(&thing()).await.unwrap()), Some(json!(23)));
    for at in [4, 10, 19, 20, 22, 99] {
        let folded = cold.load_at(&thing(), At::Sequence(at)).await.unwrap();
        assert_eq!((balance(&folded), folded.sequence.0), (Some(json!(at.min(23))), at.min(23)), "at {at}");
    }
    assert_eq!((used.snapshots("used").get(), metrics.snapshots("written").get()), (6, 2));
}

#[tokio::test]
async fn a_stream_that_grows_is_snapshot_where_it_passes_the_interval() {
    let process = process().await;
    let (states, mut writer, metrics) = with_snapshots(&process, 4);
    for _ in 0..9 {
        deposits(&process, 1).await;
        states.load(&thing()).await.unwrap();
    }
    writer.write_waiting().await;
    assert_eq!(metrics.snapshots("written").get(), 2);
    let next = sandbox().load(&variant(&abuse("decider").into(), 3)).unwrap();
    process.catalog.replace(together([next]));
    assert_eq!(balance(&states.load(&thing()).await.unwrap()), Some(json!(9)));
    assert_eq!(metrics.snapshots("used").get(), 0, "another handler's fold is another state");
}

#[tokio::test]
async fn a_snapshot_that_is_damaged_or_of_another_history_is_deleted_and_not_used() {
    let process = process().await;
    deposits(&process, 7).await;
    let good = snapshots_of(&process.stream("Thing", "t").await, 5, 100).remove(0);
    let good = Snapshot { store: process.events.store_id(), ..good };
    let named = key(&thing(), Sequence(5), &folder());
    let forged = Some(Json::parse(br#"{"owner":"","balance":999,"deposits":1,"last_note":""}"#).unwrap());
    let mut cut = good.encode().to_vec();
    cut.truncate(cut.len() / 2);
    let other = Aggregate::parse("Thing", "other").unwrap();
    for bytes in [
        Bytes::from(cut),
        Snapshot { event_id: uuid::Uuid::from_u128(1), state: forged.clone(), ..good.clone() }.encode(),
        Snapshot { store: uuid::Uuid::from_u128(1), state: forged.clone(), ..good.clone() }.encode(),
        Snapshot { aggregate: other, state: forged.clone(), ..good.clone() }.encode(),
        Snapshot { sequence: Sequence(10), state: forged, ..good.clone() }.encode(),
    ] {
        process.store.objects.put(&named, bytes).await.unwrap();
        let (states, _writer, metrics) = with_snapshots(&process, 5);
        assert_eq!(balance(&states.load(&thing()).await.unwrap()), Some(json!(7)));
        assert_eq!((metrics.snapshots("refused").get(), metrics.snapshots("used").get()), (1, 0));
        assert_eq!(process.store.objects.get(&named).await.unwrap(), None);
    }
    process.store.objects.put(&named, good.encode()).await.unwrap();
    let (states, _writer, metrics) = with_snapshots(&process, 5);
    assert_eq!(balance(&states.load(&thing()).await.unwrap()), Some(json!(7)));
    assert_eq!(metrics.snapshots("used").get(), 1);
}

#[tokio::test]
async fn more_snapshots_than_can_be_written_are_dropped() {
    let process = process().await;
    let (states, writer, metrics) = with_snapshots(&process, 1);
    for _ in 0..40 {
        deposits(&process, 1).await;
        states.load(&thing()).await.unwrap();
    }
    assert_eq!(metrics.snapshots("dropped").get(), 8, "those beyond the queue");
    drop(writer);
    deposits(&process, 1).await;
    assert_eq!(balance(&states.load(&thing()).await.unwrap()), Some(json!(41)), "without a writer as well");
}

#[tokio::test]
async fn a_cold_read_of_a_long_stream_reads_few_segments() {
    let store = Store::new();
    let process = store.process(together([decider()])).await;
    deposits(&process, 2_050).await;
    let (states, mut writer, _) = with_snapshots(&process, 500);
    states.load(&thing()).await.unwrap();
    writer.write_waiting().await;
    process.events.close().await;

    let counting = Arc::new(Counting { inner: store.objects.clone(), segments: AtomicUsize::new(0) });
    let process = store.run_on(2, together([decider()]), counting.clone()).await;
    let (states, _writer, metrics) = with_snapshots(&process, 500);
    let before = counting.segments.load(Ordering::Relaxed);
    let folded = states.load(&thing()).await.unwrap();
    let read = counting.segments.load(Ordering::Relaxed) - before;
    assert_eq!((balance(&folded), metrics.snapshots("used").get()), (Some(json!(2_050)), 1));
    assert!(read <= 60, "{read} segments for the 50 events after the snapshot");
    assert_eq!(process.stream("Thing", "t").await.iter().filter(|r| r.kind == EventKind::Domain).count(), 2_050);
}
