//! The consuming side: one member of a consumer group. Which slots it has decides the first of its topics, so that the
//! answer is one whatever the group's assignor does with the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::publish::{PARTITION, POSITION, STORE};
use super::topics::Topics;
use super::{
    HEARTBEAT_INTERVAL, Options, POLL_INTERVAL_MAX, Quiet, SESSION_TIMEOUT, TOPICS_LOOKED_AT, blocking, client,
    discard, failed,
};
use crate::domain::{Partition, Position};
use crate::port::Result;
use crate::port::bus::{Delivery, Share, Subscription};

/// Bytes that one poll gives, when there is more than one message.
const POLL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Polls that are told apart until they are acknowledged.
const POLLS_MAX: usize = 1_024;
/// Kilobytes fetched ahead; messages are checked faster than they come.
const FETCHED_AHEAD_KB_MAX: &str = "8192";

/// A topic by its full name, and one of its partitions.
type Place = (String, i32);

/// Hears from the client what the member was assigned.
struct Member {
    first_topic: String,
    slots: AtomicU32,
    assigned: Mutex<BTreeSet<Place>>,
    share: watch::Sender<Share>,
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ConsumerContext for Member {
    /// What was lost by silence is kept as the share: without Kafka nobody is told to take it up, the work goes on, and
    /// claims see to those who were told. The next assignment holds again.
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let gone = places(list);
            let mut assigned = self.assigned.lock();
            assigned.retain(|place| !gone.contains(place));
            if !consumer.assignment_lost() {
                self.tell(&assigned);
            }
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            let mut assigned = self.assigned.lock();
            assigned.extend(places(list));
            self.tell(&assigned);
        }
    }
}

impl Member {
    fn tell(&self, assigned: &BTreeSet<Place>) {
        let mine = assigned.iter().filter(|(topic, _)| *topic == self.first_topic);
        let slots = mine.filter_map(|(_, partition)| u32::try_from(*partition).ok()).collect();
        self.share.send_replace(Share { slots, of: self.slots.load(Ordering::Relaxed) });
    }

    fn set_slots(&self, slots: u32) {
        let assigned = self.assigned.lock();
        if self.slots.swap(slots, Ordering::Relaxed) != slots {
            self.tell(&assigned);
        }
    }
}

/// Whenever the group is divided anew, looks how many slots there are now, and makes topics that went: a topic may have
/// grown, or been lost with the brokers' disks, and without the first one nobody has a share.
async fn follow_topics(topics: Arc<Topics>, names: Vec<String>, member: Arc<Member>) {
    let mut divided = member.share.subscribe();
    while divided.changed().await.is_ok() {
        loop {
            topics.forget().await;
            match topics.ensure(&names).await {
                Ok(slots) => break member.set_slots(slots.get(&member.first_topic).copied().unwrap_or(1)),
                Err(error) => tracing::debug!(%error, "the topics of a group cannot be looked at"),
            }
            tokio::time::sleep(TOPICS_LOOKED_AT).await;
        }
    }
}

fn places(list: &TopicPartitionList) -> Vec<Place> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

/// One member of one group.
pub(super) struct KafkaSubscription {
    options: Arc<Options>,
    /// Taken when this is dropped, and only then.
    consumer: Option<Arc<StreamConsumer<Member>>>,
    share: watch::Receiver<Share>,
    /// Where the group goes on after each poll that is not acknowledged; beyond [`POLLS_MAX`] after several, with their
    /// number.
    polls: VecDeque<(usize, BTreeMap<Place, i64>)>,
    /// Acknowledged while members came or went, when the group takes no offsets: committed with what comes next.
    uncommitted: BTreeMap<Place, i64>,
    _topics: AbortOnDropHandle<()>,
}

impl std::fmt::Debug for KafkaSubscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSubscription").field("share", &*self.share.borrow()).finish_non_exhaustive()
    }
}

