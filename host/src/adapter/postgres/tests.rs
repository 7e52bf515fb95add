//! The conformance suites on a real server, and what only a server can do.
#![allow(clippy::unwrap_used)]

mod database;

use crate::port::{index, read_model, registry};
use database::TestDatabase;

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_an_index() {
    let database = TestDatabase::create().await;
    index::conformance::all(async || database.empty().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_registry() {
    let database = TestDatabase::create().await;
    registry::conformance::all(async || database.empty().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_dead_letters() {
    let database = TestDatabase::create().await;
    registry::conformance::dead_letters(&database.empty().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_read_model() {
    let database = TestDatabase::create().await;
    let empty = async || {
        let database = database.empty().await;
        (database.clone(), database)
    };
    read_model::conformance::all(empty).await;
}
