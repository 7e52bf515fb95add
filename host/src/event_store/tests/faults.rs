//! One writer on a store that fails in a scripted way; and two writers, one step at a time.

use super::*;
use crate::port::object_store::PutNew;
use crate::port::object_store::faulty::{Fault, Faulty};

async fn faulty() -> (Arc<MemoryStore>, Arc<Faulty>, Process, ManualClock) {
    let objects = Arc::new(MemoryStore::new());
    let store = Arc::new(Faulty::scripted(objects.clone(), []));
    let time = clock(7);
    let process = start_with(store.clone(), Arc::new(MemoryIndex::new()), options(), time.clone()).await;
    (objects, store, process, time)
}

#[tokio::test]
async fn a_lost_answer_is_resolved_to_the_one_write() {
    let (_, faults, process, time) = faulty().await;
    let a = account("a");
    faults.push([Fault::LostResponse]);
    let appended = with_time(&[time], process.store.append(command(1, &a, Expected::Any))).await.unwrap();
    assert!(!appended.replayed, "it is this append that was written");
    assert_eq!(process.store.end(Partition(0)), Position(1));
    process.end().await;
}

#[tokio::test]
async fn a_write_that_lands_late_is_found_to_be_ours() {
    let (_, faults, process, time) = faulty().await;
    let a = account("a");
    faults.push([Fault::LandsLate { calls: 1 }, Fault::LostRequest, Fault::LostRequest]);
    let append = process.store.append(command(1, &a, Expected::Client(0)));
    assert_eq!(numbers(&with_time(&[time], append).await.unwrap()), [1]);
    process.end().await;
}

#[tokio::test]
async fn a_refused_write_is_told_at_once_and_leaves_nothing() {
    let (objects, faults, process, _) = faulty().await;
    let a = account("a");
    faults.push([Fault::ErrorBefore]);
    let error = process.store.append(command(1, &a, Expected::Any)).await.unwrap_err();
    assert!(matches!(error, AppendError::Unavailable(_)), "{error}");
    assert_eq!(objects.list("events/", None, 10).await.unwrap().keys.len(), 0);
    assert_eq!(numbers(&process.store.append(command(1, &a, Expected::Any)).await.unwrap()), [1]);
    process.end().await;
}

#[tokio::test]
async fn after_a_while_unknown_is_the_answer_and_a_retry_gets_the_truth() {
    let (_, faults, process, time) = faulty().await;
    let (a, b) = (account("a"), account("b"));
    faults.push(std::iter::repeat_n(Fault::LostRequest, 1_000));
    let store = process.store.clone();
    let both = async {
        let first = store.append(command(1, &a, Expected::Client(0)));
        // Behind an unresolved write: another command, and the same once more.
        let behind = async {
            tokio::task::yield_now().await;
            tokio::join!(store.append(command(2, &b, Expected::Any)), store.append(command(1, &a, Expected::Client(0))))
        };
        tokio::join!(first, behind)
    };
    let (first, (other, same)) = with_time(std::slice::from_ref(&time), both).await;
    assert!(matches!(first, Err(AppendError::Unknown { event_id }) if event_id == Uuid::from_u128(1)));
    assert!(matches!(same, Err(AppendError::Unknown { .. })), "unknown is never reported as failed");
    assert!(matches!(other, Err(AppendError::Unavailable(_))));
    faults.heal().await.unwrap();
    let retry = with_time(&[time], store.append(command(1, &a, Expected::Client(0)))).await.unwrap();
    assert!(retry.replayed);
    assert_eq!(numbers(&retry), [1]);
    process.end().await;
}

#[tokio::test]
async fn a_paused_writer_never_answers_from_a_stale_view() {
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let one = start(objects.clone(), Arc::new(MemoryIndex::new()), options()).await;
    let two = start(objects.clone(), Arc::new(MemoryIndex::new()), options()).await;
    let a = account("a");
    one.store.append(command(1, &a, Expected::Client(0))).await.unwrap();
    // The second has seen nothing yet: its view says 0.
    let error = two.store.append(command(2, &a, Expected::Client(0))).await.unwrap_err();
    assert!(matches!(error, AppendError::Conflict { actual: 1, .. }), "{error}");
    two.store.append(command(3, &a, Expected::Client(1))).await.unwrap();
    // The first would call this a conflict; it looks first.
    assert_eq!(numbers(&one.store.append(command(4, &a, Expected::Client(2))).await.unwrap()), [3]);
    // And finds what the other wrote.
    assert!(one.store.append(command(3, &a, Expected::Missing)).await.unwrap().replayed);
    one.end().await;
    two.end().await;
}

#[tokio::test]
async fn writers_follow_each_other_when_idle() {
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let one = start(objects.clone(), Arc::new(MemoryIndex::new()), options()).await;
    let time = clock(3);
    let following = Options { follow_ms: Some(10), ..options() };
    let two = start_with(objects, Arc::new(MemoryIndex::new()), following, time.clone()).await;
    one.store.append(command(1, &account("a"), Expected::Any)).await.unwrap();
    let mut end = two.store.watch_end(Partition(0));
    with_time(&[time], end.wait_for(|end| *end == Position(1))).await.unwrap();
    assert_eq!(two.store.read(Partition(0), Position(0), 9).await.unwrap().len(), 1);
    one.end().await;
    two.end().await;
}

