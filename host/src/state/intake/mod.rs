//! Takes the messages of one consumer group in this process, when the bus goes between processes.
//!
//! **The log is the order; a message is a hint.** Whoever can write to the bus can send anything, so each message is
//! held against the log: what the log holds only makes this process look at the log's end, and is acknowledged when the
//! consumer's checkpoint has passed it (I7); what it does not hold is noted in the dead letters with its coordinates,
//! and changes nothing else. A repeated or reordered message changes nothing (I6).
//!
//! The group also divides the partitions of the log among its members: [`Intake::share`] follows what is this one's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::parking::Stranger;
use super::{Error, Parking, Progress};
use crate::codec::envelope::Envelope;
use crate::codec::json::Json;
use crate::domain::{Partition, Position};
use crate::event_store::{EventStore, Record};
use crate::port::bus::{Bus, Delivery, Share, Subscription};
use crate::port::clock::Clock;
use crate::{failpoint, port};

#[cfg(test)]
mod tests;

/// Messages taken at once, and records read at once to check them.
const MESSAGES_MAX: usize = 512;
/// Polls whose effects may be awaited; further ones count with the last.
const POLLS_MAX: usize = 1_024;
/// How often it is looked whether what was taken has had its effect.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the last acknowledgement may take when the process stops: a bus that is away gives no answer.
const LAST_ACKNOWLEDGE_MAX: Duration = Duration::from_secs(2);
/// How long nothing may be heard of a bus that failed until it counts as back: longer than it takes to try again.
const QUIET: Duration = Duration::from_secs(15);
/// Wait after a failure: from the first to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What an intake needs.
#[derive(Debug, Clone)]
pub struct Parts {
    pub events: EventStore,
    pub bus: Arc<dyn Bus>,
    pub parking: Parking,
    pub progress: Progress,
    pub clock: Arc<dyn Clock>,
}

/// Up to where each partition of the log must be handled: what a poll brought lies below.
type Needs = BTreeMap<Partition, Position>;

/// The membership of this process in one group.
#[derive(Debug)]
pub struct Intake {
    consumer: String,
    topics: Vec<String>,
    parts: Parts,
    share: watch::Sender<Share>,
    trouble: watch::Sender<Option<String>>,
    subscription: Option<Box<dyn Subscription>>,
    /// Polled, and not yet held against the log.
    in_hand: Vec<Delivery>,
    /// Checked and not acknowledged: how many polls, and what they wait for.
    unhandled: VecDeque<(usize, Needs)>,
}

impl Intake {
    /// Of the group of a consumer. Nothing happens until it runs.
    pub fn new(consumer: &str, topics: &[String], parts: Parts) -> Intake {
        Intake {
            consumer: consumer.to_owned(),
            topics: topics.to_vec(),
            parts,
            share: watch::Sender::new(Share::default()),
            trouble: watch::Sender::new(None),
            subscription: None,
            in_hand: Vec::new(),
            unhandled: VecDeque::new(),
        }
    }

    /// What this process takes up of the log. What it had when the bus went away it keeps.
    pub fn share(&self) -> watch::Receiver<Share> {
        self.share.subscribe()
    }

