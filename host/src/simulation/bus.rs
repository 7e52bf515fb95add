//! The bus between processes: keeps what was published, delivers it at least once, again and out of order across keys.
//! Half of the runs divide the log among the members of a group, slot by slot, and change their mind now and then; in
//! the others everybody takes up everything.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::world::{World, away};
use crate::port::Result;
use crate::port::bus::{Bus, Delivery, Message, Share, Subscription};

const WHAT: &str = "the bus";
/// How far back a group may be thrown.
const AGAIN_MAX: u64 = 20;

/// What was published, and the groups that read it.
#[derive(Debug, Default)]
pub struct Topics {
    /// Into how many slots the log is divided, each of which one member of a group has to itself.
    slots: Option<usize>,
    messages: Mutex<Vec<Message>>,
    groups: Mutex<HashMap<String, Group>>,
    members: Mutex<u64>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Group {
    acknowledged: usize,
    members: Vec<u64>,
    /// Who has each slot, when the log is divided.
    holders: Vec<Option<u64>>,
}

impl Topics {
    pub fn new(slots: Option<usize>) -> Topics {
        Topics { slots, ..Topics::default() }
    }

    fn share(&self, group: &str, member: u64) -> Share {
        let Some(slots) = self.slots else { return Share::whole() };
        let groups = self.groups.lock();
        let holders = groups.get(group).into_iter().flat_map(|group| group.holders.iter().enumerate());
        let held = holders.filter(|(_, holder)| **holder == Some(member));
        let number = |count: usize| u32::try_from(count).expect("a few slots");
        Share { slots: held.map(|(slot, _)| number(slot)).collect(), of: number(slots) }
    }

    fn change(&self, group: &str, change: impl FnOnce(&mut Group)) {
        change(self.groups.lock().entry(group.to_owned()).or_default());
        self.more.notify_waiters();
    }
}

#[derive(Debug)]
pub struct SimBus {
    pub world: Arc<World>,
    pub who: String,
}

#[async_trait]
impl Bus for SimBus {
    fn follows_log(&self) -> bool {
        false
    }

    async fn publish(&self, messages: Vec<Message>) -> Result<()> {
        let sim = &self.world.sim;
        sim.hop().await;
        let all = messages.len();
        let fails = self.world.strikes(|faults| faults.before);
        let taken = if fails { sim.draw(|random| random.index(all + 1)) } else { all };
        let first = messages.first().map_or(0, |message| message.position.0);
        sim.note(&self.who, "publish", taken as u64, || format!("of {all} from {first}"));
        for message in &messages[..taken] {
            let twice = self.world.strikes(|faults| faults.again);
            self.world.topics.messages.lock().extend(std::iter::repeat_n(message.clone(), 1 + usize::from(twice)));
            sim.hop().await;
        }
        self.world.topics.more.notify_waiters();
        if fails || self.world.strikes(|faults| faults.after) {
            return away(WHAT);
        }
        for message in &messages {
            self.world.truth.lock().published(message.partition, message.position, &message.value);
        }
        sim.hop().await;
        Ok(())
    }

    async fn subscribe(&self, group: &str, topics: &[String]) -> Result<Box<dyn Subscription>> {
        let member = {
            let mut members = self.world.topics.members.lock();
            *members += 1;
            *members
        };
        let mut at = 0;
        let slots = self.world.topics.slots.unwrap_or_default();
        let taken: Vec<bool> = self.world.sim.draw(|random| (0..slots).map(|_| random.chance(600)).collect());
        self.world.topics.change(group, |group| {
            group.members.push(member);
            group.holders.resize(slots, None);
            for (holder, taken) in group.holders.iter_mut().zip(taken) {
                if taken || holder.is_none() {
                    *holder = Some(member);
                }
            }
            at = group.acknowledged;
        });
        Ok(Box::new(SimSubscription {
            world: self.world.clone(),
            member,
            group: group.to_owned(),
            topics: topics.to_vec(),
            at,
            polled: VecDeque::new(),
            share: Share::default(),
        }))
    }
}

/// One member of a group; every member sees every message, which is worse than what a real bus does.
#[derive(Debug)]
struct SimSubscription {
    world: Arc<World>,
    member: u64,
    group: String,
    topics: Vec<String>,
    at: usize,
    /// How far each poll that is not acknowledged came.
    polled: VecDeque<usize>,
    share: Share,
}

impl SimSubscription {
    fn take(&mut self, max: usize) -> Vec<Message> {
        if self.at > 0 && self.world.strikes(|faults| faults.again / 4) {
            let back = self.world.sim.draw(|random| random.below(AGAIN_MAX));
            self.at = self.at.saturating_sub(usize::try_from(back).expect("a small number"));
        }
        let messages = self.world.topics.messages.lock();
        let mut taken = Vec::new();
        while taken.len() < max && self.at < messages.len() {
            let message = &messages[self.at];
            if self.topics.contains(&message.topic) {
                taken.push(message.clone());
            }
            self.at += 1;
        }
        drop(messages);
        for place in 1..taken.len() {
            if taken[place].key != taken[place - 1].key && self.world.strikes(|faults| faults.again) {
                taken.swap(place, place - 1);
            }
        }
        taken
    }

    /// Now and then another member gets a slot.
    fn rebalance(&self) {
        let Some(slots) = self.world.topics.slots else { return };
        if self.world.strikes(|faults| faults.again / 8) {
            let sim = &self.world.sim;
            self.world.topics.change(&self.group, |group| {
                let (slot, member) = sim.draw(|random| (random.index(slots), random.pick(&group.members)));
                group.holders[slot] = Some(member);
            });
        }
    }
}

impl Drop for SimSubscription {
    fn drop(&mut self) {
        self.world.topics.change(&self.group, |group| {
            group.members.retain(|member| *member != self.member);
            for holder in group.holders.iter_mut().filter(|holder| **holder == Some(self.member)) {
                *holder = group.members.first().copied();
            }
        });
    }
}

#[async_trait]
impl Subscription for SimSubscription {
    async fn poll(&mut self, max: usize) -> Result<Vec<Delivery>> {
        let world = self.world.clone();
        self.rebalance();
        loop {
            let more = world.topics.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            let share = world.topics.share(&self.group, self.member);
            if share != self.share {
                self.share = share;
                return Ok(Vec::new());
            }
            let taken = self.take(max);
            if !taken.is_empty() {
                if world.strikes(|faults| faults.before) {
                    return away(WHAT);
                }
                self.polled.push_back(self.at);
                return Ok(taken.into_iter().map(delivery).collect());
            }
            more.await;
        }
    }

    async fn acknowledge(&mut self, polls: usize) -> Result<()> {
        self.world.sim.hop().await;
        if self.world.strikes(|faults| faults.before) {
            return away(WHAT);
        }
        let Some(at) = self.polled.drain(..polls.min(self.polled.len())).next_back() else { return Ok(()) };
        self.world.topics.change(&self.group, |group| group.acknowledged = at.max(group.acknowledged));
        Ok(())
    }

    fn share(&self) -> Share {
        self.share.clone()
    }
}

fn delivery(message: Message) -> Delivery {
    Delivery {
        coordinates: format!("{}/{}/{}", message.topic, message.partition, message.position),
        topic: message.topic,
        value: message.value,
        place: Some((message.partition, message.position)),
    }
}
