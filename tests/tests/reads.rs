//! What a read promises: states of a moment in the past, the write a token stands for, and documents of a projection
//! that was uploaded.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use carryall_tests::{Client, Options, Server, Shop, component};
use serde_json::{Value, json};

async fn deploy(operator: &Client, name: &str) {
    let client = operator.with("content-type", "application/wasm");
    let answer = client.send("POST", "/admin/v1/handlers", Some(component(name).unwrap().into())).await.unwrap();
    let uploaded = answer.expect(201).unwrap();
    let digest = uploaded["digest"].as_str().unwrap();
    let path = format!("/admin/v1/handlers/{name}/versions/{digest}/activate");
    operator.post(&path, &json!({"force": true})).await.unwrap().expect(200).unwrap();
}

/// Moves an account; gives the status, which must be COMPLETED.
async fn act(client: &Client, account: &str, command: &str, payload: Value) -> Value {
    let accepted = client.command(command, ("Account", account), None, payload).await.unwrap();
    client.completed(accepted).await.unwrap()
}

fn waiting(client: &Client, seen: &Value) -> Client {
    client.with("consistency-token", seen["consistency_token"].as_str().unwrap()).with("prefer", "wait=60")
}

#[tokio::test]
async fn a_state_is_read_as_of_a_time() {
    let server = Server::start(Options::default()).await.unwrap();
    let (client, operator) = (server.client(), server.operator());
    deploy(&operator, "account").await;
    act(&client, "a-1", "OPEN_ACCOUNT", json!({"owner": "ann"})).await;
    for _ in 0..3 {
        // Times are kept in milliseconds: these are to differ.
        tokio::time::sleep(Duration::from_millis(5)).await;
        act(&client, "a-1", "DEPOSIT", json!({"amount_cents": 100})).await;
    }
    let base = "/api/v1/aggregates/Account/a-1";
    let log = server.log().unwrap();
    let mut balance = 0;
    for event in log.events.iter().filter(|event| event.aggregate().0 == "Account" && !event.is_command()) {
        balance += event.envelope["data"]["amount_cents"].as_u64().unwrap_or_default();
        let at = event.envelope["occurred_at"].as_str().unwrap();
        let then = client.get(&format!("{base}?at_time={at}")).await.unwrap().expect(200).unwrap();
        assert_eq!(then["sequence_number"], event.sequence(), "{then}");
        assert_eq!(then["state"]["balance_cents"], balance, "{then}");
    }
    assert_eq!(balance, 300);
    let now = client.get(base).await.unwrap().expect(200).unwrap();
    let later = client.get(&format!("{base}?at_time=2999-01-01T00:00:00Z")).await.unwrap().expect(200).unwrap();
    assert_eq!(later, now);
    client.get(&format!("{base}?at_time=2001-01-01T00:00:00Z")).await.unwrap().problem(404).unwrap();
    for wrong in ["?at_time=yesterday", "?at_time=2025-13-01T00:00:00Z", "?at_time=2025-12-17T00:00:00Z&at_seq=1"] {
        client.get(&format!("{base}{wrong}")).await.unwrap().problem(400).unwrap();
    }
}

#[tokio::test]
async fn a_read_waits_for_the_write_its_token_stands_for() {
    let server = Server::start(Options::default()).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    for number in 0..20 {
        let body = json!({"data": {"product_id": format!("w{number}"), "name": "n"}});
        let path = "/api/v1/instances/shop/async/Product/create";
        let accepted = shop.client.post(path, &body).await.unwrap().expect(202).unwrap();
        // Nothing in between: only the token tells the read what to wait for.
        let path = format!("/api/v1/instances/shop/Product/w{number}");
        let read = waiting(&shop.client, &accepted).get(&path).await.unwrap();
        assert_eq!(read.expect(200).unwrap()["sequence_number"], 2);
        assert_eq!(read.header("preference-applied"), Some("wait=60"));
        assert!(read.header("projection-position").unwrap().starts_with("0="));
        assert!(read.header("projection-time").is_some());
    }
}

