//! The in-process bus: queues in memory, one per member of a group. Bounded by messages and bytes; a full queue makes
//! the publisher wait (I10). Nothing outlives the process: after a restart consumers catch up from the log by
//! themselves, and a group that subscribes later gets what is published from then on.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Bus, Delivery, Message, Share, Subscription};
use crate::port::Result;

/// Bounds of the queue of one group.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Messages that may wait for, or be unacknowledged by, one group.
    pub messages_max: usize,
    /// Their bytes. One message more than this alone passes when nothing else waits.
    pub bytes_max: usize,
}

impl Default for Options {
    /// A few batches of the relay: enough that consumers never wait for it, small enough to be forgotten.
    fn default() -> Self {
        Options { messages_max: 4096, bytes_max: 16 * 1024 * 1024 }
    }
}

/// A bus within this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct InProcessBus {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    groups: Mutex<HashMap<String, Group>>,
    /// Room may have come free, or a group may have gone.
    room: Notify,
    /// Keeps messages of concurrent publishers whole: each is taken by all groups at one place in the order.
    publishing: tokio::sync::Mutex<()>,
}

/// A group lives while it has members.
#[derive(Debug, Default)]
struct Group {
    members: Vec<Member>,
    next_member: u64,
    messages: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Member {
    id: u64,
    topics: Vec<String>,
    waiting: VecDeque<Arc<Message>>,
    /// Polled and not acknowledged, by poll.
    given: VecDeque<Vec<Arc<Message>>>,
    ready: Arc<Notify>,
}

impl InProcessBus {
    /// An empty bus.
    pub fn new(options: Options) -> InProcessBus {
        let shared = Shared {
            options,
            groups: Mutex::default(),
            room: Notify::new(),
            publishing: tokio::sync::Mutex::default(),
        };
        InProcessBus { shared: Arc::new(shared) }
    }

    /// Messages that the group has not acknowledged, for metrics.
    pub fn unacknowledged(&self, group: &str) -> usize {
        self.shared.groups.lock().get(group).map_or(0, |group| group.messages)
    }
}

impl Default for InProcessBus {
    fn default() -> Self {
        InProcessBus::new(Options::default())
    }
}

#[async_trait]
impl Bus for InProcessBus {
    fn follows_log(&self) -> bool {
        true
    }

    /// Dropped half-way, a prefix was taken.
    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        let _turn = self.shared.publishing.lock().await;
        for message in messages {
            let message = Arc::new(message);
            let room = self.shared.room.notified();
            tokio::pin!(room);
            loop {
                // Registered before the look, so that room which comes free in between is not missed.
                room.as_mut().enable();
                if self.shared.offer(&message) {
                    break;
                }
                room.as_mut().await;
                room.set(self.shared.room.notified());
            }
        }
        Ok(())
    }

    async fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>> {
        let ready = Arc::new(Notify::new());
        let mut groups = self.shared.groups.lock();
        let state = groups.entry(group.to_owned()).or_default();
        let member = state.next_member;
        state.next_member += 1;
        state.members.push(Member {
            id: member,
            topics: topics.to_vec(),
            waiting: VecDeque::new(),
            given: VecDeque::new(),
            ready: Arc::clone(&ready),
        });
        state.spread();
        Ok(Box::new(InProcessSubscription { shared: Arc::clone(&self.shared), group: group.to_owned(), member, ready }))
    }
}

impl Shared {
    /// Gives the message to every group that wants it, or to none when one has no room.
    fn offer(&self, message: &Arc<Message>) -> bool {
        let mut groups = self.groups.lock();
        let full = |group: &Group| {
            group.messages >= self.options.messages_max
                || (group.messages > 0 && group.bytes + size(message) > self.options.bytes_max)
        };
        if groups.values().any(|group| group.wants(&message.topic) && full(group)) {
            return false;
        }
        for group in groups.values_mut() {
            if let Some(member) = group.member_for(message) {
                member.waiting.push_back(Arc::clone(message));
                member.ready.notify_one();
                group.messages += 1;
                group.bytes += size(message);
            }
        }
        true
    }
}

impl Group {
    fn wants(&self, topic: &str) -> bool {
        self.members.iter().any(|member| member.wants(topic))
    }

