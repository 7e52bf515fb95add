//! States of a handler that folds newer versions of events than are stored.

use serde_json::json;

use super::*;
use crate::tests::components::component;

fn account() -> Aggregate {
    Aggregate::parse("Account", "a").unwrap()
}

fn loaded(bytes: &[u8]) -> Arc<Handler> {
    sandbox().load(bytes).unwrap()
}

/// The handler that folds deposits of version 2 alone.
fn account_2() -> Arc<Handler> {
    loaded(&abuse("account_2"))
}

fn upcaster() -> Arc<Handler> {
    loaded(&component("examples/account-upcaster"))
}

/// An account with deposits of version 1: 5, then 7.
async fn old_account(active: Active) -> Process {
    let process = Store::new().process(active).await;
    process.note("Account", "a", "ACCOUNT_OPENED", json!({"owner": "Ada"})).await;
    process.note("Account", "a", "MONEY_DEPOSITED", json!({"amount_cents": 5, "balance_cents": 5})).await;
    process.note("Account", "a", "MONEY_DEPOSITED", json!({"amount_cents": 7, "balance_cents": 12})).await;
    process
}

fn state(folded: &Folded) -> Value {
    folded.state.as_ref().map_or(Value::Null, |state| state.to_value())
}

#[tokio::test]
async fn old_events_reach_a_handler_of_newer_ones_now_and_in_the_past() {
    let process = old_account(together([account_2(), upcaster()])).await;
    let now = process.states.load(&account()).await.unwrap();
    assert_eq!(state(&now), json!({"owner": "Ada", "balance_cents": 12, "currencies": ["EUR", "EUR"]}));
    assert_eq!(*now.upcasters, [upcaster().digest()]);
    let past = process.states.load_at(&account(), At::Sequence(2)).await.unwrap();
    assert_eq!(state(&past), json!({"owner": "Ada", "balance_cents": 5, "currencies": ["EUR"]}));
    let opened = process.states.load_at(&account(), At::Sequence(1)).await.unwrap();
    assert_eq!(*opened.upcasters, [], "none was needed");
}

#[tokio::test]
async fn events_are_not_upcast_further_than_their_reader_folds() {
    let process = old_account(together([loaded(&component("examples/account")), upcaster()])).await;
    let folded = process.states.load(&account()).await.unwrap();
    assert_eq!(state(&folded), json!({"owner": "Ada", "balance_cents": 12, "closed": false}));
    assert_eq!(*folded.upcasters, []);
}

#[tokio::test]
async fn a_version_that_nothing_brings_forward_is_named() {
    let process = old_account(together([account_2()])).await;
    let error = process.states.load(&account()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Poison, "event_not_folded"));
    let words = error.to_string();
    assert!(words.contains("MONEY_DEPOSITED 1.0.0 at sequence 2") && words.contains("it folds 2.0.0"), "{words}");
}

#[tokio::test]
async fn an_upcaster_that_cannot_be_loaded_makes_its_readers_wait() {
    let process = old_account(together([account_2()]).lacking_upcasters(["Account".into()])).await;
    let error = process.states.load(&account()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Unavailable, "upcaster_missing"));
}

#[tokio::test]
async fn what_is_cached_is_folded_anew_behind_another_upcaster() {
    let process = old_account(together([account_2(), upcaster()])).await;
    process.states.load(&account()).await.unwrap();
    let next = loaded(&variant(&component("examples/account-upcaster"), 2));
    process.catalog.replace(together([account_2(), next.clone()]));
    let folded = process.states.load(&account()).await.unwrap();
    assert_eq!(*folded.upcasters, [next.digest()]);
}

#[tokio::test]
async fn an_event_that_is_split_is_folded_in_the_order_of_its_parts() {
    let process = old_account(together([loaded(&component("examples/account")), loaded(&abuse("upcaster"))])).await;
    process.note("Account", "a", "MONEY_MOVED", json!({})).await;
    let folded = process.states.load(&account()).await.unwrap();
    assert_eq!(state(&folded)["balance_cents"], 0, "up, then down");
    process.note("Account", "a", "CIRCLED", json!({})).await;
    let error = process.states.load(&account()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Poison, "upcast_endless"));
}
