//! A handler that folds a newer version of an event than is stored, from outside: refused alone, served behind an
//! upcaster, with the same state as before, now and in the past.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use carryall_tests::{Answer, Client, Options, Server, abuse, component};
use serde_json::{Value, json};

const HANDLERS: &str = "/admin/v1/handlers";

/// Uploads a component and gives its digest.
async fn upload(operator: &Client, bytes: Vec<u8>) -> String {
    let wasm = operator.with("content-type", "application/wasm");
    let answer = wasm.send("POST", HANDLERS, Some(Bytes::from(bytes))).await.unwrap().expect(201).unwrap();
    answer["digest"].as_str().unwrap().to_owned()
}

async fn activate(operator: &Client, name: &str, digest: &str) -> Answer {
    let path = format!("{HANDLERS}/{name}/versions/{digest}/activate");
    operator.post(&path, &json!({"force": true})).await.unwrap()
}

async fn run(client: &Client, command: &str, expected_seq: u64, payload: Value) {
    let answer = client.command(command, ("Account", "a-1"), Some(expected_seq), payload).await.unwrap();
    client.completed(answer).await.unwrap();
}

async fn state(client: &Client, at: &str) -> Value {
    let path = format!("/api/v1/aggregates/Account/a-1{at}");
    client.get(&path).await.unwrap().expect(200).unwrap()["state"].clone()
}

#[tokio::test]
async fn a_handler_takes_over_old_events_behind_an_upcaster() {
    let mut server = Server::start(Options::default()).await.unwrap();
    let (operator, client) = (server.operator(), server.client());
    let first = upload(&operator, component("account").unwrap()).await;
    activate(&operator, "account", &first).await.expect(200).unwrap();
    run(&client, "OPEN_ACCOUNT", 0, json!({"owner": "alice"})).await;
    run(&client, "DEPOSIT", 2, json!({"amount_cents": 500})).await;
    run(&client, "DEPOSIT", 4, json!({"amount_cents": 200})).await;
    assert_eq!(state(&client, "").await["balance_cents"], 700);

    let second = upload(&operator, abuse("account_2").unwrap()).await;
    let refused = activate(&operator, "account", &second).await.problem(422).unwrap();
    let refused = refused.code("incompatible_handler").unwrap();
    let finding = &refused.body["findings"][0];
    assert_eq!(finding["code"], "event_not_folded");
    let words = finding["message"].as_str().unwrap();
    assert!(words.contains("MONEY_DEPOSITED 1.0.0") && words.contains("folds 2.0.0"), "{words}");

    let upcaster = upload(&operator, component("account-upcaster").unwrap()).await;
    activate(&operator, "account-upcaster", &upcaster).await.expect(200).unwrap();
    activate(&operator, "account", &second).await.expect(200).unwrap();
    let now = json!({"owner": "alice", "balance_cents": 700, "currencies": ["EUR", "EUR"]});
    assert_eq!(state(&client, "").await, now);
    let past = json!({"owner": "alice", "balance_cents": 500, "currencies": ["EUR"]});
    assert_eq!(state(&client, "?at_seq=4").await, past, "in the past as well");

    run(&client, "DEPOSIT", 6, json!({"cents": 100, "currency": "CHF"})).await;
    let now = json!({"owner": "alice", "balance_cents": 800, "currencies": ["EUR", "EUR", "CHF"]});
    assert_eq!(state(&client, "").await, now);
    let log = server.log().unwrap();
    let deposits: Vec<_> = log.events.iter().filter(|event| event.event_type() == "MONEY_DEPOSITED").collect();
    let made_by = |index: usize| &deposits[index].envelope["metadata"]["handler"];
    assert_eq!((&made_by(1)["digest"], &made_by(1)["upcasters"]), (&json!(first), &json!([])));
    assert_eq!((&made_by(2)["digest"], &made_by(2)["upcasters"]), (&json!(second), &json!([upcaster])));
    assert_eq!(deposits[0].envelope["schema_version"], "1.0.0", "what is stored stays");

    server.kill().unwrap();
    server.start_again().await.unwrap();
    assert_eq!(state(&client, "").await, now, "after a restart");
    assert_eq!(state(&client, "?at_seq=4").await, past);
    let back = operator.post(&format!("{HANDLERS}/account/rollback"), &json!({})).await.unwrap();
    back.problem(422).unwrap().code("incompatible_handler").unwrap();
}
