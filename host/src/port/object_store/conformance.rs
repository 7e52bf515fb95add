//! What every object store must do, as one suite that runs on each implementation, real servers included. Panics with
//! the broken rule. Works under the prefix `snapshots/conformance/`, which must be empty, and leaves it so.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use uuid::Uuid;

use super::{ObjectStore, PutIf, PutNew};

const FOLDER: &str = "snapshots/conformance/";

fn key(name: &str) -> String {
    format!("{FOLDER}{name}")
}

/// Runs every rule.
pub async fn run(store: Arc<dyn ObjectStore>) {
    let store = store.as_ref();
    creates_once(store).await;
    one_racer_wins(store).await;
    overwrites_and_deletes(store).await;
    compares_and_sets(store).await;
    keeps_large_and_empty_objects(store).await;
    lists_in_byte_order(store).await;
    super::probe::probe(store, Uuid::from_u128(7)).await.expect("the probe accepts a conforming store");
    let left = store.list(FOLDER, None, 10).await.expect("list");
    assert!(left.keys.is_empty(), "the suite leaves nothing: {:?}", left.keys);
}

async fn creates_once(store: &dyn ObjectStore) {
    let key = key("a/once");
    assert_eq!(store.get(&key).await.expect("get"), None, "a key never written is absent");
    let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    assert_eq!(store.put_new(&key, first.clone()).await.expect("put_new"), PutNew::Created);
    for bytes in [second, first.clone()] {
        assert_eq!(store.put_new(&key, bytes).await.expect("put_new"), PutNew::Exists, "a key is created once");
    }
    assert_eq!(store.get(&key).await.expect("get"), Some(first), "a refused write changes nothing");
    store.delete(&key).await.expect("delete");
}

async fn one_racer_wins(store: &dyn ObjectStore) {
    for round in 0..10 {
        let key = key(&format!("race/{round}"));
        let racer = |n: usize| Bytes::from(format!("racer {n}").repeat(1000));
        let answers = join_all((0..16).map(|n| store.put_new(&key, racer(n)))).await;
        let winners: Vec<usize> = answers
            .into_iter()
            .enumerate()
            .filter(|(_, answer)| *answer.as_ref().expect("put_new") == PutNew::Created)
            .map(|(n, _)| n)
            .collect();
        assert_eq!(winners.len(), 1, "one creator wins");
        assert_eq!(store.get(&key).await.expect("get"), Some(racer(winners[0])), "the winner's bytes are kept");
        store.delete(&key).await.expect("delete");
    }
}

async fn overwrites_and_deletes(store: &dyn ObjectStore) {
    let key = key("overwritten");
    for text in ["one", "two"] {
        store.put(&key, Bytes::from(text)).await.expect("put");
        assert_eq!(store.get(&key).await.expect("get"), Some(Bytes::from(text)), "put overwrites");
    }
    for _ in 0..2 {
        store.delete(&key).await.expect("deleting what is not there is no error");
        assert_eq!(store.get(&key).await.expect("get"), None, "a deleted key is absent");
    }
}

async fn compares_and_sets(store: &dyn ObjectStore) {
    let key = key("compared");
    let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
    for (expected, bytes, answer) in [
        (Some(one.clone()), two.clone(), PutIf::Changed),
        (None, one.clone(), PutIf::Written),
        (None, two.clone(), PutIf::Changed),
        (Some(two.clone()), one.clone(), PutIf::Changed),
        (Some(one), two.clone(), PutIf::Written),
    ] {
        assert_eq!(store.put_if(&key, expected, bytes).await.expect("put_if"), answer);
    }
    assert_eq!(store.get(&key).await.expect("get"), Some(two));
    store.delete(&key).await.expect("delete");
}

async fn keeps_large_and_empty_objects(store: &dyn ObjectStore) {
    for size in [0, 5 * 1024 * 1024] {
        let key = key(&format!("size-{size}"));
        let bytes = Bytes::from(vec![7u8; size]);
        assert_eq!(store.put_new(&key, bytes.clone()).await.expect("put_new"), PutNew::Created);
        assert_eq!(store.get(&key).await.expect("get"), Some(bytes), "{size} bytes come back");
        store.delete(&key).await.expect("delete");
    }
}

async fn lists_in_byte_order(store: &dyn ObjectStore) {
    let names = ["list/a.x", "list/a-b", "list/a/b", "list/a/c/d", "list/ab", "list/b", "listing"];
    for name in names {
        store.put(&key(name), Bytes::from_static(b"x")).await.expect("put");
    }
    let mut want: Vec<String> = names.iter().map(|name| key(name)).collect();
    want.sort();
    let all = store.list(FOLDER, None, 100).await.expect("list");
    assert_eq!((all.keys, all.more), (want.clone(), false), "keys come in byte order");
    let inside = store.list(&key("list/"), None, 100).await.expect("list");
    assert_eq!(inside.keys, want[..6], "a prefix selects");
    let part = store.list(&key("list/a"), None, 100).await.expect("list");
    assert_eq!(part.keys, want[..5], "a prefix need not end at a slash");
    let mut paged = Vec::new();
    loop {
        let page = store.list(FOLDER, paged.last().map(String::as_str), 2).await.expect("list");
        assert!(page.keys.len() <= 2, "a page is bounded");
        paged.extend(page.keys);
        if !page.more {
            break;
        }
    }
    assert_eq!(paged, want, "pages make up the whole");
    for name in names {
        store.delete(&key(name)).await.expect("delete");
    }
}