#[tokio::test]
async fn a_token_out_of_reach_is_answered_with_both_positions() {
    let server = Server::start(Options::default()).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    // The token of a host that is ahead: here, of one that has more events.
    let other = Server::start(Options::default()).await.unwrap();
    let ahead = Shop::create(other.client()).await.unwrap();
    let seen = shop.put("Product", json!({"product_id": "p0", "name": "n"})).await.unwrap();
    shop.read("Product", "p0", &seen).await.unwrap();
    let mut last = Value::Null;
    for number in 0..4 {
        last = ahead.put("Product", json!({"product_id": format!("p{number}"), "name": "n"})).await.unwrap();
    }
    let token = last["consistency_token"].as_str().unwrap().to_owned();
    let path = "/api/v1/instances/shop/Product";
    let begin = Instant::now();
    let reader = shop.client.with("consistency-token", &token).with("prefer", "wait=1");
    let answer = reader.get(path).await.unwrap();
    let late = answer.problem(503).unwrap().code("projection-behind").unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1), "it did not wait");
    assert!(late.retryable && answer.header("retry-after").is_some());
    let wanted = late.body["wanted_position"]["0"].as_u64().unwrap();
    let reached = late.body["projection_position"]["0"].as_u64().unwrap();
    let events = |server: &Server| server.log().unwrap().events.len() as u64;
    assert_eq!((wanted, reached), (events(&other) - 1, events(&server)), "{}", late.body);

    // It waits as long as it may, and is served as soon as the position is there.
    let reader = shop.client.with("consistency-token", &token).with("prefer", "wait=60");
    let waiting = tokio::spawn(async move { reader.get(path).await.unwrap() });
    for number in 1..4 {
        shop.put("Product", json!({"product_id": format!("p{number}"), "name": "n"})).await.unwrap();
    }
    let page = waiting.await.unwrap().expect(200).unwrap();
    assert_eq!(page["instances"].as_array().unwrap().len(), 4, "{page}");

    // A read without a token never waits for anything.
    shop.client.get(path).await.unwrap().expect(200).unwrap();
    for wrong in ["", "p1", "p1.0-x", "c1.nonsense", "e1.4"] {
        shop.client.with("consistency-token", wrong).get(path).await.unwrap().problem(400).unwrap();
    }
}

#[tokio::test]
async fn documents_of_an_uploaded_projection_are_read_listed_and_rebuilt() {
    let mut server = Server::start(Options::default()).await.unwrap();
    let (client, operator) = (server.client(), server.operator());
    deploy(&operator, "account").await;
    act(&client, "before", "OPEN_ACCOUNT", json!({"owner": "ann"})).await;
    deploy(&operator, "account-projection").await;
    act(&client, "after", "OPEN_ACCOUNT", json!({"owner": "bob"})).await;
    let last = act(&client, "after", "DEPOSIT", json!({"amount_cents": 250})).await;

    let reader = waiting(&client, &last);
    let answer = reader.get("/api/v1/documents/accounts/after").await.unwrap();
    let document = answer.expect(200).unwrap();
    assert_eq!([&document["owner"], &document["balance_cents"]], [&json!("bob"), &json!(250)], "{document}");
    assert_eq!(answer.header("etag"), Some("\"4\""));
    // The history before the upload is projected as well.
    let earlier = reader.get("/api/v1/documents/accounts/before").await.unwrap().expect(200).unwrap();
    assert_eq!(earlier["owner"], "ann");

    let list = |query: &'static str| {
        let reader = reader.clone();
        async move {
            let page = reader.get(&format!("/api/v1/documents/accounts{query}")).await.unwrap().expect(200).unwrap();
            let ids = page["documents"].as_array().unwrap().iter().map(|found| found["id"].clone());
            ids.collect::<Vec<_>>()
        }
    };
    assert_eq!(list("").await, ["after", "before"]);
    assert_eq!(list("?filter=balance_cents%3E0").await, ["after"]);
    assert_eq!(list("?q=ANN").await, ["before"]);
    let first = reader.get("/api/v1/documents/accounts?limit=1").await.unwrap().expect(200).unwrap();
    let next = first["next"].as_str().unwrap();
    let path = format!("/api/v1/documents/accounts?limit=1&after={next}");
    let second = reader.get(&path).await.unwrap().expect(200).unwrap();
    assert_eq!((&second["documents"][0]["id"], &second["next"]), (&json!("before"), &Value::Null));
    let missing = reader.get("/api/v1/documents/accounts/nobody").await.unwrap();
    missing.problem(404).unwrap().code("document_not_found").unwrap();

    let all = reader.get("/api/v1/documents/accounts").await.unwrap().expect(200).unwrap();
    assert!(server.terminate().await.unwrap().success());
    let rebuilt = server.run(&["rebuild", "--json"]).unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    server.start_again().await.unwrap();
    let again = waiting(&client, &last).get("/api/v1/documents/accounts").await.unwrap().expect(200).unwrap();
    assert_eq!(again, all, "a rebuilt collection differs");
}
