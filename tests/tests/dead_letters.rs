//! Dead letters from end to end, with a handler that traps on some commands: what is parked, what waits behind it, what
//! goes on, and what an operator can do about it.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use carryall_tests::{Client, Options, Server, abuse};
use serde_json::{Value, json};

const LETTERS: &str = "/admin/v1/dead-letters";
/// The worker of the handler's own type.
const CONSUMER: &str = "fragile:Notebook";
/// Attempts before parking, as documented.
const ATTEMPTS: u64 = 5;
const PARKED_WITHIN: Duration = Duration::from_secs(60);

/// Uploads a version of the handler; gives its digest.
async fn upload(operator: &Client, version: &str) -> String {
    let client = operator.with("content-type", "application/wasm");
    let answer = client.send("POST", "/admin/v1/handlers", Some(abuse(version).unwrap().into())).await.unwrap();
    let uploaded = answer.expect(201).unwrap();
    assert_eq!(uploaded["name"], "fragile", "both versions have one name");
    uploaded["digest"].as_str().unwrap().to_owned()
}

async fn activate(operator: &Client, digest: &str) {
    let path = format!("/admin/v1/handlers/fragile/versions/{digest}/activate");
    operator.post(&path, &json!({"force": true})).await.unwrap().expect(200).unwrap();
}

/// A host whose active handler is the broken one.
async fn broken() -> Server {
    let server = Server::start(Options::default()).await.unwrap();
    let operator = server.operator();
    let digest = upload(&operator, "fragile").await;
    activate(&operator, &digest).await;
    server
}

/// Sends a note; gives its command's id.
async fn note(client: &Client, notebook: &str, text: &str) -> String {
    let accepted = client.command("NOTE", ("Notebook", notebook), None, json!({"text": text})).await.unwrap();
    accepted.expect(202).unwrap()["command_id"].as_str().unwrap().to_owned()
}

async fn status(client: &Client, id: &str) -> Value {
    client.get(&format!("/api/v1/commands/{id}/status")).await.unwrap().expect(200).unwrap()
}

async fn letters(operator: &Client, state: &str) -> Vec<Value> {
    let page = operator.get(&format!("{LETTERS}?state={state}")).await.unwrap().expect(200).unwrap();
    assert_eq!(page["next"], Value::Null);
    page["dead_letters"].as_array().unwrap().clone()
}

