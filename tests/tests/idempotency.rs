//! Acceptance tests of the idempotency contract (`docs/IDEMPOTENCY_CONTRACT.md`, section 3) that need nothing but the
//! host and its folder. The others are named there.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use carryall_tests::{Client, Options, Server, Shop, fresh_id};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(60);

fn checkpoint(server: &Server) -> std::path::PathBuf {
    server.data().join("store/checkpoints/event_publisher.json")
}

/// Waits until the relay has stored that it sent everything.
async fn published(server: &Server, events: usize) {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(checkpoint(server)).unwrap_or_default();
        let stored: Value = serde_json::from_str(&text).unwrap_or_default();
        if stored["partitions"]["0"]["position"] == events {
            return;
        }
        assert!(begun.elapsed() < WITHIN, "{events} events, the checkpoint is {stored}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn documents(client: &Client, seen: &Value) -> Vec<Value> {
    let token = seen["consistency_token"].as_str().unwrap();
    let reader = client.with("consistency-token", token).with("prefer", "wait=60");
    reader.pages("/api/v1/instances/shop/Product", "instances").await.unwrap()
}

#[tokio::test]
async fn a_checkpoint_that_was_rolled_back_publishes_again_and_changes_nothing() {
    let mut server = Server::start(Options::default()).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let mut seen = Value::Null;
    for id in ["p1", "p2", "p3"] {
        seen = shop.put("Product", json!({"product_id": id, "name": "n"})).await.unwrap();
    }
    let before = documents(&shop.client, &seen).await;
    assert!(server.terminate().await.unwrap().success());
    let log = server.log().unwrap();
    published(&server, log.events.len()).await;

    std::fs::remove_file(checkpoint(&server)).unwrap();
    server.start_again().await.unwrap();
    published(&server, log.events.len()).await;
    assert_eq!(documents(&shop.client, &seen).await, before);
    let status = shop.client.outcome(seen["command_id"].as_str().unwrap()).await.unwrap();
    assert_eq!(status, seen);
    let after = server.log().unwrap();
    assert!(after.events.iter().map(|event| &event.line).eq(log.events.iter().map(|event| &event.line)));
    shop.put("Product", json!({"product_id": "p4", "name": "n"})).await.unwrap();
}

#[tokio::test]
async fn the_same_command_sent_many_times_at_once_is_one_command() {
    let server = Server::start(Options::default()).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let key = fresh_id().to_string();
    let body = json!({"data": {"product_id": "p1", "name": "n"}});
    let sender = shop.client.with("idempotency-key", &key);
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (sender, body) = (sender.clone(), body.clone());
        sending.spawn(async move { sender.post("/api/v1/instances/shop/async/Product/create", &body).await.unwrap() });
    }
    let answers = sending.join_all().await;
    let first: Vec<_> = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).collect();
    assert_eq!(first.len(), 1, "one of them was the first");
    let results: BTreeSet<String> =
        answers.iter().map(|answer| answer.expect(202).unwrap()["result"].to_string()).collect();
    assert_eq!(results.len(), 1, "they were told different things: {results:?}");
    assert_eq!(shop.client.outcome(&key).await.unwrap()["status"], "COMPLETED");
    let log = server.log().unwrap();
    assert_eq!(log.outcome(&key).len(), 1);
    assert_eq!(log.events.iter().filter(|event| event.event_type() == "INSTANCE_CREATED").count(), 1);
}

#[tokio::test]
async fn identifiers_at_their_limits_are_apart_or_refused() {
    let server = Server::start(Options::default()).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let longest = "x".repeat(255);
    let kept = ["a", "A", "a.b", "a-b", "a_b", "0", "00", longest.as_str()];
    let mut seen = Value::Null;
    for id in kept {
        seen = shop.put("Product", json!({"product_id": id, "name": "n"})).await.unwrap();
    }
    let found: BTreeSet<String> = documents(&shop.client, &seen)
        .await
        .iter()
        .map(|document| document["instance_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(found, kept.map(str::to_owned).into());

    let too_long = "x".repeat(256);
    let events = server.log().unwrap().events.len();
    for id in ["", " a", "a ", ".a", "-a", "é", "e\u{301}", "a/b", "a:b", "a\u{0}b", too_long.as_str()] {
        let body = json!({"data": {"product_id": id, "name": "n"}});
        let answer = shop.client.post("/api/v1/instances/shop/async/Product/create", &body).await.unwrap();
        answer.problem(400).unwrap();
    }
    assert_eq!(server.log().unwrap().events.len(), events, "a refusal leaves no trace");
}
