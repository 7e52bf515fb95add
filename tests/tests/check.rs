//! `carryall check` on a store that a host left behind: what it looks at, what it says, and how it ends.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use carryall_tests::{Options, Server, Shop, component, consumers_at_the_end};
use serde_json::{Value, json};

/// Runs the check; gives the report and whether it ended well.
fn check(server: &Server, more: &[&str]) -> (Value, bool) {
    let output = server.run(&[&["check", "--json"], more].concat()).unwrap();
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.success())
}

fn of<'a>(report: &'a Value, invariant: &str) -> &'a Value {
    report["invariants"].as_array().unwrap().iter().find(|checked| checked["invariant"] == invariant).unwrap()
}

fn count(report: &Value, invariant: &str, what: &str) -> u64 {
    of(report, invariant)[what].as_u64().unwrap()
}

/// A shop with references, a batch, a refusal, a deletion, and an uploaded handler: a little of everything.
async fn busy() -> Server {
    let server = Server::start(Options::default()).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let client = &shop.client;
    shop.put("Customer", json!({"customer_id": "c1", "name": "Ada"})).await.unwrap();
    shop.put("Product", json!({"product_id": "p1", "name": "Pen", "owned_by": "Customer/c1"})).await.unwrap();
    let rows: Vec<Value> = (2..6).map(|n| json!({"product_id": format!("p{n}"), "name": "n"})).collect();
    let path = "/api/v1/instances/shop/async/Product/bulk-create";
    client.completed(client.post(path, &json!({"instances": rows})).await.unwrap()).await.unwrap();
    let refused = json!({"data": {"product_id": "p9", "name": "n", "price": -1}});
    let refused = client.post("/api/v1/instances/shop/async/Product/create", &refused).await.unwrap();
    assert_eq!(client.follow(refused).await.unwrap()["status"], "FAILED");
    let operator = server.operator();
    let upload = operator.with("content-type", "application/wasm");
    for name in ["account", "account-projection"] {
        let sent = upload.send("POST", "/admin/v1/handlers", Some(component(name).unwrap().into())).await.unwrap();
        let digest = sent.expect(201).unwrap()["digest"].as_str().unwrap().to_owned();
        let path = format!("/admin/v1/handlers/{name}/versions/{digest}/activate");
        operator.post(&path, &json!({"force": true})).await.unwrap().expect(200).unwrap();
    }
    let seen = shop.put("Product", json!({"product_id": "p10", "name": "last"})).await.unwrap();
    shop.read("Product", "p10", &seen).await.unwrap();
    consumers_at_the_end(&operator, "account-projection:Account").await.unwrap();
    server
}

#[tokio::test]
async fn a_store_that_a_host_left_behind_holds() {
    let mut server = busy().await;
    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    let before = files(&server.data().join("store"));
    let (report, well) = check(&server, &[]);
    assert!(well, "{report:#}");
    let log = server.log().unwrap();
    let commands = log.events.iter().filter(|event| event.is_command()).count() as u64;
    assert_eq!(report["events"], log.events.len());
    assert_eq!(count(&report, "order", "checked"), log.events.len() as u64);
    assert_eq!(count(&report, "determinism", "checked"), commands, "every command was decided again: {report:#}");
    assert!(count(&report, "projection", "checked") >= 10, "{report:#}");
    assert!(count(&report, "composition", "checked") >= 10, "{report:#}");
    assert!(count(&report, "idempotency", "checked") > 0, "{report:#}");
    assert_eq!(files(&server.data().join("store")), before, "a check changes nothing");

    let (sampled, well) = check(&server, &["--sample", "3"]);
    let judged = count(&sampled, "determinism", "checked");
    assert!(well && (1..=3).contains(&judged), "{sampled:#}");
    let text = server.run(&["check"]).unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("everything holds"));
}

#[tokio::test]
async fn a_read_model_of_an_older_time_is_not_taken_for_a_wrong_one() {
    let mut server = busy().await;
    assert!(server.terminate().await.unwrap().success());
    for suffix in ["", "-wal", "-shm"] {
        let path = server.data().join(format!("carryall.db{suffix}"));
        if path.exists() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let (report, well) = check(&server, &[]);
    assert!(well, "{report:#}");
    assert!(of(&report, "projection")["note"].as_str().unwrap().contains("no read model"), "{report:#}");
    assert!(count(&report, "determinism", "checked") > 0);
}

#[tokio::test]
async fn a_history_with_a_changed_byte_ends_badly_and_is_named() {
    let mut server = busy().await;
    assert!(server.terminate().await.unwrap().success());
    let key = "events/0000/000000000000/0000000000000004.ndjson";
    let path = server.data().join("store").join(key);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("Z\"", "z\"", 1)).unwrap();
    let (report, well) = check(&server, &[]);
    assert!(!well);
    assert_eq!(of(&report, "log")["first"]["key"], key, "{report:#}");
    assert!(of(&report, "determinism")["note"].as_str().unwrap().contains("not whole"), "{report:#}");
}

#[tokio::test]
async fn a_component_that_was_deleted_is_named() {
    let mut server = busy().await;
    assert!(server.terminate().await.unwrap().success());
    let components = server.data().join("store/components/sha256");
    let instance = component("instance").unwrap();
    let found = files(&components).into_iter().find(|path| std::fs::read(path).unwrap() == instance).unwrap();
    std::fs::remove_file(&found).unwrap();
    let (report, well) = check(&server, &[]);
    assert!(!well, "{report:#}");
    assert_eq!(of(&report, "determinism")["first"]["code"], "handler_missing", "{report:#}");
}

/// All files below a folder, in order.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
