//! Packs: copies of segments that make reading cheap, are never trusted, and are made again when they are damaged.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::codec::{pack, segment};
use crate::domain::SegmentNumber;
use crate::event_store::verify::verify;
use crate::port::Result;
use crate::port::object_store::{Listing, PutIf, PutNew};

const P: Partition = Partition(0);
/// Two packs, and a beginning of a third.
const SEGMENTS: u64 = 2 * SIZE.0 + 40;
const SIZE: pack::Size = pack::Size(256);

/// Counts what is read.
#[derive(Debug)]
struct Counting {
    inner: Arc<MemoryStore>,
    read: Mutex<Vec<String>>,
}

impl Counting {
    fn of(inner: Arc<MemoryStore>) -> Arc<Counting> {
        Arc::new(Counting { inner, read: Mutex::default() })
    }

    fn read(&self) -> usize {
        std::mem::take(&mut *self.read.lock()).len()
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<PutNew> {
        self.inner.put_new(key, bytes).await
    }
    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.read.lock().push(key.to_owned());
        self.inner.get(key).await
    }
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.inner.put(key, bytes).await
    }
    async fn put_if(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> Result<PutIf> {
        self.inner.put_if(key, expected, bytes).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing> {
        self.inner.list(prefix, after, limit).await
    }
    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }
}

/// Appends commands, each in a segment of its own.
async fn fill(process: &Process, from: u64, segments: u64, payload: &str) {
    for number in from..from + segments {
        let id = Uuid::from_u128(u128::from(number) + 1);
        let aggregate = account(&format!("a{}", number % 7));
        let drafts = vec![command_draft(id, &aggregate, payload)];
        let append = Append { aggregate, expected: Expected::Any, drafts, outcome_of: None, ids_are_new: false };
        process.store.append(append).await.unwrap();
    }
}

/// A log of small segments.
async fn log() -> Arc<MemoryStore> {
    let (objects, process) = fresh().await;
    fill(&process, 0, SEGMENTS, "{}").await;
    process.end().await;
    objects
}

/// Opens the log without an index, as after a loss of the database.
async fn open(objects: Arc<dyn ObjectStore>) -> Process {
    // What was just appended must not be in memory.
    let options = Options { recent_bytes_max: 1, ..options() };
    start(objects, Arc::new(MemoryIndex::new()), options).await
}

async fn keys(objects: &MemoryStore) -> Vec<String> {
    let found = objects.list(pack::FOLDER, None, 100).await.unwrap().keys;
    found.into_iter().filter(|key| !key.contains("progress")).collect()
}

/// Every line of the log, read in order in small pages.
async fn lines(process: &Process) -> Vec<Bytes> {
    let mut lines = Vec::new();
    loop {
        let page = process.store.read(P, Position(lines.len() as u64), 5).await.unwrap();
        if page.is_empty() {
            return lines;
        }
        lines.extend(page.into_iter().map(|record| record.line));
    }
}

fn count(process: &Process, what: &'static str) -> u64 {
    process.store.inner.shared.options.metrics.packs(what).get()
}

#[tokio::test]
async fn full_runs_of_segments_are_packed_once_and_verbatim() {
    let objects = log().await;
    let process = open(objects.clone()).await;
    assert_eq!(process.store.pack(P, 1).await.unwrap(), 1);
    assert_eq!(process.store.pack(P, 9).await.unwrap(), 1);
    assert_eq!(process.store.pack(P, 9).await.unwrap(), 0, "the third run is not full");
    assert_eq!(keys(&objects).await, [SIZE.key(P, SegmentNumber(0)), SIZE.key(P, SegmentNumber(256))]);
    for number in (0..2 * SIZE.0).map(SegmentNumber) {
        let pack = pack::decode(objects.get(&SIZE.key(P, number)).await.unwrap().unwrap(), SIZE).unwrap();
        assert_eq!(pack.segment(number), objects.get(&segment::key(P, number)).await.unwrap());
    }
    process.end().await;
    let again = open(objects.clone()).await;
    assert_eq!(again.store.pack(P, 9).await.unwrap(), 0, "the progress is kept");
    fill(&again, SEGMENTS, SIZE.0, "{}").await;
    assert_eq!(again.store.pack(P, 9).await.unwrap(), 1);
    again.end().await;
}

#[tokio::test]
async fn a_packed_log_is_opened_and_read_in_few_requests() {
    let objects = log().await;
    let counting = Counting::of(objects.clone());
    let plain = open(counting.clone()).await;
    assert!(counting.read() as u64 > SEGMENTS);
    let expected = lines(&plain).await;
    plain.store.pack(P, 9).await.unwrap();
    plain.end().await;
    counting.read();
    let process = open(counting.clone()).await;
    assert_eq!(process.report.folded_events, SEGMENTS);
    let opening = counting.read();
    // The store, the first segment, a pack and the end of its chain twice, the tail.
    assert!(opening < 70, "{opening} requests to open {SEGMENTS} segments");
    assert_eq!(lines(&process).await, expected);
    let reading = counting.read();
    assert!(reading < 70, "{reading} requests to read {SEGMENTS} segments");
    assert_eq!((count(&process, "used"), count(&process, "refused")), (4, 0));
    process.end().await;
}

