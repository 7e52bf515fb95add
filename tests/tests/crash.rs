//! SIGKILL under load, restart, audit: nothing accepted is lost, nothing is applied twice, numbers are dense, and a
//! rebuilt host answers the same bytes.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use carryall_tests::{Client, Options, Server, Shop, fresh_id, read_model_is_the_fold, until};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Commands that were answered 202.
type Accepted = Arc<Mutex<Vec<String>>>;

const CLIENTS: usize = 8;
const KILLS: usize = 3;
const ROUND: Duration = Duration::from_millis(1500);

/// Creates products and updates each once, until the host goes away.
async fn load(client: Client, accepted: Accepted) {
    loop {
        let id = fresh_id().simple().to_string();
        let create = json!({"data": {"product_id": id, "name": "n"}});
        let Ok(answer) = client.post("/api/v1/instances/shop/async/Product/create", &create).await else { return };
        let Some(sequence) = note(&answer, &accepted).await else { continue };
        let path = format!("/api/v1/instances/shop/async/Product/{id}/update?expected_seq={sequence}");
        let Ok(answer) = client.put(&path, &json!({"data": {"name": "m"}})).await else { return };
        note(&answer, &accepted).await;
    }
}

async fn note(answer: &carryall_tests::Answer, accepted: &Accepted) -> Option<u64> {
    if answer.status != 202 {
        return None;
    }
    let body = answer.json().ok()?;
    accepted.lock().await.push(body["command_id"].as_str()?.to_owned());
    body["result"]["sequence_number"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_under_load_loses_nothing_and_repeats_nothing() {
    let mut server = Server::start(Options::default()).await.unwrap();
    Shop::create(server.client()).await.unwrap();
    let accepted = Accepted::default();
    for _ in 0..KILLS {
        let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(load(server.client(), accepted.clone()))).collect();
        let before = accepted.lock().await.len();
        tokio::time::sleep(ROUND).await;
        let enough = before + 2 * CLIENTS;
        until("clients get on", || async { accepted.lock().await.len() >= enough }).await.unwrap();
        server.kill().unwrap();
        for client in clients {
            client.await.unwrap();
        }
        server.log().unwrap();
        server.start_again().await.unwrap();
    }
    assert!(!server.host_log().contains("emptied"), "a whole index was taken for a lost one: {}", server.host_log());
    let accepted = accepted.lock().await.clone();
    assert!(accepted.len() > KILLS * CLIENTS, "too little was accepted to prove anything: {}", accepted.len());
    let client = server.client();
    for id in &accepted {
        let status = client.outcome(id).await.unwrap();
        assert_eq!(status["status"], "COMPLETED", "{status}");
    }
    let log = server.log().unwrap();
    for id in &accepted {
        assert!(log.command(id).is_some(), "{id} was accepted and is not in the log");
        assert_eq!(log.outcome(id).len(), 1, "{id} has not exactly one outcome");
    }
    let undecided = log.undecided();
    for command in &undecided {
        client.outcome(command.id()).await.unwrap();
    }
    read_model_is_the_fold(&client, &server.log().unwrap()).await.unwrap();

    let last = accepted.last().unwrap();
    let token = client.outcome(last).await.unwrap()["consistency_token"].as_str().unwrap().to_owned();
    let reader = client.with("consistency-token", &token).with("prefer", "wait=60");
    let before = reader.pages("/api/v1/instances/shop/Product", "instances").await.unwrap();
    let created = server.log().unwrap().events.iter().filter(|event| event.event_type() == "INSTANCE_CREATED").count();
    assert_eq!(before.len(), created, "the read model is not the log's fold");

    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    let checked = server.run(&["verify", "--json"]).unwrap();
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert!(checked.status.success() && report["findings"].as_array().unwrap().is_empty(), "{report}");
    assert_eq!(report["index_behind"], 0, "a drain leaves the index behind: {report}");
    let rebuilt = server.run(&["rebuild", "--json"]).unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    server.start_again().await.unwrap();
    let after = reader.pages("/api/v1/instances/shop/Product", "instances").await.unwrap();
    assert_eq!(before, after, "a rebuilt read model differs");
}

#[tokio::test]
async fn a_lost_database_is_made_again_before_the_host_is_ready() {
    let mut server = Server::start(Options::default()).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let created = shop.put("Product", json!({"product_id": "p1", "name": "Pen"})).await.unwrap();
    let before = shop.read("Product", "p1", &created).await.unwrap();
    let status = shop.client.outcome(created["command_id"].as_str().unwrap()).await.unwrap();
    server.kill().unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let path = server.data().join(format!("carryall.db{suffix}"));
        if path.exists() {
            std::fs::remove_file(path).unwrap();
        }
    }
    server.start_again().await.unwrap();
    assert_eq!(shop.read("Product", "p1", &created).await.unwrap(), before);
    assert_eq!(shop.client.outcome(created["command_id"].as_str().unwrap()).await.unwrap(), status);
    assert!(server.terminate().await.unwrap().success());
}

#[tokio::test]
async fn a_changed_byte_is_found_with_its_key() {
    let mut server = Server::start(Options::default()).await.unwrap();
    Shop::create(server.client()).await.unwrap();
    assert!(server.terminate().await.unwrap().success());
    let key = "events/0000/000000000000/0000000000000003.ndjson";
    let path = server.data().join("store").join(key);
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = text.replacen("Z\"", "z\"", 1);
    assert_ne!(text, changed);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, changed).unwrap();
    let output = server.run(&["verify", "--json"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["findings"].as_array().unwrap().iter().any(|finding| finding["key"] == key), "{report}");
}
