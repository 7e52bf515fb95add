//! Hosts whose event log is a bucket on a real S3 server: the main commands, a lost machine, a network that cuts
//! answers, and two hosts on one bucket.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carryall_tests::{Bucket, Client, Options, Postgres, Proxy, Server, Shop, fresh_id, until};
use serde_json::{Value, json};
use tokio::sync::Mutex;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_on_a_bucket_serves_is_verified_and_comes_back_on_another_machine() {
    let bucket = Bucket::new();
    let mut server = Server::start(bucket.options()).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let seen = shop.put("Product", json!({"product_id": "p1", "name": "Pen"})).await.unwrap();
    let before = shop.read("Product", "p1", &seen).await.unwrap();
    let metrics = server.client().get("/metrics").await.unwrap().text();
    assert!(metrics.contains("carryall_object_requests{kind=\"put\"}"), "{metrics}");
    assert!(!server.data().join("store").exists(), "nothing of the log lies on the disk");

    server.kill().unwrap();
    server.start_again().await.unwrap();
    assert_eq!(shop.read("Product", "p1", &seen).await.unwrap(), before);
    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    assert!(!server.host_log().contains(bucket.secret()));
    let log = bucket.log().await.unwrap();
    assert!(log.undecided().is_empty());

    let said = server.run(&["config", "--json"]).unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("s3://") && !said.contains(bucket.secret()), "{said}");
    let checked = server.run(&["verify", "--json"]).unwrap();
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert!(checked.status.success() && report["findings"].as_array().unwrap().is_empty(), "{report}");
    assert_eq!(report["events"], log.events.len());
    let rebuilt = server.run(&["rebuild", "--json"]).unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));

    let mut other = Server::start(bucket.options()).await.unwrap();
    let elsewhere = Shop { client: other.client() };
    assert_eq!(elsewhere.read("Product", "p1", &seen).await.unwrap(), before, "the bucket is all that is needed");
    assert!(other.terminate().await.unwrap().success(), "{}", other.host_log());
    bucket.remove().await.unwrap();
}

/// Commands that a client was told are in the log.
type Accepted = Arc<Mutex<Vec<String>>>;

/// Creates products and updates each, with ids of its own; asks again, as a client must, whenever the answer leaves
/// open what happened.
async fn load(client: Client, stop: Arc<AtomicBool>, accepted: Accepted) {
    while !stop.load(Ordering::SeqCst) {
        let id = fresh_id().simple().to_string();
        let create = json!({"data": {"product_id": id, "name": "n"}});
        let path = "/api/v1/instances/shop/async/Product/create";
        let sequence = accept(&client, "POST", path, &create, &accepted).await;
        let path = format!("/api/v1/instances/shop/async/Product/{id}/update?expected_seq={sequence}");
        accept(&client, "PUT", &path, &json!({"data": {"name": "m"}}), &accepted).await;
    }
}

async fn accept(client: &Client, method: &str, path: &str, body: &Value, accepted: &Accepted) -> u64 {
    let id = fresh_id().to_string();
    let client = client.with("idempotency-key", &id);
    loop {
        let answer = client.send(method, path, Some(body.to_string().into())).await.unwrap();
        match answer.status {
            202 => {
                accepted.lock().await.push(id);
                return answer.json().unwrap()["result"]["sequence_number"].as_u64().unwrap();
            }
            503 => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{method} {path} answers {other}: {}", answer.text()),
        }
    }
}

