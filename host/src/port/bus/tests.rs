//! The conformance suite on the in-process bus, and its bounds.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::conformance::{self, message};
use super::memory::{InProcessBus, Options};
use super::{Bus as _, Subscription};

const TOPIC: &str = "account_commands";

async fn join(bus: &InProcessBus, group: &str) -> Box<dyn Subscription> {
    bus.subscribe(group, &[TOPIC.to_owned()]).await.unwrap()
}

#[tokio::test]
async fn the_in_process_bus_keeps_the_contract() {
    conformance::all(async || InProcessBus::default()).await;
}

#[tokio::test]
async fn a_full_group_makes_the_publisher_wait_until_it_acknowledges() {
    let bus = InProcessBus::new(Options { messages_max: 2, bytes_max: 1 << 20 });
    let mut slow = join(&bus, "slow").await;
    let mut quick = join(&bus, "quick").await;
    bus.publish((0..2).map(|n| message(TOPIC, "a", n)).collect()).await.unwrap();
    let publish = bus.publish(vec![message(TOPIC, "a", 2)]);
    tokio::pin!(publish);
    assert!(tokio::time::timeout(Duration::from_millis(20), publish.as_mut()).await.is_err());
    assert_eq!(quick.poll(9).await.unwrap().len(), 2);
    quick.acknowledge(1).await.unwrap();
    assert_eq!(slow.poll(9).await.unwrap().len(), 2);
    assert!(tokio::time::timeout(Duration::from_millis(20), publish.as_mut()).await.is_err());
    assert_eq!(bus.unacknowledged("slow"), 2);
    slow.acknowledge(1).await.unwrap();
    publish.await.unwrap();
    assert_eq!(quick.poll(9).await.unwrap().len(), 1);
    assert_eq!(slow.poll(9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn bytes_are_bounded_but_one_great_message_passes() {
    let bus = InProcessBus::new(Options { messages_max: 100, bytes_max: 10 });
    let mut worker = join(&bus, "worker").await;
    bus.publish(vec![message(TOPIC, "a", 0)]).await.unwrap();
    let next = bus.publish(vec![message(TOPIC, "a", 1)]);
    tokio::pin!(next);
    assert!(tokio::time::timeout(Duration::from_millis(20), next.as_mut()).await.is_err());
    worker.poll(1).await.unwrap();
    worker.acknowledge(1).await.unwrap();
    next.await.unwrap();
}

#[tokio::test]
async fn a_publisher_is_free_when_the_group_that_held_it_up_leaves() {
    let bus = InProcessBus::new(Options { messages_max: 1, bytes_max: 1 << 20 });
    let gone = join(&bus, "gone").await;
    bus.publish(vec![message(TOPIC, "a", 0)]).await.unwrap();
    let next = bus.publish(vec![message(TOPIC, "a", 1)]);
    tokio::pin!(next);
    assert!(tokio::time::timeout(Duration::from_millis(20), next.as_mut()).await.is_err());
    drop(gone);
    next.await.unwrap();
}

#[tokio::test]
async fn a_publisher_that_gives_up_holds_nobody_up() {
    let bus = InProcessBus::new(Options { messages_max: 1, bytes_max: 1 << 20 });
    let mut worker = join(&bus, "worker").await;
    bus.publish(vec![message(TOPIC, "a", 0)]).await.unwrap();
    let given_up = bus.publish(vec![message(TOPIC, "a", 1)]);
    assert!(tokio::time::timeout(Duration::from_millis(20), given_up).await.is_err());
    assert_eq!(worker.poll(9).await.unwrap().len(), 1);
    worker.acknowledge(1).await.unwrap();
    bus.publish(vec![message(TOPIC, "a", 2)]).await.unwrap();
    assert_eq!(worker.poll(9).await.unwrap()[0].place.unwrap().1.0, 2);
}

#[tokio::test]
async fn a_group_starts_when_it_subscribes() {
    let bus = InProcessBus::default();
    bus.publish(vec![message(TOPIC, "a", 0)]).await.unwrap();
    let mut late = join(&bus, "late").await;
    bus.publish(vec![message(TOPIC, "a", 1)]).await.unwrap();
    assert_eq!(late.poll(9).await.unwrap()[0].place.unwrap().1.0, 1);
}