    /// One key always goes to the same member, as long as no member comes or goes.
    fn member_for(&mut self, message: &Message) -> Option<&mut Member> {
        let willing = self.members.iter().filter(|member| member.wants(&message.topic)).count();
        let slot = usize::try_from(key_hash(&message.key) % u64::try_from(willing.max(1)).ok()?).ok()?;
        self.members.iter_mut().filter(|member| member.wants(&message.topic)).nth(slot)
    }

    /// Deals what waits out anew, after a member came or went. What waits of one key waited with one member, so it
    /// stays in order; what the old member has in hand may still be unfinished, as in any rebalancing.
    fn spread(&mut self) {
        let waiting: Vec<_> = self.members.iter_mut().flat_map(|member| member.waiting.drain(..)).collect();
        for message in waiting {
            match self.member_for(&message) {
                Some(member) => {
                    member.waiting.push_back(message);
                    member.ready.notify_one();
                }
                None => self.forget(&message),
            }
        }
    }

    fn forget(&mut self, message: &Message) {
        self.messages -= 1;
        self.bytes -= size(message);
    }
}

impl Member {
    fn wants(&self, topic: &str) -> bool {
        self.topics.iter().any(|wanted| wanted == topic)
    }
}

/// A member of a group. When it is dropped, what it had not acknowledged goes to the other members; without others the
/// group ends, and a later one starts from then on.
#[derive(Debug)]
pub struct InProcessSubscription {
    shared: Arc<Shared>,
    group: String,
    member: u64,
    ready: Arc<Notify>,
}

impl InProcessSubscription {
    fn take(&self, max: usize) -> Vec<Arc<Message>> {
        let mut groups = self.shared.groups.lock();
        let member =
            groups.get_mut(&self.group).and_then(|group| group.members.iter_mut().find(|m| m.id == self.member));
        let Some(member) = member else { return Vec::new() };
        let count = max.max(1).min(member.waiting.len());
        let taken: Vec<_> = member.waiting.drain(..count).collect();
        if !taken.is_empty() {
            member.given.push_back(taken.clone());
        }
        taken
    }
}

#[async_trait]
impl Subscription for InProcessSubscription {
    async fn poll(&mut self, max: usize) -> Result<Vec<Delivery>> {
        loop {
            let ready = self.ready.notified();
            let taken = self.take(max);
            if !taken.is_empty() {
                return Ok(taken.iter().map(delivery).collect());
            }
            ready.await;
        }
    }

    async fn acknowledge(&mut self, polls: usize) -> Result<()> {
        let mut groups = self.shared.groups.lock();
        if let Some(group) = groups.get_mut(&self.group)
            && let Some(member) = group.members.iter_mut().find(|member| member.id == self.member)
        {
            let polls = polls.min(member.given.len());
            let done: Vec<_> = member.given.drain(..polls).flatten().collect();
            done.iter().for_each(|message| group.forget(message));
        }
        drop(groups);
        self.shared.room.notify_waiters();
        Ok(())
    }

    /// Every member looks after every partition: within a process nothing is divided.
    fn share(&self) -> Share {
        Share::whole()
    }
}

impl Drop for InProcessSubscription {
    fn drop(&mut self) {
        let mut groups = self.shared.groups.lock();
        if let Some(group) = groups.get_mut(&self.group) {
            if let Some(place) = group.members.iter().position(|member| member.id == self.member) {
                let gone = group.members.remove(place);
                // It is older than what the others got when this member had it in hand: it comes first, in its order.
                let left: Vec<_> = gone.given.into_iter().flatten().chain(gone.waiting).collect();
                for message in left.into_iter().rev() {
                    match group.member_for(&message) {
                        Some(member) => {
                            member.waiting.push_front(message);
                            member.ready.notify_one();
                        }
                        None => group.forget(&message),
                    }
                }
                group.spread();
            }
            if group.members.is_empty() {
                groups.remove(&self.group);
            }
        }
        drop(groups);
        self.shared.room.notify_waiters();
    }
}

fn delivery(message: &Arc<Message>) -> Delivery {
    Delivery {
        coordinates: format!("{}/{}/{}", message.topic, message.partition, message.position),
        topic: message.topic.clone(),
        value: message.value.clone(),
        place: Some((message.partition, message.position)),
    }
}

fn size(message: &Message) -> usize {
    message.value.len() + message.key.len() + message.topic.len()
}

fn key_hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
