//! Topics: created with settings that carry the log, checked when others created them. Never changes or deletes one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;

use super::{MESSAGE_BYTES_MAX, Options, Quiet, REQUEST_TIMEOUT, WHAT, blocking, client, failed};
use crate::port::{Error, Result};

/// Copies of each partition, as far as there are brokers.
const REPLICATION_MAX: usize = 3;
/// How long a message is kept. The log is what lasts; this is for consumers outside that were away.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// A batch of the producer never exceeds this, and neither does an envelope: an existing topic must take as much.
const MESSAGE_BYTES_NEEDED: u64 = 1_000_000;
/// Pause between two looks at a topic that is being created.
const PAUSE: Duration = Duration::from_millis(100);
/// Looks at it before the brokers are said to be away.
const LOOKS_MAX: usize = 100;

/// The topics that are known to be fit for use, with their numbers of partitions.
pub(super) struct Topics {
    admin: Arc<AdminClient<Quiet>>,
    slots: i32,
    known: tokio::sync::Mutex<HashMap<String, u32>>,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics").field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// What the brokers say.
struct Present {
    brokers: usize,
    topics: HashMap<String, u32>,
}

impl Topics {
    pub(super) fn new(options: &Options) -> Result<Topics> {
        let admin = client(options).create_with_context(Quiet).map_err(|error| failed(&error))?;
        Ok(Topics { admin: Arc::new(admin), slots: i32::from(options.slots), known: Default::default() })
    }

    /// Gives the number of partitions of each topic, having created those that are missing.
    pub(super) async fn ensure(&self, names: &[String]) -> Result<BTreeMap<String, u32>> {
        let mut known = self.known.lock().await;
        let unknown: Vec<&String> = names.iter().filter(|name| !known.contains_key(*name)).collect();
        if !unknown.is_empty() {
            let mut present = self.list().await?;
            let missing: Vec<&str> =
                unknown.iter().filter(|name| !present.topics.contains_key(**name)).map(|name| name.as_str()).collect();
            if !missing.is_empty() {
                self.create(&missing, present.brokers).await?;
                present = self.appeared(&missing).await?;
            }
            self.check(&unknown).await?;
            for name in unknown {
                let slots = present.topics.get(name).copied().unwrap_or(1);
                known.insert(name.clone(), slots);
            }
        }
        Ok(names.iter().filter_map(|name| Some((name.clone(), *known.get(name)?))).collect())
    }

    /// Looks at the topics again before they are used again.
    pub(super) async fn forget(&self) {
        self.known.lock().await.clear();
    }

    async fn list(&self) -> Result<Present> {
        let admin = self.admin.clone();
        blocking(move || {
            let metadata = admin.inner().fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| failed(&error))?;
            let led = |topic: &&rdkafka::metadata::MetadataTopic| {
                !topic.partitions().is_empty() && topic.partitions().iter().all(|partition| partition.leader() >= 0)
            };
            let count = |partitions: usize| u32::try_from(partitions).unwrap_or(u32::MAX);
            let topics = metadata.topics().iter().filter(led);
            let topics = topics.map(|topic| (topic.name().to_owned(), count(topic.partitions().len()))).collect();
            Ok(Present { brokers: metadata.brokers().len(), topics })
        })
        .await
    }

    async fn create(&self, names: &[&str], brokers: usize) -> Result<()> {
        let replication = i32::try_from(brokers.clamp(1, REPLICATION_MAX)).unwrap_or(1);
        let (bytes, retention) = (MESSAGE_BYTES_MAX.to_string(), RETENTION.as_millis().to_string());
        let new: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                let in_sync = if replication > 2 { "2" } else { "1" };
                NewTopic::new(name, self.slots, TopicReplication::Fixed(replication))
                    .set("cleanup.policy", "delete")
                    .set("max.message.bytes", &bytes)
                    .set("retention.ms", &retention)
                    .set("min.insync.replicas", in_sync)
            })
            .collect();
        let options =
            AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT));
        let created = self.admin.create_topics(&new, &options).await.map_err(|error| failed(&error))?;
        for topic in created {
            match topic {
                Ok(topic) => tracing::info!(topic, partitions = self.slots, replication, "topic created"),
                // Another process was faster, or the brokers have not elected its leaders yet.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    let reason = format!("topic {topic} cannot be created: {code}");
                    return Err(Error::Unavailable { what: WHAT, reason });
                }
            }
        }
        Ok(())
    }

    /// Waits until topics just created have leaders everywhere.
    async fn appeared(&self, names: &[&str]) -> Result<Present> {
        for _ in 0..LOOKS_MAX {
            let present = self.list().await?;
            if names.iter().all(|name| present.topics.contains_key(*name)) {
                return Ok(present);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Error::Unavailable { what: WHAT, reason: format!("topics {} have no leader", names.join(", ")) })
    }

    /// Refuses what would lose messages.
    async fn check(&self, names: &[&String]) -> Result<()> {
        let asked: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let answers = self.admin.describe_configs(&asked, &options).await.map_err(|error| failed(&error))?;
        for (name, answer) in names.iter().zip(answers) {
            let settings = answer.map_err(|code| Error::Unavailable {
                what: WHAT,
                reason: format!("the settings of topic {name} cannot be read: {code}"),
            })?;
            let value = |key: &str| settings.get(key).and_then(|entry| entry.value.clone()).unwrap_or_default();
            if value("max.message.bytes").parse::<u64>().is_ok_and(|bytes| bytes < MESSAGE_BYTES_NEEDED) {
                let reason = format!(
                    "topic {name} takes messages of {} bytes only, and an envelope may be greater: set its \
                     max.message.bytes to {MESSAGE_BYTES_MAX}",
                    value("max.message.bytes")
                );
                return Err(Error::Refused { what: WHAT, reason });
            }
            if value("cleanup.policy").contains("compact") {
                let reason = format!(
                    "topic {name} is compacted, which would throw away all but the last event of an aggregate: set its \
                     cleanup.policy to delete"
                );
                return Err(Error::Refused { what: WHAT, reason });
            }
        }
        Ok(())
    }
}