/// Waits until a command is parked; gives its status.
async fn parked(client: &Client, id: &str) -> Value {
    let begin = Instant::now();
    loop {
        let now = status(client, id).await;
        if now["error"]["code"] == "parked" {
            assert_eq!(now["status"], "RETRYING", "{now}");
            return now;
        }
        let open = ["PENDING", "PROCESSING", "RETRYING"].iter().any(|open| now["status"] == *open);
        assert!(open, "it is not to end: {now}");
        assert!(begin.elapsed() < PARKED_WITHIN, "not parked: {now}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Notes of a notebook, in order.
async fn notes(client: &Client, notebook: &str) -> Vec<String> {
    let path = format!("/api/v1/aggregates/Notebook/{notebook}");
    let state = client.get(&path).await.unwrap().expect(200).unwrap()["state"].clone();
    state.as_array().unwrap().iter().map(|note| note["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_command_that_traps_is_parked_and_nothing_else_is_held_up() {
    let server = broken().await;
    let (client, operator) = (server.client(), server.operator());
    let good = note(&client, "n-1", "one").await;
    assert_eq!(client.outcome(&good).await.unwrap()["status"], "COMPLETED");
    let bad = note(&client, "n-1", "poison").await;
    let told = parked(&client, &bad).await;
    assert_eq!(told["retry_count"], ATTEMPTS - 1, "{told}");
    let behind = note(&client, "n-1", "three").await;
    parked(&client, &behind).await;

    let found = letters(&operator, "parked").await;
    assert_eq!(found.len(), 1, "who waits behind is no letter: {found:?}");
    let letter = &found[0];
    assert_eq!(
        [&letter["event_id"], &letter["handler"], &letter["aggregate_type"], &letter["aggregate_id"]],
        [&json!(bad), &json!(CONSUMER), &json!("Notebook"), &json!("n-1")]
    );
    assert_eq!([&letter["sequence_number"], &letter["reason"]], [&json!(3), &json!("trap")], "{letter}");
    assert!(letter["error"].as_str().unwrap().contains("trapped"), "{letter}");

    // Another aggregate of the same type, and one of another type.
    let other = note(&client, "n-2", "elsewhere").await;
    assert_eq!(client.outcome(&other).await.unwrap()["status"], "COMPLETED");
    let database = json!({"name": "shop", "description": "d"});
    client.completed(client.post("/api/v1/database/create", &database).await.unwrap()).await.unwrap();

    let waiting = status(&client, &behind).await;
    assert_eq!((&waiting["status"], &waiting["error"]["code"]), (&json!("RETRYING"), &json!("parked")), "{waiting}");
    assert_eq!(notes(&client, "n-1").await, ["one"]);
    let log = server.log().unwrap();
    assert!(log.outcome(&bad).is_empty() && log.outcome(&behind).is_empty());

    // A read that must see it is told that it cannot.
    let token = waiting["consistency_token"].as_str().unwrap();
    let reader = client.with("consistency-token", token).with("prefer", "wait=0");
    let refused = reader.get("/api/v1/aggregates/Notebook/n-1").await.unwrap();
    let late = refused.problem(503).unwrap().code("projection-behind").unwrap();
    assert!(late.retryable && refused.header("retry-after").is_some());
    assert_eq!(late.body["wanted_outcome_of"], json!(behind));
}

#[tokio::test]
async fn a_discarded_command_is_cancelled_and_the_next_one_is_taken_up() {
    let server = broken().await;
    let (client, operator) = (server.client(), server.operator());
    let bad = note(&client, "n-1", "poison").await;
    parked(&client, &bad).await;
    let behind = note(&client, "n-1", "two").await;
    let id = letters(&operator, "parked").await[0]["id"].as_str().unwrap().to_owned();
    let path = format!("{LETTERS}/{id}/discard");

    operator.post(&path, &json!({})).await.unwrap().problem(400).unwrap();
    operator.post(&path, &json!({"reason": ""})).await.unwrap().problem(400).unwrap();
    client.post(&path, &json!({"reason": "mine"})).await.unwrap().problem(401).unwrap();
    let unknown = format!("{LETTERS}/{}/discard", carryall_tests::fresh_id());
    let missing = operator.post(&unknown, &json!({"reason": "r"})).await.unwrap();
    missing.problem(404).unwrap().code("dead_letter_not_found").unwrap();

    let gone = operator.post(&path, &json!({"reason": "never meant"})).await.unwrap().expect(200).unwrap();
    assert_eq!(gone["state"], "discarded", "{gone}");
    let ended = client.outcome(&bad).await.unwrap();
    assert_eq!(ended["status"], "CANCELLED", "{ended}");
    assert!(ended["error"]["message"].as_str().unwrap().contains("never meant"), "{ended}");
    assert_eq!(client.outcome(&behind).await.unwrap()["status"], "COMPLETED");
    assert_eq!(notes(&client, "n-1").await, ["two"]);

    for again in [format!("{LETTERS}/{id}/retry"), path] {
        let late = operator.post(&again, &json!({"reason": "r"})).await.unwrap();
        late.problem(409).unwrap().code("dead_letter_not_parked").unwrap();
    }
    assert!(letters(&operator, "parked").await.is_empty());
    assert_eq!(letters(&operator, "discarded").await.len(), 1);
    let log = server.log().unwrap();
    assert_eq!(log.outcome(&bad).len(), 1);
    assert!(log.undecided().is_empty());
}

#[tokio::test]
async fn a_mended_version_takes_up_what_was_parked_in_order() {
    let server = broken().await;
    let (client, operator) = (server.client(), server.operator());
    let mut sent = Vec::new();
    for text in ["one", "poison", "three", "four"] {
        sent.push(note(&client, "n-1", text).await);
    }
    parked(&client, &sent[1]).await;
    let id = letters(&operator, "parked").await[0]["id"].as_str().unwrap().to_owned();
    let retry = format!("{LETTERS}/{id}/retry");

    // The version is what it was: it is parked again, under the same letter.
    operator.post(&retry, &json!({})).await.unwrap().expect(200).unwrap();
    let begin = Instant::now();
    while letters(&operator, "parked").await.is_empty() {
        assert!(begin.elapsed() < PARKED_WITHIN, "not parked again: {}", status(&client, &sent[1]).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(letters(&operator, "all").await.len(), 1);

    let digest = upload(&operator, "mended").await;
    activate(&operator, &digest).await;
    let released = operator.post(&retry, &json!({})).await.unwrap().expect(200).unwrap();
    assert_eq!((&released["id"], &released["state"]), (&json!(id), &json!("released")));
    for command in &sent {
        assert_eq!(client.outcome(command).await.unwrap()["status"], "COMPLETED");
    }
    assert_eq!(notes(&client, "n-1").await, ["one", "poison", "three", "four"]);
    let log = server.log().unwrap();
    let by = |command: &String| log.outcome(command)[0].envelope["metadata"]["handler"]["version"].clone();
    assert_eq!(by(&sent[0]), "0.1.0");
    assert!(sent[1..].iter().all(|command| by(command) == "0.2.0"));

    // Back to the version before, over a history that both have written.
    let path = "/admin/v1/handlers/fragile/rollback";
    let back = operator.post(path, &json!({"reason": "drill"})).await.unwrap().expect(200).unwrap();
    assert_eq!((&back["previous"], &back["revision"]), (&json!(digest), &json!(3)), "{back}");
    let fifth = note(&client, "n-1", "five").await;
    assert_eq!(client.outcome(&fifth).await.unwrap()["status"], "COMPLETED");
    assert_eq!(notes(&client, "n-1").await, ["one", "poison", "three", "four", "five"]);
    let bad = note(&client, "n-1", "poison").await;
    parked(&client, &bad).await;
    let shown = operator.get("/admin/v1/handlers/fragile").await.unwrap().expect(200).unwrap();
    assert_eq!(shown["history"].as_array().unwrap().last().unwrap()["reason"], "drill", "{shown}");
}

#[tokio::test]
async fn dead_letters_survive_a_kill_and_a_rebuild() {
    let mut server = broken().await;
    let (client, operator) = (server.client(), server.operator());
    let bad = note(&client, "n-1", "poison").await;
    parked(&client, &bad).await;
    let behind = note(&client, "n-1", "two").await;
    parked(&client, &behind).await;
    let before = letters(&operator, "parked").await;

    server.kill().unwrap();
    server.start_again().await.unwrap();
    assert_eq!(letters(&operator, "parked").await, before);
    parked(&client, &bad).await;

    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    let rebuilt = server.run(&["rebuild", "--json"]).unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    server.start_again().await.unwrap();
    assert_eq!(letters(&operator, "parked").await, before);
    let third = note(&client, "n-1", "three").await;
    parked(&client, &third).await;
    assert!(server.log().unwrap().outcome(&behind).is_empty(), "it went past the parked one");

    let id = before[0]["id"].as_str().unwrap();
    let path = format!("{LETTERS}/{id}/discard");
    operator.post(&path, &json!({"reason": "r"})).await.unwrap().expect(200).unwrap();
    assert_eq!(client.outcome(&bad).await.unwrap()["status"], "CANCELLED");
    for command in [&behind, &third] {
        assert_eq!(client.outcome(command).await.unwrap()["status"], "COMPLETED");
    }
    assert_eq!(notes(&client, "n-1").await, ["two", "three"]);
    server.kill().unwrap();
    server.start_again().await.unwrap();
    assert!(letters(&operator, "parked").await.is_empty());
    assert_eq!(client.outcome(&bad).await.unwrap()["status"], "CANCELLED");
}

#[tokio::test]
async fn a_claim_is_listed_and_released() {
    let server = broken().await;
    let (client, operator) = (server.client(), server.operator());
    let good = note(&client, "n-1", "one").await;
    client.outcome(&good).await.unwrap();
    let bad = note(&client, "n-1", "poison").await;
    parked(&client, &bad).await;
    let page = operator.get(&format!("/admin/v1/claims?status=parked&handler={CONSUMER}")).await.unwrap();
    let page = page.expect(200).unwrap();
    let claims = page["claims"].as_array().unwrap();
    assert_eq!(claims.len(), 1, "{page}");
    assert_eq!([&claims[0]["event_id"], &claims[0]["attempt_count"]], [&json!(bad), &json!(ATTEMPTS)], "{page}");

    let release = |handler: &str, id: &str| format!("/admin/v1/claims/{handler}/{id}/release");
    client.post(&release(CONSUMER, &bad), &json!({})).await.unwrap().problem(401).unwrap();
    let answer = operator.post(&release(CONSUMER, &bad), &json!({})).await.unwrap().expect(200).unwrap();
    assert_eq!((&answer["released"], &answer["event_id"]), (&json!(true), &json!(bad)));
    // The letter stays: a claim is bookkeeping, and what is parked is parked by the log.
    assert_eq!(letters(&operator, "parked").await.len(), 1);
    assert!(server.log().unwrap().outcome(&bad).is_empty());

    for (handler, id) in [("nobody", bad.as_str()), (CONSUMER, &carryall_tests::fresh_id().to_string())] {
        let missing = operator.post(&release(handler, id), &json!({})).await.unwrap();
        missing.problem(404).unwrap().code("claim_not_found").unwrap();
    }
    let done = operator.post(&release(CONSUMER, &good), &json!({})).await.unwrap();
    assert!((400..500).contains(&done.status), "what is done is not done again: {}", done.text());
    operator.post(&release(CONSUMER, "no-uuid"), &json!({})).await.unwrap().problem(400).unwrap();
}
