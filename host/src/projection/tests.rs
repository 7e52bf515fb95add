//! Projection consumers over a store in memory: each event once, in order, and what remains when something fails.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::domain::Position;
use crate::port::read_model::builds::{Begun, Builds as _, Wanted};
use crate::state::Consumer;
use crate::state::consumer::{CHECKPOINT_INTERVAL, Options};
use crate::state::parking::letter_id;
use crate::tests::components::{NARROW_BYTES, component, narrow, sandbox, together};
use crate::tests::{BUILD, P0, Process, Store};

const CONSUMER: &str = "account-projection:Account";
const ACCOUNT: &str = "Account";

fn accounts() -> Arc<Handler> {
    sandbox().load(&component("examples/account-projection")).unwrap()
}

/// The same handler with a limit that is set too low for the document of [`long`].
fn narrow_accounts() -> Arc<Handler> {
    narrow().load(&component("examples/account-projection")).unwrap()
}

fn options() -> Options {
    Options {
        consumer: CONSUMER.into(),
        topics: vec!["account_events".into()],
        build: None,
        attempts_max: 3,
        lease_ms: 30_000,
        heartbeat_interval: Duration::from_secs(10),
        batch_max: 100,
        batches_max: 1,
        pace: Duration::ZERO,
    }
}

async fn projector_with(process: &Process, options: Options) -> Consumer<Projector> {
    let target = Target { build: BUILD.into(), collections: collections(&accounts()), last: None };
    let projector = Projector::new("account-projection", Some(ACCOUNT), target);
    Consumer::open(options, process.parts(), P0, projector).await.unwrap()
}

async fn projector(process: &Process) -> Consumer<Projector> {
    projector_with(process, options()).await
}

async fn open(process: &Process, id: &str) -> Record {
    process.note(ACCOUNT, id, "ACCOUNT_OPENED", json!({"owner": "Ada"})).await
}

async fn deposit(process: &Process, id: &str, balance: Value) -> Record {
    process.note(ACCOUNT, id, "MONEY_DEPOSITED", json!({"balance_cents": balance})).await
}

async fn balance(store: &Store, id: &str) -> Option<Value> {
    store.document("accounts", id).await.map(|document| document["balance_cents"].clone())
}

#[tokio::test]
async fn events_are_applied_once_also_from_an_older_checkpoint() {
    let store = Store::new();
    let process = store.process(together([accounts()])).await;
    for id in ["a", "b", "c"] {
        open(&process, id).await;
        deposit(&process, id, json!(5)).await;
    }
    let refused = process.note(ACCOUNT, "a", "COMMAND_FAILED", json!({"code": "no"})).await;
    let mut first = projector(&process).await;
    first.settle(&process).await;
    assert_eq!(balance(&store, "a").await, Some(json!(5)));
    assert_eq!(store.checkpoint(CONSUMER).await, process.events.end(P0));
    let rows = store.rows(CONSUMER, "done").await;
    assert!(rows.len() == 6 && rows.iter().all(|row| row.event_id != refused.event_id), "{rows:?}");
    let next = store.run(2, together([accounts()])).await;
    let mut second = projector(&next).await;
    second.go_back(Position(0));
    second.settle(&next).await;
    let again = store.rows(CONSUMER, "done").await;
    assert!(again.len() == 6 && again.iter().all(|row| row.attempt_count == 1), "{again:?}");
}

#[tokio::test]
async fn a_poison_event_parks_its_aggregate_only() {
    let store = Store::new();
    let process = store.process(together([accounts()])).await;
    for index in 0..20 {
        open(&process, &format!("a{index}")).await;
    }
    let bad = deposit(&process, "a7", json!("much")).await;
    for index in 0..20 {
        deposit(&process, &format!("a{index}"), json!(index)).await;
    }
    let mut projector = projector(&process).await;
    projector.work().await.unwrap();
    assert_eq!(projector.checkpoint(), bad.position, "it waits for what is tried again");
    assert!(store.checkpoint(CONSUMER).await <= bad.position);
    projector.settle(&process).await;
    for index in 0..20 {
        let wanted = if index == 7 { 0 } else { index };
        assert_eq!(balance(&store, &format!("a{index}")).await, Some(json!(wanted)), "a{index}");
    }
    assert!(process.parking.is_parked(CONSUMER, &bad.aggregate));
    assert_eq!(projector.checkpoint(), process.events.end(P0));
}

