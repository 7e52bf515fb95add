//! What every bus must do. Each function takes a bus without groups.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Bus, Message, Subscription};
use crate::domain::{Partition, Position};

const TOPIC: &str = "account_commands";

/// A message at a position.
pub fn message(topic: &str, key: &str, position: u64) -> Message {
    Message {
        topic: topic.into(),
        key: key.into(),
        value: Bytes::from(format!("{{\"position\":{position}}}")),
        partition: Partition(0),
        position: Position(position),
    }
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

/// Polls and acknowledges until `count` messages came; gives their keys and positions.
async fn receive(member: &mut Box<dyn Subscription>, count: usize) -> Vec<(String, u64)> {
    let mut got = Vec::new();
    while got.len() < count {
        let deliveries = member.poll(3).await.unwrap();
        assert!(!deliveries.is_empty() && deliveries.len() <= 3);
        got.extend(deliveries.into_iter().map(|d| (d.message.key, d.message.position.0)));
        member.acknowledge().await.unwrap();
    }
    got
}

async fn every_group_gets_every_message_of_its_topics(bus: &impl Bus) {
    let mut worker = join(bus, "worker", &[TOPIC]).await;
    let mut other = join(bus, "other", &[TOPIC, "account_events"]).await;
    let sent = vec![message(TOPIC, "a", 0), message("account_events", "a", 1), message(TOPIC, "b", 2)];
    bus.publish(sent.clone()).await.unwrap();
    assert_eq!(receive(&mut worker, 2).await, [("a".into(), 0), ("b".into(), 2)]);
    assert_eq!(receive(&mut other, 3).await, [("a".into(), 0), ("a".into(), 1), ("b".into(), 2)]);
    bus.publish(vec![message("nobody_listens", "a", 3), sent[0].clone()]).await.unwrap();
    let deliveries = worker.poll(10).await.unwrap();
    assert_eq!(deliveries[0].message.value, sent[0].value);
    assert!(deliveries[0].coordinates.starts_with(TOPIC));
}

async fn a_key_keeps_its_order_and_its_member(bus: &impl Bus) {
    let mut members = [join(bus, "worker", &[TOPIC]).await, join(bus, "worker", &[TOPIC]).await];
    let sent = (0..40).map(|n| message(TOPIC, &format!("key-{}", n % 8), n)).collect();
    bus.publish(sent).await.unwrap();
    let mut by_key: HashMap<String, Vec<(usize, u64)>> = HashMap::new();
    let mut count = 0;
    while count < 40 {
        for (place, member) in members.iter_mut().enumerate() {
            let polled = tokio::time::timeout(Duration::from_millis(50), member.poll(5)).await;
            let Ok(deliveries) = polled else { continue };
            for delivery in deliveries.unwrap() {
                count += 1;
                by_key.entry(delivery.message.key).or_default().push((place, delivery.message.position.0));
            }
            member.acknowledge().await.unwrap();
        }
    }
    assert_eq!(by_key.len(), 8);
    for seen in by_key.values() {
        assert!(seen.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 < pair[1].1), "{seen:?}");
    }
}

async fn the_unacknowledged_comes_again_to_another_member(bus: &impl Bus) {
    let mut first = join(bus, "worker", &[TOPIC]).await;
    bus.publish((0..4).map(|n| message(TOPIC, "a", n)).collect()).await.unwrap();
    assert_eq!(receive(&mut first, 1).await.first().unwrap().1, 0);
    let unfinished = first.poll(1).await.unwrap();
    let begins_at = unfinished[0].message.position.0;
    let mut second = join(bus, "worker", &[TOPIC]).await;
    drop(first);
    let rest = receive(&mut second, usize::try_from(4 - begins_at).unwrap()).await;
    assert_eq!(rest.iter().map(|(_, position)| *position).collect::<Vec<_>>(), (begins_at..4).collect::<Vec<_>>());
}

async fn an_abandoned_poll_loses_nothing(bus: &impl Bus) {
    let mut worker = join(bus, "worker", &[TOPIC]).await;
    for n in 0..20 {
        assert!(tokio::time::timeout(Duration::from_millis(1), worker.poll(1)).await.is_err());
        let (sent, polled) = tokio::join!(
            bus.publish(vec![message(TOPIC, "a", n)]),
            tokio::time::timeout(Duration::from_secs(10), worker.poll(1))
        );
        sent.unwrap();
        assert_eq!(polled.unwrap().unwrap()[0].message.position.0, n);
        worker.acknowledge().await.unwrap();
    }
}
