//! Roles split over processes that share a log, a PostgreSQL and a Kafka: all of it works as in one process, and what a
//! killed process had in hand is taken over.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use carryall_tests::{Client, Kafka, Server, Shop, Site, all_completed, component, end, until};
use serde_json::{Value, json};

/// From the kill until everything is decided that was sent up to three seconds after it. How soon a killed member's
/// partitions are another's, `cargo xtask chaos` measures.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(60);

async fn ready(server: &Server) -> Vec<String> {
    let ready = server.client().get("/ready").await.unwrap().expect(200).unwrap();
    ready["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap().to_owned()).collect()
}

/// Creates products until told by time; gives the commands that were accepted.
async fn create_products(client: Client, prefix: String, until: Instant) -> Vec<String> {
    let mut accepted = Vec::new();
    for n in 0.. {
        if Instant::now() > until {
            break;
        }
        let body = json!({"data": {"product_id": format!("{prefix}n{n}"), "name": "n"}});
        let answer = client.post("/api/v1/instances/shop/async/Product/create", &body).await.unwrap();
        if answer.status == 202 {
            accepted.push(answer.json().unwrap()["command_id"].as_str().unwrap().to_owned());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_roles_in_five_processes_are_one_host() {
    let site = Site::new(3).await;
    let mut api = site.start("api").await;
    let mut others = Vec::new();
    for role in ["relay", "instance-worker", "ontology-worker", "projection-worker"] {
        others.push(site.start(role).await);
    }
    let shop = Shop::create(api.client()).await.unwrap();
    for n in 0..12 {
        let id = format!("p{n}");
        let seen = shop.put("Product", json!({"product_id": id, "name": "Pen", "price": n})).await.unwrap();
        let read = shop.read("Product", &id, &seen).await.unwrap();
        assert_eq!(read["data"]["price"], n, "what is completed is read with its token");
    }
    let waited = shop.client.with("prefer", "wait=60");
    let body = json!({"data": {"customer_id": "c1", "name": "Alice"}});
    let done = waited.post("/api/v1/instances/shop/async/Customer/create", &body).await.unwrap();
    assert_eq!(done.expect(200).unwrap()["status"], "COMPLETED");

    // A handler that is activated at one process serves in the others.
    let operator = api.operator();
    let upload = operator.with("content-type", "application/wasm");
    let bytes = component("account").unwrap().into();
    let uploaded = upload.send("POST", "/admin/v1/handlers", Some(bytes)).await.unwrap().expect(201).unwrap();
    let path = format!("/admin/v1/handlers/account/versions/{}/activate", uploaded["digest"].as_str().unwrap());
    operator.post(&path, &json!({"force": true})).await.unwrap().expect(200).unwrap();
    let client = api.client();
    let open = client.command("OPEN_ACCOUNT", ("Account", "a-1"), Some(0), json!({"owner": "alice"})).await.unwrap();
    client.completed(open).await.unwrap();

    // What runs elsewhere is known by its stored checkpoints.
    for name in ["instance_worker", "ontology_worker", "projection_worker:instance_events"] {
        let is_shown = || async {
            let page = operator.get("/admin/v1/consumers").await.unwrap().expect(200).unwrap();
            let row = page["consumers"].as_array().unwrap().iter().find(|row| row["name"] == name);
            row.is_some_and(|row| row["state"] == "elsewhere")
        };
        until(name, is_shown).await.unwrap();
    }
    assert!(ready(&api).await.iter().all(|name| !name.starts_with("messages")), "only its own roles");
    assert!(kafka_has(&site.kafka, "instance_commands", 13).await);
    assert!(kafka_has(&site.kafka, "account_events", 1).await);
    end(others.iter_mut().chain([&mut api])).await;
    assert!(site.log().undecided().is_empty());
}

async fn kafka_has(kafka: &Kafka, topic: &str, count: usize) -> bool {
    kafka.read(topic, count).await.unwrap().len() >= count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_partitions_and_claims_are_taken_over() {
    let site = Site::new(4).await;
    let mut api = site.start("api,relay,ontology-worker,projection-worker").await;
    let mut workers = [site.start("instance-worker").await, site.start("instance-worker").await];
    Shop::create(api.client()).await.unwrap();
    let until = Instant::now() + Duration::from_secs(6);
    let clients: Vec<_> = (0..6).map(|n| tokio::spawn(create_products(api.client(), format!("c{n}"), until))).collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    workers[0].kill().unwrap();
    let killed = Instant::now();
    let mut accepted = Vec::new();
    for client in clients {
        accepted.extend(client.await.unwrap());
    }
    all_completed(&api.client(), &accepted).await.unwrap();
    assert!(killed.elapsed() < TAKEN_OVER_WITHIN, "{:?} after the kill", killed.elapsed());
    workers[0].start_again().await.unwrap();
    end(workers.iter_mut().chain([&mut api])).await;
    let log = site.log();
    assert!(log.undecided().is_empty());
    for id in &accepted {
        let outcome: Vec<&str> = log.outcome(id).iter().map(|event| event.event_type()).collect();
        assert_eq!(outcome, ["INSTANCE_CREATED"], "each command one outcome");
    }
    let used: std::collections::BTreeSet<u64> = log.events.iter().map(|event| event.partition).collect();
    assert_eq!(used.len(), 4, "the load lay on every partition");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_do_everything_share_the_work() {
    let site = Site::new(2).await;
    let mut hosts = [site.start("all").await, site.start("all").await];
    Shop::create(hosts[0].client()).await.unwrap();
    let mut seen = Value::Null;
    for n in 0..10 {
        let shop = Shop { client: hosts[n % 2].client() };
        seen = shop.put("Product", json!({"product_id": format!("p{n}"), "name": "Pen"})).await.unwrap();
        let other = Shop { client: hosts[(n + 1) % 2].client() };
        other.read("Product", &format!("p{n}"), &seen).await.unwrap();
    }
    assert_eq!(seen["status"], "COMPLETED");
    end(&mut hosts[..1]).await;
    let shop = Shop { client: hosts[1].client() };
    shop.put("Product", json!({"product_id": "alone", "name": "Pen"})).await.unwrap();
    end(&mut hosts[1..]).await;
    assert!(site.log().undecided().is_empty());
}
