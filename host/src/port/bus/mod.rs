//! The bus: carries envelopes from the relay to consumers, at least once. **A message is a hint; the log is the
//! order.** Per key, messages of one publisher arrive in order; anything may arrive twice.

pub mod memory;

#[cfg(test)]
pub mod conformance;
#[cfg(test)]
mod tests;

pub use memory::InProcessBus;

use std::collections::BTreeSet;

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

/// A message as a consumer gets it. Whoever can write to the bus can send anything: the consumer checks it against the
/// log before it means something.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub topic: String,
    /// Bytes that should be an envelope.
    pub value: Bytes,
    /// Where this store's log holds it, as the publisher says; `None` when it says nothing, or names another store.
    pub place: Option<(Partition, Position)>,
    /// Where the bus holds it, in words for operators: `topic/partition/offset`.
    pub coordinates: String,
}

/// Which partitions of the log a member of a group takes up. Events of one partition of the log all go to one *slot* of
/// a topic, and a slot to one member of each group; so whoever has the slot works on the partition, alone. It is a
/// division of labour and no promise: while members come and go two may hold one slot, and claims keep effects single.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// The member's slots.
    pub slots: BTreeSet<u32>,
    /// How many slots there are; 0 while the member has not been told.
    pub of: u32,
}

impl Share {
    /// The only member's.
    pub fn whole() -> Share {
        Share { slots: BTreeSet::from([0]), of: 1 }
    }

    /// Whether the member takes up this partition of the log.
    pub fn takes(&self, partition: Partition) -> bool {
        self.of > 0 && self.slots.contains(&slot(partition, self.of))
    }
}

/// The slot of a partition of the log: the partition of the bus's topic that its events go to.
pub fn slot(partition: Partition, slots: u32) -> u32 {
    u32::from(partition.0) % slots.max(1)
}

/// Publishing side.
#[async_trait]
pub trait Bus: Send + Sync + std::fmt::Debug {
    /// Whether everybody who could subscribe also follows the log itself, in this process: the log's end wakes them,
    /// and a message would only wake them again.
    fn follows_log(&self) -> bool;
    /// Returns when every message is acknowledged, in order. On error any prefix may have been taken; repeat all.
    async fn publish(&self, messages: Vec<Message>) -> Result<()>;
    /// Joins a consumer group on some topics, at least one.
    async fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>>;
}

/// Consuming side: one member of one group.
#[async_trait]
pub trait Subscription: Send + Sync + std::fmt::Debug {
    /// Waits for messages, then gives up to `max`; none when the member's share changed. Cancel-safe.
    async fn poll(&mut self, max: usize) -> Result<Vec<Delivery>>;
    /// The oldest `polls` polls that gave messages have had their effects: these need not come again.
    async fn acknowledge(&mut self, polls: usize) -> Result<()>;
    /// What the member takes up now; told while it polls.
    fn share(&self) -> Share;
}
