//! What the bus tells a consumer. **A message is a hint; the log is the order**: a message only makes the consumer look
//! at the log, so a lost, repeated or reordered one changes nothing (I6). It is acknowledged when the log is handled
//! beyond it, so that the bus never counts as done what has no effect yet (I7).

use crate::domain::{Partition, Position};
use crate::port;
use crate::port::bus::{Bus, Subscription};

/// Messages taken at once: they only wake.
const HINTS_MAX: usize = 512;

/// One consumer's membership on the bus; none where the log's own end wakes it.
#[derive(Debug)]
pub(super) struct Hints {
    subscription: Option<Box<dyn Subscription>>,
    /// What is behind this position is polled and not acknowledged.
    polled_to: Option<Position>,
}

impl Hints {
    pub async fn open(bus: &dyn Bus, consumer: &str, topics: &[String]) -> Result<Hints, port::Error> {
        let subscription = if bus.follows_log() { None } else { Some(bus.subscribe(consumer, topics).await?) };
        Ok(Hints { subscription, polled_to: None })
    }

    /// Whether the partition is this member's to work on.
    pub fn give(&self, partition: Partition) -> bool {
        self.subscription.as_ref().is_none_or(|subscription| subscription.share().takes(partition))
    }

    /// Whether messages can be asked for: those polled before are acknowledged.
    pub fn are_wanted(&self) -> bool {
        self.subscription.is_some() && self.polled_to.is_none()
    }

    /// Waits for messages. Cancel-safe: what was polled is noted at once.
    pub async fn next(&mut self) -> Result<(), port::Error> {
        let Some(subscription) = &mut self.subscription else { return std::future::pending().await };
        let deliveries = subscription.poll(HINTS_MAX).await?;
        let ends = deliveries.iter().map(|delivery| delivery.place.map_or(Position(0), |(_, at)| Position(at.0 + 1)));
        self.polled_to = ends.max();
        Ok(())
    }

    /// Acknowledges what was polled, once everything below it has had its effect.
    pub async fn handled(&mut self, checkpoint: Position) -> Result<(), port::Error> {
        if let (Some(subscription), Some(polled_to)) = (&mut self.subscription, self.polled_to)
            && polled_to <= checkpoint
        {
            subscription.acknowledge(1).await?;
            self.polled_to = None;
        }
        Ok(())
    }
}
