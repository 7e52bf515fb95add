//! The bus: carries envelopes from the relay to consumers, at least once. **A message is a hint; the log is the
//! order.** Per key, messages of one publisher arrive in order; anything may arrive twice.

pub mod memory;

#[cfg(test)]
pub mod conformance;
#[cfg(test)]
mod tests;

pub use memory::InProcessBus;

use async_trait::async_trait;
use bytes::Bytes;

use super::Result;
use crate::domain::{Partition, Position};

/// One message.
#[derive(Debug, Clone)]
pub struct Message {
    pub topic: String,
    /// The aggregate id.
    pub key: String,
    /// The envelope line, byte for byte as it is stored.
    pub value: Bytes,
    /// Where the log holds it, as the publisher says.
    pub partition: Partition,
    pub position: Position,
}

/// A message as a consumer gets it.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub message: Message,
    /// `true` when the bus itself guarantees that the message is the log's event at that position (the in-process
    /// bus); otherwise the consumer checks it against the log.
    pub trusted: bool,
    /// Where the bus holds it, in words for operators: `topic/partition/offset`.
    pub coordinates: String,
}

/// Publishing side.
#[async_trait]
pub trait Bus: Send + Sync + std::fmt::Debug {
    /// Returns when every message is acknowledged, in order. On error any prefix may have been taken; repeat all.
    async fn publish(&self, messages: Vec<Message>) -> Result<()>;
    /// Joins a consumer group on some topics.
    async fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>>;
}

/// Consuming side: one member of one group.
#[async_trait]
pub trait Subscription: Send + std::fmt::Debug {
    /// Waits for at least one message, then gives up to `max`. Cancel-safe.
    async fn poll(&mut self, max: usize) -> Result<Vec<Delivery>>;
    /// All deliveries polled so far have had their effects: they need not come again.
    async fn acknowledge(&mut self) -> Result<()>;
}
