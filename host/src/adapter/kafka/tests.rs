//! The bus on a real Kafka. Each test has a prefix of its own, and deletes the topics and groups it made.
#![allow(clippy::unwrap_used)]

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};

use super::*;
use crate::domain::{Partition, Position};
use crate::port::bus::{Share, conformance};
use crate::tests::services;

/// A corner of the cluster that is gone with it.
struct Corner {
    prefix: String,
    admin: AdminClient<Quiet>,
}

impl Corner {
    fn new() -> Corner {
        #[allow(clippy::disallowed_methods)] // Each run needs names that no other run has.
        let prefix = format!("carryall-test-{}.", Uuid::new_v4().simple());
        Corner { admin: client(&options(&prefix)).create_with_context(Quiet).unwrap(), prefix }
    }

    fn bus(&self) -> KafkaBus {
        KafkaBus::new(options(&self.prefix)).unwrap()
    }

    async fn create(&self, topic: &str, setting: (&str, &str)) {
        let name = format!("{}{topic}", self.prefix);
        let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(1)).set(setting.0, setting.1);
        self.admin.create_topics([&topic], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    }

    async fn clear(self) {
        let metadata = self.admin.inner().fetch_metadata(None, REQUEST_TIMEOUT).unwrap();
        let mine = metadata.topics().iter().map(|topic| topic.name()).filter(|name| name.starts_with(&self.prefix));
        let mine: Vec<&str> = mine.collect();
        self.admin.delete_topics(&mine, &AdminOptions::new()).await.unwrap();
        let groups = self.admin.inner().fetch_group_list(None, REQUEST_TIMEOUT).unwrap();
        let mine = groups.groups().iter().map(|group| group.name()).filter(|name| name.starts_with(&self.prefix));
        let mine: Vec<&str> = mine.collect();
        if !mine.is_empty() {
            // A member that was dropped just now may not have left yet: such a group ends by itself.
            let _left = self.admin.delete_groups(&mine, &AdminOptions::new()).await.unwrap();
        }
    }
}

fn options(prefix: &str) -> Options {
    Options {
        bootstrap_servers: services::kafka(),
        prefix: prefix.into(),
        slots: 2,
        store: Uuid::from_u128(7),
        flush_messages: 200,
        flush_timeout: Duration::from_secs(10),
    }
}

fn topic(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_the_contract_of_the_bus() {
    let corners = parking_lot::Mutex::new(Vec::new());
    conformance::all(async || {
        let corner = Corner::new();
        let bus = corner.bus();
        corners.lock().push(corner);
        bus
    })
    .await;
    for corner in corners.into_inner() {
        corner.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_great_envelope_and_a_long_flush_pass() {
    let corner = Corner::new();
    let bus = corner.bus();
    let great = |position| Message {
        value: vec![b'x'; 768 * 1024].into(),
        ..conformance::message("account_events", "a", position)
    };
    bus.publish((0..20).map(great).collect()).await.unwrap();
    let mut member = bus.subscribe("reader", &topic("account_events")).await.unwrap();
    let mut positions = Vec::new();
    while positions.len() < 20 {
        positions.extend(member.poll(100).await.unwrap().iter().map(|delivery| delivery.place.unwrap().1.0));
    }
    assert_eq!(positions, (0..20).collect::<Vec<_>>());
    drop(member);
    corner.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_would_lose_events_is_refused_with_what_to_do() {
    let corner = Corner::new();
    corner.create("small_events", ("max.message.bytes", "1000")).await;
    corner.create("compacted_events", ("cleanup.policy", "compact")).await;
    let bus = corner.bus();
    for (name, advice) in [("small_events", "max.message.bytes"), ("compacted_events", "cleanup.policy")] {
        let refused = bus.ensure(&topic(name)).await.unwrap_err();
        assert!(matches!(&refused, Error::Refused { reason, .. } if reason.contains(advice)), "{refused}");
        bus.publish(vec![conformance::message(name, "a", 0)]).await.unwrap_err();
        bus.subscribe("reader", &topic(name)).await.unwrap_err();
    }
    corner.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_fewer_slots_carries_every_partition_of_the_log() {
    let corner = Corner::new();
    corner.create("account_events", ("cleanup.policy", "delete")).await;
    let bus = corner.bus();
    bus.publish((0..4).map(|n| conformance::message("account_events", &format!("k{n}"), n)).collect()).await.unwrap();
    let mut member = bus.subscribe("reader", &topic("account_events")).await.unwrap();
    let mut count = 0;
    while count < 4 {
        count += member.poll(10).await.unwrap().len();
    }
    assert!((0..9).all(|partition| member.share().takes(Partition(partition))));
    drop(member);
    corner.clear().await;
}

/// Polls a member until it has these slots of so many.
async fn until_shared(member: &mut Box<dyn Subscription>, slots: &[u32], of: u32) {
    let wanted = Share { slots: slots.iter().copied().collect(), of };
    let shared = async {
        while member.share() != wanted {
            // Where nothing comes, and no share, there is nothing to look at.
            drop(tokio::time::timeout(Duration::from_millis(200), member.poll(10)).await);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), shared).await.expect("the share never becomes so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_grows_or_is_lost_is_divided_as_it_is_now() {
    let corner = Corner::new();
    let name = format!("{}account_events", corner.prefix);
    corner.create("account_events", ("cleanup.policy", "delete")).await;
    let bus = corner.bus();
    let mut member = bus.subscribe("reader", &topic("account_events")).await.unwrap();
    until_shared(&mut member, &[0], 1).await;
    let options = AdminOptions::new();
    corner.admin.create_partitions([&NewPartitions::new(&name, 3)], &options).await.unwrap().remove(0).unwrap();
    until_shared(&mut member, &[0, 1, 2], 3).await;
    corner.admin.delete_topics(&[&name], &options).await.unwrap().remove(0).unwrap();
    // Somebody publishes, and has it made with as many partitions as the log has.
    let message = || vec![conformance::message("account_events", "k", 0)];
    while bus.publish(message()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_shared(&mut member, &[0, 1], 2).await;
    drop(member);
    corner.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_another_store_name_no_place_and_bytes_come_as_they_were_sent() {
    let corner = Corner::new();
    let other = KafkaBus::new(Options { store: Uuid::from_u128(8), ..options(&corner.prefix) }).unwrap();
    other.publish(vec![conformance::message("account_events", "a", 3)]).await.unwrap();
    let bus = corner.bus();
    let mut foreign = conformance::message("account_events", "a", 4);
    foreign.value = vec![0xff, 0x00, b'{'].into();
    bus.publish(vec![foreign]).await.unwrap();
    let mut member = bus.subscribe("reader", &topic("account_events")).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 2 {
        got.extend(member.poll(10).await.unwrap());
    }
    assert_eq!(got.iter().map(|d| d.place).collect::<Vec<_>>(), [None, Some((Partition(1), Position(4)))]);
    assert_eq!(got[1].value[..], [0xff, 0x00, b'{']);
    assert_eq!(got[1].coordinates, format!("{}account_events/1/1", corner.prefix));
    drop(member);
    corner.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_away_is_unavailable_in_time() {
    let away = Options { bootstrap_servers: "127.0.0.1:1".into(), ..options("x.") };
    let bus = KafkaBus::new(away).unwrap();
    let sent = bus.publish(vec![conformance::message("account_events", "a", 0)]);
    let error = tokio::time::timeout(REQUEST_TIMEOUT * 2, sent).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}
