//! A host on Kafka: what it publishes, what it makes of messages by others, and its restarts.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use carryall_tests::{Client, Kafka, Options, Server, Shop};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

fn options(kafka: &Kafka) -> Options {
    kafka.environment().into_iter().fold(Options::default(), |options, (name, value)| options.with(name, value))
}

async fn letters(operator: &Client) -> Vec<Value> {
    let page = operator.get("/admin/v1/dead-letters").await.unwrap().expect(200).unwrap();
    page["dead_letters"].as_array().unwrap().clone()
}

/// Waits for dead letters; gives them by their coordinates.
async fn noted(operator: &Client, count: usize) -> Vec<Value> {
    let begin = Instant::now();
    loop {
        let mut letters = letters(operator).await;
        if letters.len() >= count {
            letters.sort_by_key(|letter| letter["coordinates"].to_string());
            return letters;
        }
        assert!(begin.elapsed() < SOON, "{letters:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_published_byte_for_byte_in_order_and_a_restart_goes_on() {
    let kafka = Kafka::create();
    let mut server = Server::start(options(&kafka)).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    for n in 0..10 {
        shop.put("Product", json!({"product_id": format!("p{n}"), "name": "Pen"})).await.unwrap();
    }
    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    server.start_again().await.unwrap();
    shop_at(&server).put("Product", json!({"product_id": "last", "name": "Pen"})).await.unwrap();
    let commands = kafka.read("instance_commands", 11).await.unwrap();
    let events = kafka.read("instance_events", 11).await.unwrap();
    assert!(server.terminate().await.unwrap().success());
    // A stop finishes the batch in hand, so that the next run sends nothing twice.
    let sent = [kafka.read_all("instance_commands").await.unwrap(), kafka.read_all("instance_events").await.unwrap()];
    assert_eq!(sent.map(|messages| messages.len()), [11, 11]);
    let log = server.log().unwrap();
    let store: Value =
        serde_json::from_slice(&std::fs::read(server.data().join("store/meta/store.json")).unwrap()).unwrap();
    for (messages, kind) in [(commands, "command"), (events, "domain")] {
        let stored: Vec<_> = log
            .events
            .iter()
            .filter(|event| {
                event.envelope["aggregate_type"] == "Instance" && event.envelope["metadata"]["kind"] == kind
            })
            .collect();
        assert_eq!(messages.len(), stored.len());
        for (message, event) in messages.iter().zip(stored) {
            assert_eq!(message.value, event.line.as_bytes());
            assert_eq!(message.key, event.aggregate().1);
            let header = |name: &str| message.headers.iter().find(|(key, _)| key == name).unwrap().1.clone();
            assert_eq!(json!(header("carryall-store")), store["store"]);
            assert_eq!(header("carryall-partition"), event.partition.to_string());
            assert_eq!(header("carryall-position"), event.position.to_string());
        }
    }
    let checkpoint = server.data().join("store/checkpoints/event_publisher.json");
    let checkpoint: Value = serde_json::from_slice(&std::fs::read(checkpoint).unwrap()).unwrap();
    assert_eq!(checkpoint["partitions"]["0"]["position"], log.events.len());
}

fn shop_at(server: &Server) -> Shop {
    Shop { client: server.client() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_by_others_are_held_against_the_log() {
    let kafka = Kafka::create();
    let mut server = Server::start(options(&kafka)).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let created = shop.put("Product", json!({"product_id": "p1", "name": "Pen"})).await.unwrap();
    let change = json!({"data": {"name": "Good pen"}});
    let update = "/api/v1/instances/shop/async/Product/p1/update?expected_seq=2";
    shop.client.completed(shop.client.put(update, &change).await.unwrap()).await.unwrap();
    let before = server.log().unwrap();
    // Repeated and out of order, from the last to the first, byte for byte and written down anew.
    for event in before.events.iter().rev().filter(|event| event.envelope["aggregate_type"] == "Instance") {
        let topic = event.envelope["metadata"]["kafka_topic"].as_str().unwrap();
        kafka.send(topic, &event.aggregate().1, event.line.as_bytes()).await.unwrap();
        let pretty = serde_json::to_vec_pretty(&event.envelope).unwrap();
        kafka.send(topic, &event.aggregate().1, &pretty).await.unwrap();
    }
    // Rubbish, an event of nowhere, and one of ours with another content.
    kafka.send("instance_commands", "p1", b"{ \xff no envelope").await.unwrap();
    let command = before.command(created["command_id"].as_str().unwrap()).unwrap();
    let mut stranger = command.envelope.clone();
    stranger["event_id"] = json!("6f1b1f0e-93a5-4a5e-8b0c-0a4f6c1d2e3f");
    kafka.send("instance_commands", "p1", stranger.to_string().as_bytes()).await.unwrap();
    let mut forged = before.outcome(created["command_id"].as_str().unwrap())[0].envelope.clone();
    forged["data"]["data"]["name"] = json!("Stolen pen");
    kafka.send("instance_events", "p1", forged.to_string().as_bytes()).await.unwrap();

    let operator = server.operator();
    let letters = noted(&operator, 3).await;
    let told: Vec<_> = letters.iter().map(|letter| (letter["handler"].as_str().unwrap(), &letter["reason"])).collect();
    assert_eq!(
        told,
        [
            ("instance_worker", &json!("not-an-envelope")),
            ("instance_worker", &json!("not-in-log")),
            ("projection_worker:instance_events", &json!("not-in-log")),
        ]
    );
    for letter in &letters {
        assert!(letter["coordinates"].as_str().unwrap().contains(&kafka.topic("instance_")), "{letter}");
    }
    // What projections set aside has a topic of its own.
    let dlq = kafka.read("projection_failures_dlq", 1).await.unwrap();
    let failure: Value = serde_json::from_slice(&dlq[0].value).unwrap();
    assert_eq!((&failure["event_type"], &failure["data"]["reason"]), (&json!("EVENT_PARKED"), &json!("not-in-log")));

    let again = "/api/v1/instances/shop/async/Product/p1/update?expected_seq=4";
    let last =
        shop.client.completed(shop.client.put(again, &json!({"data": {"price": 2}})).await.unwrap()).await.unwrap();
    let read = shop.read("Product", "p1", &last).await.unwrap();
    assert_eq!(read["data"], json!({"product_id": "p1", "name": "Good pen", "price": 2}));
    // A new start gets nothing of it again: it is acknowledged.
    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    server.start_again().await.unwrap();
    shop_at(&server).put("Product", json!({"product_id": "p2", "name": "Pen"})).await.unwrap();
    assert_eq!(noted(&server.operator(), 3).await.len(), 3);
    assert!(server.terminate().await.unwrap().success());
    let after = server.log().unwrap();
    let instance = |event: &&carryall_tests::Event| event.envelope["aggregate_id"] == "shop:Product:p1";
    assert_eq!(after.events.iter().filter(instance).count(), 6, "each command one outcome");
    assert!(after.undecided().is_empty());
}