/// Another process has deleted the build, and perhaps begun another of its name; this one has not looked yet.
#[tokio::test]
async fn a_consumer_of_a_deleted_build_writes_and_parks_nothing() {
    let store = Store::new();
    let process = store.process(together([accounts()])).await;
    let begun = Begun { name: BUILD.into(), id: Uuid::from_u128(7) };
    let wanted = Wanted { name: BUILD, handler: "account-projection", asked: 1, collections: &[] };
    store.database.begin(wanted, begun.id).await.unwrap();
    let late = Begun { id: Uuid::from_u128(6), ..begun.clone() };
    let mut late = projector_with(&process, Options { build: Some(late), ..options() }).await;
    open(&process, "a").await;
    // It finds no document of this one, which the handler takes for a fault.
    deposit(&process, "b", json!(5)).await;
    for _ in 0..5 {
        store.clock.advance(Duration::from_secs(1));
        while late.work().await.unwrap() {}
    }
    assert_eq!((process.parking.count(), balance(&store, "a").await), (0, None));
    assert_eq!(late.stored_checkpoint(&process).await, Position(0));
    assert_eq!(store.rows(CONSUMER, "failed").await.len(), 2, "whoever writes the build may have them");
    let mut projector = projector_with(&process, Options { build: Some(begun), ..options() }).await;
    projector.settle(&process).await;
    assert_eq!((process.parking.count(), balance(&store, "a").await), (1, Some(json!(0))));
    assert_eq!(projector.stored_checkpoint(&process).await, process.events.end(P0));
}

#[tokio::test]
async fn a_retry_with_a_mended_handler_applies_in_order() {
    let store = Store::new();
    let process = store.process(together([narrow_accounts()])).await;
    let mut projector = projector(&process).await;
    let mut releases = process.parking.releases();
    let long = json!({"owner": "A".repeat(NARROW_BYTES)});
    let opened = process.note(ACCOUNT, "a", "ACCOUNT_OPENED", long).await;
    deposit(&process, "a", json!(5)).await;
    projector.settle(&process).await;
    deposit(&process, "a", json!(8)).await;
    projector.settle(&process).await;
    assert_eq!(balance(&store, "a").await, None);
    process.catalog.replace(together([accounts()]));
    process.parking.retry(letter_id(CONSUMER, opened.event_id), "alice").await.unwrap();
    projector.hear(releases.recv().await);
    projector.settle(&process).await;
    assert_eq!(balance(&store, "a").await, Some(json!(8)));
    assert_eq!(store.rows(CONSUMER, "done").await.len(), 3);
}

#[tokio::test]
async fn a_release_that_nobody_heard_is_found_by_the_next_run() {
    let store = Store::new();
    let process = store.process(together([narrow_accounts()])).await;
    let long = json!({"owner": "A".repeat(NARROW_BYTES)});
    let opened = process.note(ACCOUNT, "a", "ACCOUNT_OPENED", long).await;
    let mut first = projector(&process).await;
    first.settle(&process).await;
    store.clock.advance(CHECKPOINT_INTERVAL);
    first.settle(&process).await;
    assert!(store.checkpoint(CONSUMER).await > opened.position);
    drop(first);
    process.parking.retry(letter_id(CONSUMER, opened.event_id), "alice").await.unwrap();
    let process = store.run(2, together([accounts()])).await;
    projector(&process).await.settle(&process).await;
    assert_eq!(balance(&store, "a").await, Some(json!(0)));
}

#[tokio::test]
async fn a_parked_event_of_an_earlier_run_is_retried_before_what_came_since() {
    let store = Store::new();
    let process = store.process(together([narrow_accounts()])).await;
    let long = json!({"owner": "A".repeat(NARROW_BYTES)});
    let opened = process.note(ACCOUNT, "a", "ACCOUNT_OPENED", long).await;
    let mut first = projector(&process).await;
    first.settle(&process).await;
    store.clock.advance(CHECKPOINT_INTERVAL);
    first.settle(&process).await;
    let process = store.run(2, together([accounts()])).await;
    let mut second = projector(&process).await;
    let mut releases = process.parking.releases();
    deposit(&process, "a", json!(5)).await;
    second.settle(&process).await;
    process.parking.retry(letter_id(CONSUMER, opened.event_id), "alice").await.unwrap();
    second.hear(releases.recv().await);
    second.settle(&process).await;
    assert_eq!(balance(&store, "a").await, Some(json!(5)));
    assert_eq!(store.rows(CONSUMER, "done").await.len(), 2);
}

#[tokio::test]
async fn a_discarded_event_is_skipped_also_by_a_rebuild() {
    let store = Store::new();
    let process = store.process(together([accounts()])).await;
    let mut projector_1 = projector(&process).await;
    let mut releases = process.parking.releases();
    open(&process, "a").await;
    let bad = deposit(&process, "a", json!("much")).await;
    deposit(&process, "a", json!(9)).await;
    projector_1.settle(&process).await;
    assert_eq!(balance(&store, "a").await, Some(json!(0)));
    // Built anew while it is parked, the read model is the same.
    let rebuilt = store.without_database();
    let again = rebuilt.run(2, together([accounts()])).await;
    projector(&again).await.settle(&again).await;
    assert_eq!(balance(&rebuilt, "a").await, Some(json!(0)));
    process.parking.discard(letter_id(CONSUMER, bad.event_id), "nonsense", "alice").await.unwrap();
    projector_1.hear(releases.recv().await);
    projector_1.settle(&process).await;
    assert_eq!(balance(&store, "a").await, Some(json!(9)));
    let rebuilt = store.without_database();
    let again = rebuilt.run(3, together([accounts()])).await;
    projector(&again).await.settle(&again).await;
    assert_eq!(rebuilt.document("accounts", "a").await, store.document("accounts", "a").await);
}

