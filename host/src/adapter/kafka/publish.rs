//! The publishing side: an idempotent producer, acknowledged by all in-sync replicas. A batch that fails is repeated
//! whole by the caller, so a producer that gave up for good is thrown away and made anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use super::{Options, Quiet, client, discard, failed};
use crate::port::bus::{Message, slot};
use crate::port::{Error, Result};

/// Headers that say where the log holds the event.
pub(super) const STORE: &str = "carryall-store";
pub(super) const PARTITION: &str = "carryall-partition";
pub(super) const POSITION: &str = "carryall-position";

/// Bytes handed to the client before their acknowledgements are awaited; one message more than this alone passes.
const FLUSH_BYTES_MAX: usize = 8 * 1024 * 1024;

type Client = FutureProducer<Quiet>;

pub(super) struct Publisher {
    options: Arc<Options>,
    producer: Mutex<Option<Client>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    pub(super) fn new(options: Arc<Options>) -> Publisher {
        Publisher { options, producer: Mutex::new(None) }
    }

    /// Sends the messages, a flush after the other. `slots`: partitions of each topic, by its full name.
    pub(super) async fn publish(&self, messages: &[Message], slots: &BTreeMap<String, u32>) -> Result<()> {
        let mut rest = messages;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |message: &&Message| {
                bytes += message.value.len();
                bytes <= FLUSH_BYTES_MAX
            };
            let count = rest.iter().take(self.options.flush_messages).take_while(fits).count().max(1);
            let (flush, left) = rest.split_at(count);
            self.flush(flush, slots).await?;
            rest = left;
        }
        Ok(())
    }

    async fn flush(&self, messages: &[Message], slots: &BTreeMap<String, u32>) -> Result<()> {
        let producer = self.producer()?;
        let mut waiting = Vec::with_capacity(messages.len());
        let mut broken = None;
        for message in messages {
            match self.hand_over(&producer, message, slots) {
                Ok(acknowledgement) => waiting.push(acknowledgement),
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        for acknowledgement in waiting {
            match acknowledgement.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => {
                    broken.get_or_insert(error);
                }
                Err(_) => {
                    broken.get_or_insert(KafkaError::Canceled);
                }
            }
        }
        let Some(error) = broken else { return Ok(()) };
        if producer.client().fatal_error().is_some() {
            *self.producer.lock() = None;
        }
        discard(producer);
        Err(failed(&error))
    }

    fn hand_over(
        &self,
        producer: &Client,
        message: &Message,
        slots: &BTreeMap<String, u32>,
    ) -> std::result::Result<rdkafka::producer::DeliveryFuture, KafkaError> {
        let topic = format!("{}{}", self.options.prefix, message.topic);
        let slot = slot(message.partition, slots.get(&topic).copied().unwrap_or(1));
        let (store, partition, position) =
            (self.options.store.to_string(), message.partition.0.to_string(), message.position.0.to_string());
        let headers = OwnedHeaders::new_with_capacity(3)
            .insert(Header { key: STORE, value: Some(&store) })
            .insert(Header { key: PARTITION, value: Some(&partition) })
            .insert(Header { key: POSITION, value: Some(&position) });
        let record = FutureRecord::to(&topic)
            .partition(i32::try_from(slot).unwrap_or(0))
            .key(message.key.as_str())
            .payload(&message.value[..])
            .headers(headers);
        producer.send_result(record).map_err(|(error, _)| error)
    }

    fn producer(&self) -> Result<Client> {
        let mut producer = self.producer.lock();
        if let Some(producer) = &*producer {
            return Ok(producer.clone());
        }
        let made: Client = client(&self.options)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", self.options.flush_timeout.as_millis().to_string())
            // The relay sends batches: what is not in hand yet is not waited for.
            .set("linger.ms", "1")
            .set("compression.type", "lz4")
            .create_with_context(Quiet)
            .map_err(|error| Error::Refused { what: super::WHAT, reason: error.to_string() })?;
        *producer = Some(made.clone());
        Ok(made)
    }
}
