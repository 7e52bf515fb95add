//! Servers that go away and come back while commands are sent: what can be done without them goes on, the rest is
//! refused with a word, and everything goes on by itself.

use std::time::{Duration, Instant};

use carryall_tests::{Client, Server, Shop, ready, until, until_logged};
use serde_json::json;

use super::site::{Site, begin_load, until_busy};
use super::{length, note};

fn clients(host: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| host.client()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_kafka_commands_are_accepted_decided_and_projected() {
    let site = Site::new().await;
    let mut hosts = site.split().await;
    let load = begin_load(clients(&hosts[0], 4)).await;
    note("Kafka is killed");
    site.servers.kill("kafka").unwrap();
    let shop = Shop { client: hosts[0].client() };
    let begin = Instant::now();
    for n in 0.. {
        let id = format!("without{n}");
        let seen = shop.put("Product", json!({"product_id": id, "name": "Pen"})).await.unwrap();
        shop.read("Product", &id, &seen).await.unwrap();
        if begin.elapsed() > length() {
            break;
        }
    }
    ready(&hosts[0].client(), 200).await.unwrap();
    // Who has nothing to do but to publish says that it cannot.
    ready(&hosts[1].client(), 503).await.unwrap();
    // One that is started meanwhile works when Kafka is back; one that is stopped ends well.
    let late = Server::begin(None, site.options("instance-worker")).unwrap();
    assert!(hosts[3].terminate().await.unwrap().success(), "{}", hosts[3].host_log());
    hosts[3].begin_again().unwrap();
    note("Kafka is back");
    site.servers.start("kafka").await.unwrap();
    hosts.push(late);
    site.converge(hosts, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_postgres_nothing_is_promised_and_nothing_is_lost() {
    let site = Site::new().await;
    let mut hosts = site.pair().await;
    let load = begin_load(clients(&hosts[0], 3).into_iter().chain(clients(&hosts[1], 3))).await;
    note("PostgreSQL is killed");
    site.servers.kill("postgres").unwrap();
    for host in &hosts {
        ready(&host.client(), 503).await.unwrap();
    }
    let read = hosts[0].client().get("/api/v1/instances/shop/Product/p1").await.unwrap();
    assert!(read.problem(503).unwrap().retryable);
    tokio::time::sleep(length()).await;
    assert!(hosts[1].terminate().await.unwrap().success(), "{}", hosts[1].host_log());
    hosts[1].begin_again().unwrap();
    until_logged(&hosts[1], "a part is away").await.unwrap();
    note("PostgreSQL is back");
    site.servers.start("postgres").await.unwrap();
    site.converge(hosts, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_the_bucket_processes_wait_also_at_their_start_and_stop_when_told() {
    let site = Site::new().await;
    let mut hosts = site.split().await;
    let load = begin_load(clients(&hosts[0], 4)).await;
    note("MinIO is killed");
    site.servers.kill("minio").unwrap();
    let id = carryall_tests::fresh_id().to_string();
    let sender = hosts[0].client().with("idempotency-key", &id);
    let body = json!({"data": {"product_id": "away", "name": "Pen"}});
    let create = "/api/v1/instances/shop/async/Product/create";
    assert!(sender.post(create, &body).await.unwrap().problem(503).unwrap().retryable);
    // The relay has a checkpoint to store, and cannot.
    let stopped = hosts[1].terminate().await.unwrap();
    assert!(stopped.success(), "a stop without the store fails:\n{}", hosts[1].host_log());
    hosts[1].begin_again().unwrap();
    until_logged(&hosts[1], "a part is away").await.unwrap();
    tokio::time::sleep(length()).await;
    assert!(hosts[1].ended().unwrap().is_none(), "it does not wait:\n{}", hosts[1].host_log());
    note("MinIO is back");
    site.servers.start("minio").await.unwrap();
    site.converge(hosts, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_bucket_slows_down_and_breaks_nothing() {
    let site = Site::new().await;
    let hosts = site.split().await;
    let load = begin_load(clients(&hosts[0], 8)).await;
    // The second is longer than an attempt may take.
    for delay in [Duration::from_millis(700), Duration::from_secs(6)] {
        note(&format!("MinIO answers {delay:?} later"));
        site.proxy.delay(delay);
        tokio::time::sleep(length()).await;
    }
    note("MinIO is as fast as before");
    site.proxy.delay(Duration::ZERO);
    until_busy(&load).await;
    site.converge(hosts, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_of_the_bucket_that_are_cut_after_it_wrote_change_nothing() {
    let site = Site::new().await;
    let mut hosts = site.pair().await;
    let load = begin_load(clients(&hosts[0], 4).into_iter().chain(clients(&hosts[1], 4))).await;
    for _ in 0..2 {
        note("a quarter of all requests to MinIO fails");
        let before = site.proxy.faults();
        site.proxy.misbehave(250);
        tokio::time::sleep(length() / 2).await;
        note("a host is killed");
        hosts[1].kill().unwrap();
        hosts[1].begin_again().unwrap();
        tokio::time::sleep(length() / 2).await;
        until("enough requests failed", || async { site.proxy.faults() > before + 20 }).await.unwrap();
        // The probe of a start wants clear answers.
        site.proxy.misbehave(0);
        hosts[1].wait_ready().await.unwrap();
    }
    site.converge(hosts, load).await;
}
