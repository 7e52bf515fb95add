//! What every bus must do. Each function takes a bus without groups, whose topics have two slots where it has slots.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::{Bus, Delivery, Message, Subscription};
use crate::domain::{Partition, Position};

const TOPIC: &str = "account_commands";
const OTHER: &str = "account_events";
/// Longer than any group takes to agree on who does what.
const PATIENCE: Duration = Duration::from_secs(60);

/// A message at a position. The last letter of its key decides its partition.
pub fn message(topic: &str, key: &str, position: u64) -> Message {
    Message {
        topic: topic.into(),
        key: key.into(),
        value: Bytes::from(serde_json::json!({ "key": key, "position": position }).to_string()),
        partition: Partition(u16::from(key.as_bytes().last().unwrap() % 2)),
        position: Position(position),
    }
}

/// Key and position of what was delivered.
fn told(delivery: &Delivery) -> (String, u64) {
    let value: serde_json::Value = serde_json::from_slice(&delivery.value).unwrap();
    let told = (value["key"].as_str().unwrap().to_owned(), value["position"].as_u64().unwrap());
    assert_eq!(delivery.place.unwrap().1, Position(told.1));
    assert_eq!(delivery.place.unwrap().0, message(TOPIC, &told.0, 0).partition);
    told
}

/// Runs all of it.
pub async fn all<B: Bus>(empty: impl AsyncFn() -> B) {
    every_group_gets_every_message_of_its_topics(&empty().await).await;
    a_key_keeps_its_order_and_its_member(&empty().await).await;
    the_unacknowledged_comes_again_to_another_member(&empty().await).await;
    an_abandoned_poll_loses_nothing(&empty().await).await;
}

async fn join(bus: &impl Bus, group: &str, topics: &[&str]) -> Box<dyn Subscription> {
    let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
    bus.subscribe(group, &topics).await.unwrap()
}

/// Lets the members of a group agree on their shares, before anything is published.
async fn settle(members: &mut [Box<dyn Subscription>]) {
    let settling = async {
        loop {
            let slots: usize = members.iter().map(|member| member.share().slots.len()).sum();
            let all = members.iter().map(|member| member.share().of).max().unwrap() as usize;
            if members.iter().all(|member| !member.share().slots.is_empty()) && (slots == all || all == 1) {
                return;
            }
            for member in &mut *members {
                let polled = tokio::time::timeout(Duration::from_millis(100), member.poll(1)).await;
                assert!(polled.is_err() || polled.unwrap().unwrap().is_empty());
            }
        }
    };
    tokio::time::timeout(PATIENCE, settling).await.unwrap();
}

/// Polls until there is something.
async fn some(member: &mut Box<dyn Subscription>, max: usize) -> Vec<Delivery> {
    loop {
        let deliveries = tokio::time::timeout(PATIENCE, member.poll(max)).await.unwrap().unwrap();
        assert!(deliveries.len() <= max);
        if !deliveries.is_empty() {
            return deliveries;
        }
    }
}

/// Polls and acknowledges until `count` messages came; gives the positions by key, in the order they came.
async fn receive(member: &mut Box<dyn Subscription>, count: usize) -> BTreeMap<String, Vec<u64>> {
    let mut got: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    while got.values().map(Vec::len).sum::<usize>() < count {
        for (key, position) in some(member, 3).await.iter().map(told) {
            got.entry(key).or_default().push(position);
        }
        member.acknowledge(1).await.unwrap();
    }
    got
}

fn by_key(of: &[(&str, &[u64])]) -> BTreeMap<String, Vec<u64>> {
    of.iter().map(|(key, positions)| ((*key).to_owned(), positions.to_vec())).collect()
}

async fn every_group_gets_every_message_of_its_topics(bus: &impl Bus) {
    let mut worker = join(bus, "worker", &[TOPIC]).await;
    let mut other = join(bus, "other", &[TOPIC, OTHER]).await;
    let sent = vec![message(TOPIC, "a", 0), message(OTHER, "c", 1), message(TOPIC, "b", 2), message(TOPIC, "a", 3)];
    bus.publish(sent.clone()).await.unwrap();
    assert_eq!(receive(&mut worker, 3).await, by_key(&[("a", &[0, 3]), ("b", &[2])]));
    assert_eq!(receive(&mut other, 4).await, by_key(&[("a", &[0, 3]), ("b", &[2]), ("c", &[1])]));
    bus.publish(vec![message("nobody_listens", "a", 4), sent[0].clone()]).await.unwrap();
    let again = some(&mut worker, 10).await.remove(0);
    assert_eq!((again.value, again.topic.as_str()), (sent[0].value.clone(), TOPIC));
    assert!(again.coordinates.contains(TOPIC));
}

async fn a_key_keeps_its_order_and_its_member(bus: &impl Bus) {
    let mut members = [join(bus, "worker", &[TOPIC]).await, join(bus, "worker", &[TOPIC]).await];
    settle(&mut members).await;
    let sent = (0..40).map(|n| message(TOPIC, &format!("key-{}", n % 8), n)).collect();
    bus.publish(sent).await.unwrap();
    let mut by_key: HashMap<String, Vec<(usize, u64)>> = HashMap::new();
    let mut count = 0;
    while count < 40 {
        for (place, member) in members.iter_mut().enumerate() {
            let polled = tokio::time::timeout(Duration::from_millis(50), member.poll(5)).await;
            let Ok(deliveries) = polled else { continue };
            for (key, position) in deliveries.unwrap().iter().map(told) {
                count += 1;
                by_key.entry(key).or_default().push((place, position));
            }
            member.acknowledge(1).await.unwrap();
        }
    }
    assert_eq!(by_key.len(), 8);
    for seen in by_key.values() {
        assert!(seen.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 < pair[1].1), "{seen:?}");
    }
}

async fn the_unacknowledged_comes_again_to_another_member(bus: &impl Bus) {
    let mut first = join(bus, "worker", &[TOPIC]).await;
    bus.publish((0..6).map(|n| message(TOPIC, "a", n)).collect()).await.unwrap();
    for expected in 0..4 {
        assert_eq!(told(&some(&mut first, 1).await[0]).1, expected);
    }
    first.acknowledge(2).await.unwrap();
    let mut second = join(bus, "worker", &[TOPIC]).await;
    drop(first);
    assert_eq!(receive(&mut second, 4).await, by_key(&[("a", &[2, 3, 4, 5])]));
}

async fn an_abandoned_poll_loses_nothing(bus: &impl Bus) {
    let mut worker = join(bus, "worker", &[TOPIC]).await;
    for n in 0..20 {
        if let Ok(early) = tokio::time::timeout(Duration::from_millis(1), worker.poll(1)).await {
            assert!(early.unwrap().is_empty());
        }
        let (sent, polled) = tokio::join!(bus.publish(vec![message(TOPIC, "a", n)]), some(&mut worker, 1));
        sent.unwrap();
        assert_eq!(told(&polled[0]).1, n);
        worker.acknowledge(1).await.unwrap();
    }
}