#[tokio::test]
async fn a_damaged_pack_is_counted_passed_by_and_written_again() {
    let objects = log().await;
    let process = open(objects.clone()).await;
    let expected = lines(&process).await;
    process.store.pack(P, 9).await.unwrap();
    process.end().await;
    let key = SIZE.key(P, SegmentNumber(256));
    let whole = objects.get(&key).await.unwrap().unwrap();
    let mut flipped = whole.to_vec();
    flipped[5_000] ^= 1;
    for damaged in [whole.slice(..whole.len() / 2), Bytes::new(), Bytes::from(flipped)] {
        objects.put(&key, damaged).await.unwrap();
        let process = open(objects.clone()).await;
        assert_eq!(process.report.folded_events, SEGMENTS);
        assert_eq!((count(&process, "used"), count(&process, "refused")), (1, 1));
        assert_eq!(process.store.pack(P, 9).await.unwrap(), 1);
        assert_eq!(objects.get(&key).await.unwrap().unwrap(), whole);
        assert_eq!(lines(&process).await, expected);
        process.end().await;
    }
}

#[tokio::test]
async fn a_pack_with_a_sound_frame_around_other_segments_is_refused() {
    let objects = log().await;
    let process = open(objects.clone()).await;
    process.store.pack(P, 9).await.unwrap();
    process.end().await;
    let key = SIZE.key(P, SegmentNumber(256));
    let pack = pack::decode(objects.get(&key).await.unwrap().unwrap(), SIZE).unwrap();
    let mut segments: Vec<Bytes> = (256..512).map(|number| pack.segment(SegmentNumber(number)).unwrap()).collect();
    segments.swap(10, 11);
    let forged = pack::encode(pack.store, P, SegmentNumber(256), &segments, pack.digest);
    objects.put(&key, forged).await.unwrap();
    let process = open(objects.clone()).await;
    assert_eq!((process.report.folded_events, count(&process, "refused")), (SEGMENTS, 1));
    process.end().await;
}

#[tokio::test]
async fn a_pack_of_a_history_that_was_given_up_is_not_read() {
    let objects = log().await;
    let process = open(objects.clone()).await;
    process.store.pack(P, 9).await.unwrap();
    process.end().await;
    // The bucket is restored to a time before the second pack, and another history grows there.
    for number in 300..SEGMENTS {
        objects.delete(&segment::key(P, SegmentNumber(number))).await.unwrap();
    }
    let restored = open(objects.clone()).await;
    assert_eq!(restored.report.folded_events, 300);
    fill(&restored, 10_000, 300, "{}").await;
    restored.end().await;
    let process = open(objects.clone()).await;
    assert_eq!((process.report.folded_events, count(&process, "refused")), (600, 1));
    let ids: BTreeSet<Uuid> =
        process.store.read(P, Position(300), 300).await.unwrap().iter().map(|r| r.event_id).collect();
    assert!((10_000..10_300).all(|number: u128| ids.contains(&Uuid::from_u128(number + 1))));
    process.store.pack(P, 9).await.unwrap();
    let pack = pack::decode(objects.get(&SIZE.key(P, SegmentNumber(256))).await.unwrap().unwrap(), SIZE).unwrap();
    let number = SegmentNumber(400);
    assert_eq!(pack.segment(number), objects.get(&segment::key(P, number)).await.unwrap());
    process.end().await;
}

#[tokio::test]
async fn large_segments_stay_as_they_are() {
    let (objects, process) = fresh().await;
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(2 * pack::BYTES_MAX / SIZE.0 as usize));
    fill(&process, 0, SIZE.0, &payload).await;
    assert_eq!(process.store.pack(P, 9).await.unwrap(), 1);
    assert_eq!(process.store.pack(P, 9).await.unwrap(), 0);
    assert!(keys(&objects).await.is_empty());
    process.end().await;
}

#[tokio::test]
async fn several_processes_write_the_same_pack() {
    let objects = log().await;
    let (one, other) = (open(objects.clone()).await, open(objects.clone()).await);
    assert_eq!(one.store.pack(P, 9).await.unwrap(), 2);
    let first = objects.get(&SIZE.key(P, SegmentNumber(0))).await.unwrap();
    // The other one does not know of it.
    objects.delete(&format!("{}progress/0000.json", pack::FOLDER)).await.unwrap();
    assert_eq!(other.store.pack(P, 9).await.unwrap(), 2);
    assert_eq!(objects.get(&SIZE.key(P, SegmentNumber(0))).await.unwrap(), first);
    assert_eq!(keys(&objects).await.len(), 2);
    one.end().await;
    other.end().await;
    let report = verify(objects.as_ref(), None, SIZE, |_| {}).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.segments, report.packs), (SEGMENTS, 2));
}

#[tokio::test]
async fn the_checker_names_a_pack_that_is_not_what_the_log_holds() {
    let objects = log().await;
    let process = open(objects.clone()).await;
    process.store.pack(P, 9).await.unwrap();
    process.end().await;
    let (first, second) = (SIZE.key(P, SegmentNumber(0)), SIZE.key(P, SegmentNumber(256)));
    let copy = objects.get(&first).await.unwrap().unwrap();
    objects.put(&second, copy.clone()).await.unwrap();
    objects.put(&first, copy.slice(..1_000)).await.unwrap();
    let report = verify(objects.as_ref(), None, SIZE, |_| {}).await.unwrap();
    let found: Vec<_> = report.findings.iter().map(|finding| (finding.key.as_str(), finding.code)).collect();
    assert_eq!(found, [(first.as_str(), "index_pack"), (second.as_str(), "index_pack")]);
}
