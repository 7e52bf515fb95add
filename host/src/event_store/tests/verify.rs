//! The checker finds what was broken, names the object, and finds nothing else.

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::*;
use crate::codec::{pack, segment};
use crate::domain::SegmentNumber;
use crate::event_store::verify::{Report, verify};

fn key(number: u64) -> String {
    segment::key(Partition(0), SegmentNumber(number))
}

/// A log of five segments, and its index.
async fn log() -> (Arc<MemoryStore>, Arc<MemoryIndex>) {
    let objects = Arc::new(MemoryStore::new());
    let index = Arc::new(MemoryIndex::new());
    let process = start(objects.clone(), index.clone(), options()).await;
    let a = account("a");
    for n in 1..=4 {
        process.store.append(command(n, &a, Expected::Any)).await.unwrap();
    }
    process.store.append(outcome(1, 1, &a, 2, Expected::Any)).await.unwrap();
    process.end().await;
    (objects, index)
}

async fn codes(objects: &MemoryStore, index: &MemoryIndex) -> Vec<(String, &'static str)> {
    let report: Report = verify(objects, Some(index), pack::Size::default(), |_| {}).await.unwrap();
    assert_eq!(report.findings_count, report.findings.len() as u64);
    report.findings.into_iter().map(|finding| (finding.key, finding.code)).collect()
}

async fn rewrite(objects: &MemoryStore, number: u64, edit: impl FnOnce(String) -> String) {
    let bytes = objects.get(&key(number)).await.unwrap().unwrap();
    let text = edit(String::from_utf8(bytes.to_vec()).unwrap());
    objects.put(&key(number), Bytes::from(text)).await.unwrap();
}

#[tokio::test]
async fn a_whole_log_has_no_findings() {
    let (objects, index) = log().await;
    let mut calls = 0;
    let report = verify(objects.as_ref(), Some(index.as_ref()), pack::Size::default(), |_| calls += 1).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.segments, report.events, report.commands, report.undecided), (5, 6, 4, 3));
    assert_eq!((report.aggregates, report.index_checked, calls), (1, true, 5));
}

/// A log of five segments with its index, and the index as it was when there were two.
async fn grown() -> (Arc<MemoryStore>, Arc<MemoryIndex>, MemoryIndex) {
    let (objects, index) = (Arc::new(MemoryStore::new()), Arc::new(MemoryIndex::new()));
    let mut early = MemoryIndex::new();
    for range in [1..=2, 3..=5] {
        let process = start(objects.clone(), index.clone(), options()).await;
        for n in range {
            process.store.append(command(n, &account("a"), Expected::Any)).await.unwrap();
        }
        process.end().await;
        if early.watermark(Partition(0)).await.unwrap().segments == SegmentNumber(0) {
            early = index.copy();
        }
    }
    (objects, index, early)
}

#[tokio::test]
async fn an_index_that_lags_is_compared_as_far_as_it_is_and_is_no_fault() {
    let (objects, index, early) = grown().await;
    let check = || verify(objects.as_ref(), Some(index.as_ref()), pack::Size::default(), |_| {});
    assert_eq!(check().await.unwrap().index_behind, 0);
    index.restore(&early);
    let report = check().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.segments, report.events, report.index_behind), (5, 5, 3));
    rewrite(&objects, 0, |text| text.replacen("\"ann\"", "\"bob\"", 1)).await;
    assert_eq!(codes(&objects, &index).await, [(key(0), "corrupt_segment")]);
}

#[tokio::test]
async fn an_index_that_lags_and_differs_is_found() {
    let (objects, _, early) = grown().await;
    let (other, _) = log().await;
    for number in 0..5 {
        let segment = other.get(&key(number)).await.unwrap().unwrap();
        objects.put(&key(number), segment).await.unwrap();
    }
    let meta = other.get(crate::codec::store::KEY).await.unwrap().unwrap();
    objects.put(crate::codec::store::KEY, meta).await.unwrap();
    let found = codes(&objects, &early).await;
    assert!(found.contains(&("index/0".to_owned(), "index_watermark")), "{found:?}");
}