#[tokio::test]
async fn two_processes_may_share_one_index() {
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let index: Arc<dyn Index> = Arc::new(MemoryIndex::new());
    let small = Options { heads_max: 2, ..options() };
    let one = start(objects.clone(), index.clone(), small.clone()).await;
    let two = start(objects.clone(), index.clone(), small).await;
    for n in 0..40u64 {
        let writer = if n % 3 == 0 { &two } else { &one };
        let aggregate = account(&format!("a{}", n % 8));
        let head = writer.store.head(&aggregate).await.unwrap().last.0;
        let appended = writer.store.append(command(u128::from(n) + 1, &aggregate, Expected::Any)).await.unwrap();
        assert_eq!(numbers(&appended), [n / 8 + 1], "head was {head}");
        tokio::task::yield_now().await;
    }
    one.end().await;
    two.end().await;
    assert_eq!(index.watermark(Partition(0)).await.unwrap().next_position, Position(40));
}

#[tokio::test]
async fn an_index_that_does_not_belong_to_the_log_is_folded_again() {
    let index: Arc<dyn Index> = Arc::new(MemoryIndex::new());
    let a = account("a");
    let histories: Vec<Arc<MemoryStore>> = vec![Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new())];
    for objects in &histories {
        let process = start(objects.clone(), index.clone(), options()).await;
        process.store.append(command(1, &a, Expected::Client(0))).await.unwrap();
        process.store.append(command(2, &a, Expected::Client(1))).await.unwrap();
        process.end().await;
    }
    let reopen = async |objects: &Arc<MemoryStore>| {
        let process = start(objects.clone(), index.clone(), options()).await;
        let report = process.report.clone();
        let head = process.store.head(&a).await.unwrap().last.0;
        process.end().await;
        (report.rebuilt, report.folded_events, head)
    };
    assert_eq!(reopen(&histories[0]).await, (Some(Rebuilt::OtherStore), 2, 2));
    assert_eq!(reopen(&histories[0]).await, (None, 0, 2));
    // A bucket is restored from before the last segment: the index is ahead.
    let last = "events/0000/000000000000/0000000000000001.ndjson";
    let bytes = histories[0].get(last).await.unwrap().unwrap();
    histories[0].delete(last).await.unwrap();
    assert_eq!(reopen(&histories[0]).await, (Some(Rebuilt::Ahead), 1, 1));
    // The database is older than the log: only what it lacks is folded.
    assert_eq!(histories[0].put_new(last, bytes).await.unwrap(), PutNew::Created);
    assert_eq!(reopen(&histories[0]).await, (None, 1, 2));
    // The restored bucket went another way.
    histories[0].delete(last).await.unwrap();
    let other: Arc<dyn Index> = Arc::new(MemoryIndex::new());
    let process = start(histories[0].clone(), other, options()).await;
    process.store.append(command(3, &a, Expected::Any)).await.unwrap();
    process.end().await;
    assert_eq!(reopen(&histories[0]).await, (Some(Rebuilt::DigestDiffers), 2, 2));
}

#[tokio::test]
async fn a_segment_that_is_no_successor_stops_the_writer_and_is_named() {
    let (objects, process) = fresh().await;
    let a = account("a");
    process.store.append(command(1, &a, Expected::Any)).await.unwrap();
    let key = "events/0000/000000000000/0000000000000001.ndjson";
    objects.put(key, bytes::Bytes::from_static(b"rubbish\n")).await.unwrap();
    // What cannot be read may be what was written.
    let error = process.store.append(command(2, &a, Expected::Any)).await.unwrap_err();
    assert!(matches!(&error, AppendError::Unknown { .. }), "{error}");
    let error = process.store.append(command(3, &a, Expected::Any)).await.unwrap_err();
    assert!(matches!(&error, AppendError::Stopped { reason } if reason.contains(key)), "{error}");
    process.store.close().await;
    let mut failed = 0;
    for task in process.tasks {
        failed += usize::from(task.await.unwrap().is_err());
    }
    assert_eq!(failed, 1);
}

#[tokio::test]
async fn a_full_queue_refuses_and_closing_finishes_what_was_taken() {
    let (_, faults, process, time) = faulty().await;
    let store = process.store.clone();
    let a = account("a");
    faults.push([Fault::Delay { yields: 50 }]);
    let small = store.append(command(1, &a, Expected::Any));
    let closing = async {
        tokio::task::yield_now().await;
        store.close().await;
    };
    let (taken, ()) = with_time(&[time], async { tokio::join!(small, closing) }).await;
    assert!(taken.is_ok());
    assert!(matches!(store.append(command(2, &a, Expected::Any)).await, Err(AppendError::Closed)));

    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let tight = Options { queue_bytes_max: 600, ..options() };
    let process = start(objects, Arc::new(MemoryIndex::new()), tight).await;
    let both = vec![command(1, &a, Expected::Any)];
    let (first, second) =
        tokio::join!(process.store.append_all(both), process.store.append(command(2, &a, Expected::Any)));
    assert!(first[0].is_ok(), "a request on its own is always taken");
    assert!(matches!(second, Err(AppendError::Busy)));
    process.end().await;
}

#[tokio::test]
async fn the_by_date_index_names_every_event_of_a_day() {
    let (objects, process) = fresh().await;
    for n in 1..=3 {
        process.store.append(command(n, &account("a"), Expected::Any)).await.unwrap();
    }
    process.end().await;
    let listing = objects.list("indexes/by-date/2025/12/17/", None, 10).await.unwrap();
    assert_eq!(listing.keys, ["indexes/by-date/2025/12/17/0000-0000000000000000.json"]);
    let bytes = objects.get(&listing.keys[0]).await.unwrap().unwrap();
    let day: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let ids: Vec<&serde_json::Value> =
        day["segments"].as_array().unwrap().iter().flat_map(|s| s["event_ids"].as_array().unwrap()).collect();
    assert_eq!(ids, [1u128, 2, 3].map(|n| serde_json::json!(Uuid::from_u128(n))).iter().collect::<Vec<_>>());
}