impl KafkaSubscription {
    /// Joins a group. `names` of topics in full.
    pub(super) async fn join(
        options: Arc<Options>,
        group: &str,
        names: Vec<String>,
        topics: Arc<Topics>,
    ) -> Result<KafkaSubscription> {
        let slots = topics.ensure(&names).await?;
        let first_topic = names.first().cloned().unwrap_or_default();
        let (sender, share) = watch::channel(Share::default());
        let member = Member {
            slots: slots.get(&first_topic).copied().unwrap_or(1).into(),
            first_topic,
            assigned: Mutex::default(),
            share: sender,
        };
        let consumer: StreamConsumer<Member> = client(&options)
            .set("group.id", format!("{}{group}", options.prefix))
            .set("session.timeout.ms", SESSION_TIMEOUT.as_millis().to_string())
            .set("heartbeat.interval.ms", HEARTBEAT_INTERVAL.as_millis().to_string())
            .set("max.poll.interval.ms", POLL_INTERVAL_MAX.as_millis().to_string())
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("queued.max.messages.kbytes", FETCHED_AHEAD_KB_MAX)
            .create_with_context(member)
            .map_err(|error| failed(&error))?;
        consumer.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>()).map_err(|error| failed(&error))?;
        let following = tokio::spawn(follow_topics(topics, names, consumer.context().clone()));
        Ok(KafkaSubscription {
            options,
            consumer: Some(Arc::new(consumer)),
            share,
            polls: VecDeque::new(),
            uncommitted: BTreeMap::new(),
            _topics: AbortOnDropHandle::new(following),
        })
    }

    fn consumer(&self) -> &Arc<StreamConsumer<Member>> {
        self.consumer.as_ref().expect("a subscription has its consumer until it is dropped")
    }

    async fn commit(&self, wanted: &BTreeMap<Place, i64>) -> std::result::Result<(), KafkaError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut offsets = TopicPartitionList::with_capacity(wanted.len());
        for ((topic, partition), offset) in wanted {
            offsets.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        let consumer = self.consumer().clone();
        blocking(move || consumer.commit(&offsets, CommitMode::Sync)).await
    }

    fn delivery(&self, message: &BorrowedMessage<'_>) -> Delivery {
        let topic = message.topic();
        Delivery {
            topic: topic.strip_prefix(&self.options.prefix).unwrap_or(topic).to_owned(),
            value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
            place: place(message, self.options.store),
            coordinates: format!("{topic}/{}/{}", message.partition(), message.offset()),
        }
    }
}

/// Whether the group is about to be told anew who has what. A member learns that by polling, and must not stop to.
fn is_rebalance(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::RebalanceInProgress
                | RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::AssignmentLost
        )
    )
}

/// Where the headers say that the log of this store holds the event.
fn place(message: &BorrowedMessage<'_>, store: Uuid) -> Option<(Partition, Position)> {
    let headers = message.headers()?;
    let text = |key: &str| {
        let header = headers.iter().find(|header| header.key == key)?;
        std::str::from_utf8(header.value?).ok()
    };
    if Uuid::parse_str(text(STORE)?).ok()? != store {
        return None;
    }
    Some((Partition(text(PARTITION)?.parse().ok()?), Position(text(POSITION)?.parse().ok()?)))
}

#[async_trait]
impl Subscription for KafkaSubscription {
    async fn poll(&mut self, max: usize) -> Result<Vec<Delivery>> {
        if self.share.has_changed().unwrap_or(false) {
            self.share.borrow_and_update();
            return Ok(Vec::new());
        }
        let consumer = self.consumer().clone();
        let (mut deliveries, mut next, mut bytes) = (Vec::new(), BTreeMap::new(), 0);
        // Both branches are cancel-safe, and nothing is awaited once a message is in hand.
        let first = tokio::select! {
            first = consumer.recv() => first,
            changed = self.share.changed() => {
                // The sender lives as long as the consumer does.
                return changed.map(|()| Vec::new()).map_err(|_| failed(&KafkaError::Canceled));
            }
        };
        let (mut received, mut trouble) = (Some(first), None);
        while let Some(message) = received.take() {
            match message {
                Ok(message) => {
                    next.insert((message.topic().to_owned(), message.partition()), message.offset() + 1);
                    let delivery = self.delivery(&message);
                    bytes += delivery.value.len();
                    deliveries.push(delivery);
                }
                // An outage is told with every attempt to connect: all that queued up meanwhile is one.
                Err(error) => trouble = Some(error),
            }
            if deliveries.len() < max && bytes < POLL_BYTES_MAX {
                received = consumer.recv().now_or_never();
            }
        }
        if let Some(error) = trouble.filter(|_| deliveries.is_empty()) {
            return Err(failed(&error));
        }
        let full = self.polls.len() >= POLLS_MAX;
        match self.polls.back_mut() {
            Some((polls, last)) if full => {
                *polls += 1;
                last.extend(next);
            }
            _ => self.polls.push_back((1, next)),
        }
        Ok(deliveries)
    }

    async fn acknowledge(&mut self, polls: usize) -> Result<()> {
        let mut wanted = self.uncommitted.clone();
        let (mut left, mut whole) = (polls, 0);
        // Of several that count as one, all or none.
        for (polls, next) in &self.polls {
            let Some(rest) = left.checked_sub(*polls) else { break };
            wanted.extend(next.clone());
            (left, whole) = (rest, whole + 1);
        }
        // What is another member's now is its to commit.
        let assigned = self.consumer().context().assigned.lock().clone();
        wanted.retain(|place, _| assigned.contains(place));
        self.uncommitted = match self.commit(&wanted).await {
            Ok(()) => BTreeMap::new(),
            Err(error) if is_rebalance(&error) => wanted,
            Err(error) => return Err(failed(&error)),
        };
        self.polls.drain(..whole);
        if let Some((polls, _)) = self.polls.front_mut() {
            *polls -= left;
        }
        Ok(())
    }

    fn share(&self) -> Share {
        self.share.borrow().clone()
    }
}

impl Drop for KafkaSubscription {
    /// Leaves the group, so that the others take over at once. That takes an answer of the brokers.
    fn drop(&mut self) {
        discard(self.consumer.take());
    }
}