#[tokio::test]
async fn what_others_write_meanwhile_is_walked_too() {
    for index_follows in [true, false] {
        let (objects, index, early) = grown().await;
        let whole = index.copy();
        index.restore(&early);
        let mut later = Vec::new();
        for number in 2..5 {
            later.push((key(number), objects.get(&key(number)).await.unwrap().unwrap()));
            objects.delete(&key(number)).await.unwrap();
        }
        let grow = |report: &Report| {
            if report.segments == 2 {
                for (key, bytes) in later.drain(..) {
                    objects.put(&key, bytes).now_or_never().unwrap().unwrap();
                }
                index.restore(if index_follows { &whole } else { &early });
            }
        };
        let report = verify(objects.as_ref(), Some(index.as_ref()), pack::Size::default(), grow).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.segments, report.index_behind), (5, if index_follows { 0 } else { 3 }));
    }
}

#[tokio::test]
async fn a_flipped_byte_is_found() {
    let (objects, index) = log().await;
    rewrite(&objects, 2, |text| text.replacen("\"ann\"", "\"bob\"", 1)).await;
    assert_eq!(codes(&objects, &index).await, [(key(2), "corrupt_segment")]);
}

#[tokio::test]
async fn a_history_rewritten_with_care_breaks_the_chain() {
    let (objects, index) = log().await;
    rewrite(&objects, 1, |text| {
        let text = text.replacen("\"ann\"", "\"bob\"", 1);
        let body = &text[..text.trim_end().rfind('\n').unwrap() + 1];
        let mut footer: serde_json::Value = serde_json::from_str(&text[body.len()..]).unwrap();
        footer["crc32c"] = crc32c::crc32c(body.as_bytes()).into();
        footer["digest"] = crate::domain::Digest::of(body.as_bytes()).to_string().into();
        format!("{body}{footer}\n")
    })
    .await;
    assert_eq!(codes(&objects, &index).await, [(key(2), "broken_chain")]);
}

#[tokio::test]
async fn a_false_fingerprint_is_found() {
    let (objects, index) = log().await;
    rewrite(&objects, 0, |text| {
        let at = text.rfind("\"values\":[\"").unwrap() + 11;
        let other = if &text[at..=at] == "0" { "1" } else { "0" };
        format!("{}{other}{}", &text[..at], &text[at + 1..])
    })
    .await;
    let found = codes(&objects, &index).await;
    assert_eq!(found, [(key(0), "fingerprint_differs"), ("index/0".to_owned(), "index_event")]);
}

#[tokio::test]
async fn a_missing_segment_leaves_strays_behind_it() {
    let (objects, index) = log().await;
    objects.delete(&key(3)).await.unwrap();
    let found = codes(&objects, &index).await;
    assert_eq!(found, [("index/0".to_owned(), "index_watermark"), (key(4), "stray_object")]);
}

#[tokio::test]
async fn a_copy_in_another_slot_is_found() {
    let (objects, index) = log().await;
    let copy = objects.get(&key(4)).await.unwrap().unwrap();
    objects.put(&key(5), copy).await.unwrap();
    let found = codes(&objects, &index).await;
    assert!(found.contains(&(key(5), "wrong_place")), "{found:?}");
    assert!(found.contains(&(key(5), "duplicate_event_id")), "{found:?}");
}

#[tokio::test]
async fn an_index_of_another_history_is_found() {
    let (objects, _) = log().await;
    let (_, other) = log().await;
    let found = codes(&objects, &other).await;
    assert_eq!(found.first().map(|(key, code)| (key.as_str(), *code)), Some(("index/0", "index_watermark")));
    assert!(found.iter().any(|(_, code)| *code == "index_other_store"));
}

#[tokio::test]
async fn nothing_at_all_is_no_store() {
    assert_eq!(codes(&MemoryStore::new(), &MemoryIndex::new()).await, [("meta/store.json".to_owned(), "no_store")]);
}
