//! A corner of the Kafka of the tests: topics and groups under one test's prefix, deleted with it, and a plain producer
//! and consumer, as others on the cluster have them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::services;

/// How long the brokers may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// One test's topics and groups.
pub struct Kafka {
    servers: String,
    prefix: String,
}

/// A message as it lies in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub partition: i32,
    pub key: String,
    pub value: Vec<u8>,
    /// Names and texts, in order.
    pub headers: Vec<(String, String)>,
}

impl Kafka {
    /// A corner with nothing in it.
    pub fn create() -> Kafka {
        Self::create_on(services::kafka())
    }

    /// On a server that the tests do not share.
    pub fn create_on(servers: String) -> Kafka {
        Kafka { servers, prefix: format!("carryall-test-{}.", crate::fresh_id().simple()) }
    }

    /// Variables that bring a host here.
    pub fn environment(&self) -> [(&str, &str); 2] {
        [("KAFKA_BOOTSTRAP_SERVERS", &self.servers), ("CARRYALL_KAFKA_PREFIX", &self.prefix)]
    }

    /// The full name of a topic.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("message.max.bytes", "4194304");
        config
    }

    /// Sends bytes as a producer does that knows nothing of Carryall.
    pub async fn send(&self, topic: &str, key: &str, value: &[u8]) -> anyhow::Result<()> {
        let producer: FutureProducer = self.client().create()?;
        let topic = self.topic(topic);
        let record = FutureRecord::to(&topic).key(key).payload(value);
        producer.send(record, ANSWERED_WITHIN).await.map_err(|(error, _)| error).context("send a message")?;
        Ok(())
    }

    /// The first `count` messages of a topic that differ, in the order of each partition: some may come twice.
    pub async fn read(&self, topic: &str, count: usize) -> anyhow::Result<Vec<Message>> {
        let (config, topic) = (self.client(), self.topic(topic));
        tokio::task::spawn_blocking(move || read(config, &topic, count)).await?
    }

    /// All messages of a topic, in the order of each partition, those that came twice included.
    pub async fn read_all(&self, topic: &str) -> anyhow::Result<Vec<Message>> {
        let (config, topic) = (self.client(), self.topic(topic));
        tokio::task::spawn_blocking(move || read_all(config, &topic)).await?
    }

    fn clear(&self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let metadata = admin.inner().fetch_metadata(None, ANSWERED_WITHIN)?;
        let topics = metadata.topics().iter().map(|topic| topic.name());
        let topics: Vec<&str> = topics.filter(|name| name.starts_with(&self.prefix)).collect();
        let groups = admin.inner().fetch_group_list(None, ANSWERED_WITHIN)?;
        let groups = groups.groups().iter().map(|group| group.name());
        let groups: Vec<&str> = groups.filter(|name| name.starts_with(&self.prefix)).collect();
        runtime.block_on(async {
            if !topics.is_empty() {
                admin.delete_topics(&topics, &AdminOptions::new()).await?;
            }
            if !groups.is_empty() {
                // One with a member that was killed just now is not empty yet; it ends by itself.
                admin.delete_groups(&groups, &AdminOptions::new()).await?;
            }
            Ok(())
        })
    }
}

fn read(config: ClientConfig, topic: &str, count: usize) -> anyhow::Result<Vec<Message>> {
    let begin = Instant::now();
    let (consumer, _) = assigned(config, topic)?;
    let mut messages = Vec::new();
    while messages.len() < count {
        ensure!(begin.elapsed() < ANSWERED_WITHIN * 2, "{topic} has only {} messages", messages.len());
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = Message::of(&message?);
        if !messages.contains(&message) {
            messages.push(message);
        }
    }
    Ok(messages)
}

fn read_all(config: ClientConfig, topic: &str) -> anyhow::Result<Vec<Message>> {
    let begin = Instant::now();
    let (consumer, partitions) = assigned(config, topic)?;
    let mut open = BTreeMap::new();
    for partition in 0..partitions {
        let (first, end) = consumer.fetch_watermarks(topic, partition, ANSWERED_WITHIN)?;
        if end > first {
            open.insert(partition, end);
        }
    }
    let mut messages = Vec::new();
    while !open.is_empty() {
        ensure!(begin.elapsed() < ANSWERED_WITHIN * 2, "{topic} is not read to its end: {open:?}");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        open.retain(|partition, end| *partition != message.partition() || message.offset() + 1 < *end);
        messages.push(Message::of(&message));
    }
    Ok(messages)
}

/// A consumer at the begin of a topic, once that is there; and how many partitions it has.
fn assigned(mut config: ClientConfig, topic: &str) -> anyhow::Result<(BaseConsumer, i32)> {
    let consumer: BaseConsumer = config.set("group.id", "none").set("enable.auto.commit", "false").create()?;
    let begin = Instant::now();
    let partitions = loop {
        let metadata = consumer.fetch_metadata(Some(topic), ANSWERED_WITHIN)?;
        match metadata.topics().first().map_or(0, |topic| topic.partitions().len()) {
            0 if begin.elapsed() < ANSWERED_WITHIN => std::thread::sleep(Duration::from_millis(100)),
            partitions => break i32::try_from(partitions)?,
        }
    };
    let mut places = TopicPartitionList::new();
    for partition in 0..partitions {
        places.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&places)?;
    Ok((consumer, partitions))
}

impl Message {
    fn of(message: &BorrowedMessage<'_>) -> Message {
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Message {
            partition: message.partition(),
            key: text(message.key()),
            value: message.payload().unwrap_or_default().to_vec(),
            headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // The test's own runtime may be ending, so this one has a thread and a runtime to itself.
        let cleared = std::thread::scope(|scope| scope.spawn(|| self.clear()).join());
        assert!(matches!(cleared, Ok(Ok(()))) || std::thread::panicking(), "the topics of {} stay", self.prefix);
    }
}