#[tokio::test]
async fn a_read_model_that_is_away_loses_nothing() {
    let store = Store::new();
    let process = store.process(together([accounts()])).await;
    for id in ["a", "b"] {
        open(&process, id).await;
        deposit(&process, id, json!(5)).await;
    }
    let mut projector = projector_with(&process, Options { batch_max: 3, ..options() }).await;
    store.failures.after("apply", 1, 2);
    let mut errors = 0;
    while projector.checkpoint() < process.events.end(P0) {
        errors += usize::from(projector.work().await.is_err());
        assert!(store.checkpoint(CONSUMER).await <= projector.checkpoint());
    }
    assert_eq!(errors, 2);
    for id in ["a", "b"] {
        assert_eq!(balance(&store, id).await, Some(json!(5)));
    }
}

#[tokio::test]
async fn a_stale_write_changes_nothing() {
    let store = Store::new();
    let process = store.process(together([accounts()])).await;
    open(&process, "a").await;
    deposit(&process, "a", json!(5)).await;
    projector(&process).await.settle(&process).await;
    // Another consumer of the same build begins with the first event.
    let late = Options { consumer: "late:Account".into(), batch_max: 1, ..options() };
    let mut late = projector_with(&process, late).await;
    late.work().await.unwrap();
    assert_eq!(balance(&store, "a").await, Some(json!(5)));
    late.settle(&process).await;
    assert_eq!(balance(&store, "a").await, Some(json!(5)));
}

#[tokio::test]
async fn a_claim_behind_one_that_is_held_elsewhere_is_given_back() {
    let store = Store::new();
    let process = store.process(together([accounts()])).await;
    let opened = open(&process, "a").await;
    deposit(&process, "a", json!(5)).await;
    store.claim_elsewhere(CONSUMER, &opened, 30_000).await;
    let mut projector = projector(&process).await;
    projector.work().await.unwrap();
    let held: Vec<uuid::Uuid> = store.rows(CONSUMER, "processing").await.iter().map(|row| row.event_id).collect();
    assert_eq!(held, [opened.event_id]);
    store.advance(30_001);
    projector.settle(&process).await;
    assert_eq!(balance(&store, "a").await, Some(json!(5)));
}

#[tokio::test]
async fn an_event_whose_claim_was_lost_holds_the_checkpoint_back() {
    let store = Store::new();
    let process = store.process(together([accounts()])).await;
    let opened = open(&process, "a").await;
    let mut other = process.clone();
    other.owner.name = "other".into();
    let mut slow = projector(&other).await;
    let mut projector = projector(&process).await;
    // The other takes the event and does not get on.
    store.failures.next("apply");
    slow.work().await.unwrap_err();
    projector.work().await.unwrap();
    assert_eq!(projector.checkpoint(), opened.position);
    slow.settle(&other).await;
    projector.settle(&process).await;
    assert_eq!(projector.checkpoint(), process.events.end(P0));
    assert_eq!(balance(&store, "a").await, Some(json!(0)));
}

#[tokio::test]
async fn a_version_with_other_collections_writes_none_of_a_build() {
    let store = Store::new();
    let process = store.process(together([accounts()])).await;
    let last = process.catalog.active().get("account-projection").cloned();
    let target = Target { build: BUILD.into(), collections: collections(&accounts()), last };
    let projector = Projector::new("account-projection", Some(ACCOUNT), target);
    let mut projector = Consumer::open(options(), process.parts(), P0, projector).await.unwrap();
    let other = sandbox().load(&crate::tests::components::abuse("accounts_mended")).unwrap();
    process.catalog.replace(together([other]));
    open(&process, "a").await;
    deposit(&process, "a", json!(5)).await;
    projector.settle(&process).await;
    assert_eq!(balance(&store, "a").await, Some(json!(5)));
    assert_eq!(store.document("owners", "a").await, None);
}

#[tokio::test]
async fn a_projection_gets_what_it_folds_and_what_upcasters_make_of_the_rest() {
    let upcaster = sandbox().load(&crate::tests::components::abuse("upcaster")).unwrap();
    let process = Store::new().process(together([accounts(), upcaster])).await;
    process.note(ACCOUNT, "a", "ACCOUNT_OPENED", json!({"owner": "Ada"})).await;
    process.note(ACCOUNT, "a", "ACCOUNT_AUDITED", json!({})).await;
    let moved = process.note(ACCOUNT, "a", "MONEY_MOVED", json!({})).await;
    let mut projector = projector(&process).await;
    projector.settle(&process).await;
    let document = process.store.document("accounts", "a").await.unwrap();
    assert_eq!((&document["balance_cents"], &document["sequence_number"]), (&json!(0), &json!(moved.sequence.0)));
    assert_eq!(process.store.rows(CONSUMER, "done").await.len(), 3, "one that it does not fold is done all the same");
}