    /// Why no messages come at present.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    /// Takes messages until told to stop, then leaves the group.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut pause = PAUSE_MIN;
        loop {
            let taken = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Cancel-safe: what was polled is in hand at once, and what is acknowledged twice changes nothing.
                taken = self.take() => taken,
            };
            let Err(error) = taken else {
                pause = PAUSE_MIN;
                self.trouble.send_if_modified(|trouble| trouble.take().is_some());
                continue;
            };
            tracing::warn!(consumer = self.consumer, %error, "no messages come; the log is followed without them");
            self.trouble.send_replace(Some(error.to_string()));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.parts.clock.sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        let (clock, consumer) = (self.parts.clock.clone(), self.consumer.clone());
        let acknowledged = tokio::select! {
            biased;
            acknowledged = self.acknowledge() => acknowledged.map_err(|error| error.to_string()),
            () = clock.sleep(LAST_ACKNOWLEDGE_MAX) => Err("no answer in time".to_owned()),
        };
        if let Err(error) = acknowledged {
            tracing::debug!(consumer, error, "what was handled will be delivered again");
        }
        Ok(())
    }

    /// Takes what the next poll gives.
    async fn take(&mut self) -> Result<(), Error> {
        if self.in_hand.is_empty() {
            let subscription = match &mut self.subscription {
                Some(subscription) => subscription,
                None => self.subscription.insert(self.parts.bus.subscribe(&self.consumer, &self.topics).await?),
            };
            let troubled = self.trouble.borrow().is_some();
            tokio::select! {
                biased;
                polled = subscription.poll(MESSAGES_MAX) => self.in_hand = polled?,
                () = self.parts.clock.sleep(ACKNOWLEDGE_INTERVAL), if !self.unhandled.is_empty() => {}
                () = self.parts.clock.sleep(QUIET), if troubled => {}
            }
            let share = subscription.share();
            self.share.send_if_modified(|present| std::mem::replace(present, share.clone()) != share);
        }
        if !self.in_hand.is_empty() {
            let needs = self.check().await?;
            self.in_hand.clear();
            let full = self.unhandled.len() >= POLLS_MAX;
            match self.unhandled.back_mut() {
                Some((polls, last)) if full => {
                    *polls += 1;
                    needs.into_iter().for_each(|(partition, position)| raise(last, partition, position));
                }
                _ => self.unhandled.push_back((1, needs)),
            }
        }
        self.acknowledge().await
    }

    /// Acknowledges what has had its effect.
    async fn acknowledge(&mut self) -> Result<(), Error> {
        let Some(subscription) = &mut self.subscription else { return Ok(()) };
        let (progress, share) = (&self.parts.progress, subscription.share());
        // What another member takes up is its to handle, and its messages are delivered to it again.
        let passed = |(partition, position): (&Partition, &Position)| {
            !share.takes(*partition) || progress.get(&self.consumer, *partition).is_some_and(|at| at >= *position)
        };
        let (mut entries, mut polls) = (0, 0);
        for (count, needs) in &self.unhandled {
            if !needs.iter().all(passed) {
                break;
            }
            entries += 1;
            polls += count;
        }
        if polls > 0 {
            port::fail_at("ack.before")?;
            subscription.acknowledge(polls).await?;
            failpoint::pass("ack.after");
            self.unhandled.drain(..entries);
        }
        Ok(())
    }

    /// Holds what is in hand against the log, and makes this process look at the log's end.
    async fn check(&self) -> Result<Needs, Error> {
        let events = &self.parts.events;
        let mut needs = Needs::new();
        for (partition, position) in self.in_hand.iter().filter_map(|delivery| delivery.place) {
            raise(&mut needs, partition, Position(position.0.saturating_add(1)));
        }
        needs.retain(|partition, _| partition.0 < events.partitions());
        for (partition, next) in &needs {
            if events.end(*partition) < *next {
                events.caught_up(*partition).await?;
            }
        }
        // A place that the log has not reached was invented: nobody will ever get there.
        needs.retain(|partition, next| *next <= events.end(*partition));
        let mut strangers = Vec::new();
        let mut pages: BTreeMap<Partition, Vec<Record>> = BTreeMap::new();
        for delivery in &self.in_hand {
            if !self.is_at_its_place(delivery, &mut pages).await? {
                strangers.push(delivery);
            }
        }
        if !strangers.is_empty() {
            self.judge(strangers).await?;
        }
        Ok(needs)
    }

    /// Whether the log holds the very bytes where the headers say.
    async fn is_at_its_place(
        &self,
        delivery: &Delivery,
        pages: &mut BTreeMap<Partition, Vec<Record>>,
    ) -> Result<bool, Error> {
        let Some((partition, position)) = delivery.place else { return Ok(false) };
        let page = pages.entry(partition).or_default();
        let held = |page: &[Record]| {
            let index = position.0.checked_sub(page.first()?.position.0)?;
            page.get(usize::try_from(index).ok()?).map(|record| record.line == delivery.value)
        };
        if let Some(same) = held(page) {
            return Ok(same);
        }
        if position >= self.parts.events.end(partition) {
            return Ok(false);
        }
        *page = self.parts.events.read(partition, position, MESSAGES_MAX).await?;
        Ok(held(page).unwrap_or(false))
    }

    /// Messages that are not what their headers say, or have none: copies by other producers, or strangers.
    async fn judge(&self, deliveries: Vec<&Delivery>) -> Result<(), Error> {
        for partition in (0..self.parts.events.partitions()).map(Partition) {
            self.parts.events.caught_up(partition).await?;
        }
        let read: Vec<_> = deliveries.iter().map(|delivery| Envelope::parse(&delivery.value)).collect();
        let ids: Vec<Uuid> = read.iter().flatten().map(|envelope| envelope.event_id).collect();
        let mut found = self.parts.events.find(&ids).await?.into_iter();
        for (delivery, envelope) in deliveries.into_iter().zip(&read) {
            let stranger = match envelope {
                Err(error) => Stranger {
                    reason: "not-an-envelope",
                    error: error.to_string(),
                    coordinates: delivery.coordinates.clone(),
                    topic: delivery.topic.clone(),
                    event_id: None,
                    aggregate_type: String::new(),
                    aggregate_id: String::new(),
                    sequence_number: 0,
                },
                Ok(envelope) => {
                    let record = found.next().flatten();
                    let error = match &record {
                        Some(record) if has_content(record, envelope) => continue,
                        Some(_) => "the log holds another content under this id",
                        None => "the log of this store holds no event of this id",
                    };
                    Stranger {
                        reason: "not-in-log",
                        error: error.to_owned(),
                        coordinates: delivery.coordinates.clone(),
                        topic: delivery.topic.clone(),
                        event_id: Some(envelope.event_id),
                        aggregate_type: envelope.aggregate_type.to_string(),
                        aggregate_id: envelope.aggregate_id.to_string(),
                        sequence_number: envelope.sequence_number.0,
                    }
                }
            };
            tracing::warn!(
                consumer = self.consumer,
                coordinates = stranger.coordinates,
                reason = stranger.reason,
                "a message is no event of this log; noted in the dead letters"
            );
            self.parts.parking.set_aside(&self.consumer, stranger).await?;
        }
        Ok(())
    }
}

fn raise(needs: &mut Needs, partition: Partition, position: Position) {
    let need = needs.entry(partition).or_default();
    *need = position.max(*need);
}

/// Whether an envelope says what the log holds, however it is written down.
fn has_content(record: &Record, envelope: &Envelope<'_>) -> bool {
    let Ok(stored) = record.envelope() else { return false };
    let canonical = |data: &str| Json::parse(data.as_bytes()).map(|data| data.canonical()).ok();
    envelope.aggregate_type == stored.aggregate_type
        && envelope.aggregate_id == stored.aggregate_id
        && envelope.event_type == stored.event_type
        && envelope.sequence_number == stored.sequence_number
        && canonical(envelope.data.get()).is_some_and(|data| Some(data) == canonical(stored.data.get()))
}
