//! The bus on Kafka; the only module that knows it. A partition of the log goes to one partition of each topic, its
//! slot: so one aggregate's messages are in order, and a group divides the log's partitions among its members. Offsets
//! are committed by hand, after effects; what matters is in the log, so nothing breaks when Kafka forgets or repeats.

mod publish;
mod subscription;
mod topics;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use uuid::Uuid;

use self::publish::Publisher;
use self::subscription::KafkaSubscription;
use self::topics::Topics;
use crate::port::bus::{Bus, Message, Subscription};
use crate::port::{Error, Result};

/// Bytes of one message, with room above the largest append (contract §1).
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a question to the brokers may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Age at which a member that was not heard of is taken to be gone. The brokers' usual minimum: with the time that the
/// others take to notice, its partitions have a new owner within ten seconds.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// How often a member says that it lives, and learns that others came or went.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(300);
/// How long a rebalance waits for a member that lives and does not poll, since another part of it is away. By default
/// it is five minutes, in which nobody would have the partitions of one that is gone.
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// How often a client looks whether topics came, went or grew.
const TOPICS_LOOKED_AT: Duration = Duration::from_secs(10);

const WHAT: &str = "Kafka";

/// How to talk to Kafka.
#[derive(Debug, Clone)]
pub struct Options {
    pub bootstrap_servers: String,
    /// Begins the names of topics and groups, so that several stores can share a cluster.
    pub prefix: String,
    /// Partitions of a topic that is created: those of the log.
    pub slots: u16,
    /// Named in the headers, so that messages of another store are told apart.
    pub store: Uuid,
    /// Messages sent before their acknowledgements are awaited.
    pub flush_messages: usize,
    /// How long acknowledgements are awaited.
    pub flush_timeout: Duration,
}

/// A Kafka cluster.
#[derive(Debug)]
pub struct KafkaBus {
    options: Arc<Options>,
    topics: Arc<Topics>,
    publisher: Publisher,
}

impl KafkaBus {
    /// Connects in the background: whatever needs Kafka says so when it is away.
    pub fn new(options: Options) -> Result<KafkaBus> {
        let options = Arc::new(options);
        Ok(KafkaBus { topics: Arc::new(Topics::new(&options)?), publisher: Publisher::new(options.clone()), options })
    }

    /// Creates topics that are missing, and refuses those whose settings cannot carry the log.
    pub async fn ensure(&self, topics: &[String]) -> Result<()> {
        let names: Vec<String> = topics.iter().map(|topic| self.name(topic)).collect();
        self.topics.ensure(&names).await?;
        Ok(())
    }

    fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.options.prefix)
    }
}

#[async_trait]
impl Bus for KafkaBus {
    fn follows_log(&self) -> bool {
        false
    }

    /// Dropped half-way, any part may have been taken.
    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        let mut names: Vec<String> = messages.iter().map(|message| self.name(&message.topic)).collect();
        names.sort();
        names.dedup();
        let slots = self.topics.ensure(&names).await?;
        let sent = self.publisher.publish(&messages, &slots).await;
        if sent.is_err() {
            // A topic may have been deleted or changed: looked at again before the next attempt.
            self.topics.forget().await;
        }
        sent
    }

    async fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>> {
        let names: Vec<String> = topics.iter().map(|topic| self.name(topic)).collect();
        Ok(Box::new(KafkaSubscription::join(self.options.clone(), group, names, self.topics.clone()).await?))
    }
}

/// What every client has in common.
fn client(options: &Options) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.bootstrap_servers)
        .set("client.id", "carryall")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true")
        // A broker would make them with settings of its own; `Topics` makes them.
        .set("allow.auto.create.topics", "false")
        .set("topic.metadata.refresh.interval.ms", TOPICS_LOOKED_AT.as_millis().to_string())
        .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
        .set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// Passes the client's own log on. What matters of it comes back as an error of a call, so it is for debugging.
#[derive(Debug, Clone)]
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
    }
}

fn failed(error: &KafkaError) -> Error {
    let refused = matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::MessageSizeTooLarge
        )
    );
    let reason = error.to_string();
    if refused { Error::Refused { what: WHAT, reason } } else { Error::Unavailable { what: WHAT, reason } }
}

/// Runs something that blocks its thread, off the threads that do I/O.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.expect("calls into the client do not panic")
}

/// Drops what blocks while it is dropped.
fn discard(thing: impl Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(move || drop(thing));
    }
}
