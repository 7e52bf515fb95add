//! A foreign producer that writes into the topics: copies of events, out of order and into wrong topics, forgeries and
//! rubbish.

use std::time::{Duration, Instant};

use carryall_tests::Random;
use serde_json::{Value, json};

use super::site::{SOON, Site, begin_load};
use super::{length, note, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_foreign_producer_sends_is_noted_and_changes_nothing() {
    let (site, seed) = (Site::new().await, seed());
    let (hosts, random) = (site.split().await, Random::new(seed));
    note(&format!("seed {seed}"));
    let load = begin_load((0..4).map(|_| hosts[0].client())).await;
    let (begin, mut strangers) = (Instant::now(), 0);
    while begin.elapsed() < length() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let events = site.bucket.log().await.unwrap().events;
        let instances: Vec<_> = events.iter().filter(|event| event.envelope["aggregate_type"] == "Instance").collect();
        note(&format!("a foreign producer sends copies of {} events, and worse", instances.len()));
        // Backwards, some twice, some where they do not belong.
        for event in instances.iter().rev().take(60) {
            let own = event.envelope["metadata"]["kafka_topic"].as_str().unwrap();
            let topic = if random.below(4) == 0 { "instance_events" } else { own };
            for _ in 0..=random.below(2) {
                site.kafka.send(topic, &event.aggregate().1, event.line.as_bytes()).await.unwrap();
            }
        }
        let one = instances[usize::try_from(random.below(instances.len() as u64)).unwrap()];
        let mut forged = one.envelope.clone();
        forged["data"] = json!({"forged": strangers});
        let mut stranger = one.envelope.clone();
        stranger["event_id"] = json!(carryall_tests::fresh_id());
        for value in [forged.to_string(), stranger.to_string(), format!("rubbish {strangers}")] {
            site.kafka.send("instance_commands", &one.aggregate().1, value.as_bytes()).await.unwrap();
            strangers += 1;
        }
    }
    let operator = hosts[0].operator();
    let begin = Instant::now();
    let letters = loop {
        let page = operator.get("/admin/v1/dead-letters?limit=1000").await.unwrap().expect(200).unwrap();
        let letters = page["dead_letters"].as_array().unwrap().clone();
        if letters.len() >= strangers || begin.elapsed() > SOON {
            break letters;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(letters.len(), strangers, "each is noted once");
    let reasons = |reason: &str| letters.iter().filter(|letter: &&Value| letter["reason"] == reason).count();
    assert_eq!((reasons("not-in-log"), reasons("not-an-envelope")), (strangers / 3 * 2, strangers / 3));
    site.converge(hosts, load).await;
}