/// Every accepted command is in the log once, and has one outcome. The chain is checked by reading it.
async fn audit(bucket: &Bucket, client: &Client, accepted: &Accepted) {
    let accepted = accepted.lock().await.clone();
    for id in &accepted {
        let status = client.outcome(id).await.unwrap();
        assert_eq!(status["status"], "COMPLETED", "{status}");
    }
    let log = bucket.log().await.unwrap();
    for id in &accepted {
        assert!(log.command(id).is_some(), "{id} was accepted and is not in the log");
        assert_eq!(log.outcome(id).len(), 1, "{id} has not exactly one outcome");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_cut_after_the_server_applied_them_lose_and_repeat_nothing() {
    const SEED: u64 = 0x0ddc_0ffe_e0dd_f00d;
    let bucket = Bucket::new();
    let proxy = Proxy::start(bucket.address(), SEED).await.unwrap();
    let mut server = Server::start(bucket.options_through(&proxy.url())).await.unwrap();
    Shop::create(server.client()).await.unwrap();
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Accepted::default());
    proxy.misbehave(250);
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(load(server.client(), stop.clone(), accepted.clone()))).collect();
    tokio::time::sleep(Duration::from_secs(6)).await;
    server.kill().unwrap();
    for client in &clients {
        client.abort();
    }
    // The probe at the start wants clear answers.
    proxy.misbehave(0);
    server.start_again().await.unwrap();
    proxy.misbehave(250);
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(load(server.client(), stop.clone(), accepted.clone()))).collect();
    tokio::time::sleep(Duration::from_secs(4)).await;
    until("enough happens", || async { proxy.faults() > 20 && accepted.lock().await.len() > 50 }).await.unwrap();
    stop.store(true, Ordering::SeqCst);
    proxy.misbehave(0);
    for client in clients {
        client.await.unwrap();
    }
    audit(&bucket, &server.client(), &accepted).await;
    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    let checked = server.run(&["verify", "--json"]).unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    bucket.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_for_a_while_is_said_to_be_and_everything_goes_on_by_itself() {
    let bucket = Bucket::new();
    let proxy = Proxy::start(bucket.address(), 1).await.unwrap();
    let mut server = Server::start(bucket.options_through(&proxy.url())).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    proxy.away(true);
    let create = |id: &str| json!({"data": {"product_id": id, "name": "Pen"}});
    let (path, id) = ("/api/v1/instances/shop/async/Product/create", fresh_id().to_string());
    let sender = server.client().with("idempotency-key", &id);
    let problem = sender.post(path, &create("p1")).await.unwrap().problem(503).unwrap();
    assert!(problem.retryable, "{}", problem.body);
    assert_eq!(problem.code, "outcome_unknown", "{}", problem.body);
    assert_eq!(server.client().get("/health").await.unwrap().status, 200, "the process is well");
    proxy.away(false);
    // The write that was left open comes to its end without anybody asking; a retry is told what became of it.
    let (client, path_of_status) = (server.client(), format!("/api/v1/commands/{id}/status"));
    until("it is known", || async { client.get(&path_of_status).await.unwrap().status == 200 }).await.unwrap();
    let status = server.client().outcome(&id).await.unwrap();
    assert_eq!(status["status"], "COMPLETED", "{status}");
    let again = sender.post(path, &create("p1")).await.unwrap();
    assert_eq!(again.header("idempotency-replayed"), Some("true"), "{}", again.text());
    shop.put("Product", create("p2")["data"].clone()).await.unwrap();
    let log = bucket.log().await.unwrap();
    assert_eq!(log.outcome(&id).len(), 1);
    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    bucket.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_one_bucket_commit_one_history_and_see_each_other() {
    let bucket = Bucket::new();
    serve_together(&bucket, bucket.options()).await;
    bucket.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_one_bucket_and_one_database_commit_one_history_and_see_each_other() {
    let (bucket, postgres) = (Bucket::new(), Postgres::create().await);
    serve_together(&bucket, bucket.options().with("POSTGRES_URL", &postgres.url())).await;
    bucket.remove().await.unwrap();
}

/// Two whole hosts, each with its own data folder, written to at once.
async fn serve_together(bucket: &Bucket, options: Options) {
    let mut one = Server::start(options.clone()).await.unwrap();
    Shop::create(one.client()).await.unwrap();
    let mut two = Server::start(options).await.unwrap();
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Accepted::default());
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let client = if n % 2 == 0 { one.client() } else { two.client() };
            tokio::spawn(load(client, stop.clone(), accepted.clone()))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(4)).await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    for server in [&one, &two] {
        audit(bucket, &server.client(), &accepted).await;
    }
    // What one accepted, the other tells, without a write of its own that would have shown it the way.
    let shop = Shop { client: one.client() };
    let seen = shop.put("Product", json!({"product_id": "last", "name": "Pen"})).await.unwrap();
    let mine = shop.read("Product", "last", &seen).await.unwrap();
    let theirs = Shop { client: two.client() }.read("Product", "last", &seen).await.unwrap();
    assert_eq!(mine, theirs);
    for server in [&mut one, &mut two] {
        assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    }
    for server in [&one, &two] {
        let checked = server.run(&["verify", "--json"]).unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
}
