//! The auditor's own memory: the log as the object store holds it, and what follows from it. Every committed segment,
//! every claim marked done, every checkpoint and every published message is checked the moment it happens. Shares no
//! rule with the code under test: the rules are written again here, plainly, from the contract.
//!
//! Partitions have positions of their own; facts are kept in the order in which they became durable, whatever their
//! partition, and *place* means a place in that order.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use uuid::Uuid;

use super::executor::Sim;
use crate::codec::checkpoint::Checkpoint;
use crate::codec::segment::{self, Segment};
use crate::domain::{Digest, EventKind, Partition, Position, derived_id};
use crate::event_store::Expected;
use crate::port::read_model::builds::plain;

/// Stream type of what operators and the host did to consumers.
const OPERATIONS: &str = "Operations/";
/// Stream type of the deployment history.
const HANDLER: &str = "Handler/";

/// What a consumer is to handle.
#[derive(Debug, Clone)]
pub struct Consumed {
    pub consumer: &'static str,
    pub topic: &'static str,
    pub kind: EventKind,
}

/// An event of the log.
#[derive(Debug, Clone)]
pub struct Fact {
    pub position: u64,
    pub id: Uuid,
    pub aggregate: String,
    pub kind: EventKind,
    pub event_type: String,
    pub topic: String,
    pub command_id: Option<Uuid>,
    pub sequence: u64,
    pub line: Bytes,
}

/// Numbers of an aggregate that expectations are judged by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Head {
    pub last: u64,
    pub last_command: u64,
    pub last_domain: u64,
    /// Last domain event that is not the outcome of a command of this stream.
    last_foreign: u64,
}

impl Head {
    /// Whether an expectation is right here (contract §2).
    pub fn accepts(&self, expected: Expected) -> bool {
        match expected {
            Expected::Any => true,
            Expected::Missing | Expected::Chained => false,
            Expected::Client(n) => {
                n == self.last || (n > 0 && n == self.last_command && self.last_foreign < self.last_command)
            }
            Expected::LastDomain(n) => n.0 == self.last_domain,
            Expected::Exactly(n) => n.0 == self.last,
        }
    }
}

/// One partition of the log.
#[derive(Debug, Default)]
struct Line {
    segments: u64,
    digest: Option<Digest>,
    /// Place of the event at each position.
    places: Vec<usize>,
    /// Positions the bus has acknowledged.
    published: HashSet<u64>,
    /// The relay's checkpoint.
    relayed: u64,
}

/// A version that was put in charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    pub revision: u64,
    pub digest: Digest,
    pub place: usize,
}

/// The log, and what was told about it.
#[derive(Debug)]
pub struct Truth {
    sim: Sim,
    consumed: Vec<Consumed>,
    lines: Vec<Line>,
    pub facts: Vec<Fact>,
    /// Place of every event id.
    pub places: HashMap<Uuid, usize>,
    /// Places of the events of each aggregate.
    pub streams: HashMap<String, Vec<usize>>,
    /// Places of the outcome of each command.
    pub outcomes: HashMap<Uuid, Vec<usize>>,
    /// Activations of each handler, oldest first.
    pub activations: BTreeMap<String, Vec<Activation>>,
    /// Aggregates that a consumer ever parked.
    ever_parked: HashSet<(String, String)>,
}

impl Truth {
    pub fn new(sim: Sim, partitions: u16, consumed: Vec<Consumed>) -> Truth {
        Truth {
            sim,
            consumed,
            lines: (0..partitions).map(|_| Line::default()).collect(),
            facts: Vec::new(),
            places: HashMap::new(),
            streams: HashMap::new(),
            outcomes: HashMap::new(),
            activations: BTreeMap::new(),
            ever_parked: HashSet::new(),
        }
    }

    pub fn partitions(&self) -> u16 {
        u16::try_from(self.lines.len()).expect("made from a u16")
    }

    /// The position behind the last event of a partition.
    pub fn end(&self, partition: Partition) -> u64 {
        self.lines[usize::from(partition.0)].places.len() as u64
    }

    /// Events of all partitions.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// The head of an aggregate after so many events of the log.
    pub fn head_at(&self, aggregate: &str, events: usize) -> Head {
        let mut head = Head::default();
        for place in self.streams.get(aggregate).into_iter().flatten().take_while(|place| **place < events) {
            let fact = &self.facts[*place];
            head.last = fact.sequence;
            match fact.kind {
                EventKind::Command => head.last_command = fact.sequence,
                EventKind::Domain => {
                    head.last_domain = fact.sequence;
                    let command = fact.command_id.and_then(|id| self.places.get(&id)).map(|at| &self.facts[*at]);
                    if command.is_none_or(|command| command.aggregate != aggregate) {
                        head.last_foreign = fact.sequence;
                    }
                }
            }
        }
        head
    }

    /// A segment became durable.
    pub fn committed(&mut self, bytes: &Bytes) {
        let segment = match segment::decode(bytes.clone()) {
            Ok(segment) => segment,
            Err(error) => return self.sim.broken("I1", format!("a segment that cannot be read: {error}")),
        };
        let header = &segment.header;
        let Some(line) = self.lines.get_mut(usize::from(header.partition.0)) else {
            return self.sim.broken("I1", format!("a segment of partition {}", header.partition));
        };
        if header.segment.0 != line.segments {
            self.sim.broken("I1", format!("segment {} where {} comes next", header.segment, line.segments));
        }
        if header.prev_digest != line.digest.unwrap_or(segment::NO_DIGEST) {
            self.sim.broken("I1", format!("segment {} does not follow the one before", header.segment));
        }
        if header.first_position.0 != line.places.len() as u64 {
            self.sim.broken("I2", format!("segment {} begins at {}", header.segment, header.first_position));
        }
        line.segments += 1;
        line.digest = Some(segment.digest);
        self.take(&segment);
    }

    fn take(&mut self, segment: &Segment) {
        let begin = self.facts.len();
        let (partition, partitions) = (segment.header.partition, self.partitions());
        for event in &segment.events {
            let place = self.facts.len();
            let aggregate = event.aggregate.to_string();
            if Partition::of(&event.aggregate, partitions) != partition {
                self.sim.broken("I2", format!("{aggregate} has an event in partition {partition}"));
            }
            let line = &mut self.lines[usize::from(partition.0)].places;
            let position = line.len() as u64;
            line.push(place);
            let stream = self.streams.entry(aggregate.clone()).or_default();
            if event.sequence.0 != stream.len() as u64 + 1 {
                self.sim.broken("I2", format!("{aggregate} has no gapless numbers at {}", event.sequence));
            }
            stream.push(place);
            if self.places.insert(event.event_id, place).is_some() {
                self.sim.broken("I4", format!("event {} has two positions", event.event_id));
            }
            self.facts.push(Fact {
                position,
                id: event.event_id,
                aggregate,
                kind: event.kind,
                event_type: event.event_type.to_string(),
                topic: event.topic.to_string(),
                command_id: event.command_id,
                sequence: event.sequence.0,
                line: event.line.clone(),
            });
        }
        for place in begin..self.facts.len() {
            let fact = self.facts[place].clone();
            if fact.aggregate.starts_with(OPERATIONS) {
                self.operated(&fact);
            } else if let Some(name) = fact.aggregate.strip_prefix(HANDLER) {
                self.deployed(name, &fact, place);
            } else if fact.kind == EventKind::Domain {
                self.decided(&fact, place, begin);
            }
        }
    }

    fn operated(&mut self, fact: &Fact) {
        let envelope: serde_json::Value = serde_json::from_slice(&fact.line).expect("an envelope");
        let text = |name: &str| envelope["data"][name].as_str().unwrap_or_default().to_owned();
        let aggregate = format!("{}/{}", text("aggregate_type"), text("aggregate_id"));
        self.ever_parked.insert((text("handler"), aggregate));
    }

    /// Activations are numbered without gap, and say what was in charge before.
    fn deployed(&mut self, name: &str, fact: &Fact, place: usize) {
        if fact.event_type != "HANDLER_ACTIVATED" {
            return;
        }
        let envelope: serde_json::Value = serde_json::from_slice(&fact.line).expect("an envelope");
        let data = &envelope["data"];
        let digest = |name: &str| data[name].as_str().and_then(|text| text.parse::<Digest>().ok());
        let known = self.activations.entry(name.to_owned()).or_default();
        let revision = data["revision"].as_u64().unwrap_or_default();
        match digest("digest") {
            Some(now)
                if revision == known.len() as u64 + 1
                    && digest("previous") == known.last().map(|before| before.digest) =>
            {
                known.push(Activation { revision, digest: now, place });
            }
            _ => self.sim.broken("deployment", format!("{name}: {data} follows {known:?}")),
        }
    }

    /// One outcome for each command, whole, with derived ids, in the order of the aggregate's commands.
    fn decided(&mut self, fact: &Fact, place: usize, segment_begin: usize) {
        let Some(command_id) = fact.command_id else {
            return self.sim.broken("I6", format!("event {} is the outcome of nothing", fact.id));
        };
        let outcome = self.outcomes.entry(command_id).or_default();
        if fact.id != derived_id::domain_event(command_id, outcome.len()) {
            self.sim.broken("I6", format!("command {command_id} has a second outcome, {}", fact.event_type));
        }
        if outcome.first().is_some_and(|first| *first < segment_begin) {
            self.sim.broken("I6", format!("the outcome of command {command_id} was not written at once"));
        }
        let is_first = outcome.is_empty();
        outcome.push(place);
        let Some(command) = self.places.get(&command_id).map(|at| &self.facts[*at]) else {
            return self.sim.broken("I6", format!("the outcome of command {command_id} without the command"));
        };
        if !is_first {
            return;
        }
        let before = self.streams[&fact.aggregate].iter().map(|at| &self.facts[*at]);
        for earlier in before.filter(|earlier| earlier.kind == EventKind::Command) {
            if earlier.sequence < command.sequence && !self.outcomes.contains_key(&earlier.id) {
                let (earlier, later) = (earlier.sequence, command.sequence);
                let aggregate = &fact.aggregate;
                self.sim.broken("order", format!("{aggregate}: command {later} is decided before {earlier}"));
            }
        }
    }

    fn of(&self, consumer: &str) -> Option<&Consumed> {
        self.consumed.iter().find(|consumed| consumed.consumer == plain(consumer))
    }

    /// Whether a consumer decides commands.
    pub fn is_worker(&self, consumer: &str) -> bool {
        self.of(consumer).is_some_and(|consumed| consumed.kind == EventKind::Command)
    }

    /// A worker's row says done.
    pub fn done(&self, consumer: &str, event_id: Uuid) {
        if self.is_worker(consumer) && !self.outcomes.contains_key(&event_id) {
            self.sim.broken("I6", format!("{consumer}: {event_id} is done and has no outcome"));
        }
    }

    /// A consumer says that everything below has had its effect. `effects`: events applied to the read model.
    pub fn checkpoint(
        &self,
        consumer: &str,
        partition: Partition,
        position: Position,
        effects: &HashSet<(String, Uuid)>,
    ) {
        if position.0 > self.end(partition) {
            return self.sim.broken("I7", format!("{consumer} is at {partition}/{position}, ahead of the log"));
        }
        let Some(consumed) = self.of(consumer) else { return };
        let below = usize::try_from(position.0).expect("a run is short");
        for place in &self.lines[usize::from(partition.0)].places[..below] {
            let fact = &self.facts[*place];
            let is_its = fact.kind == consumed.kind
                && fact.topic == consumed.topic
                && !(fact.kind == EventKind::Domain && fact.event_type.starts_with("COMMAND_"));
            if !is_its {
                continue;
            }
            let has_effect = match consumed.kind {
                EventKind::Command => self.outcomes.contains_key(&fact.id),
                EventKind::Domain => effects.contains(&(consumer.to_owned(), fact.id)),
            };
            if !has_effect && !self.ever_parked.contains(&(consumer.to_owned(), fact.aggregate.clone())) {
                let (event, at) = (&fact.event_type, fact.position);
                let words = format!("{consumer} says {partition}/{position}, and {event} at {at} has no effect");
                return self.sim.broken("I7", words);
            }
        }
    }

    /// The bus acknowledged a message.
    pub fn published(&mut self, partition: Partition, position: Position, value: &Bytes) {
        let line = self.lines.get_mut(usize::from(partition.0));
        let place = line.as_ref().and_then(|line| line.places.get(usize::try_from(position.0).ok()?));
        match place.map(|place| &self.facts[*place]) {
            Some(fact) if fact.line == *value => {
                line.expect("it has the place").published.insert(position.0);
            }
            _ => self.sim.broken("I1", format!("the bus carries at {partition}/{position} what the log does not hold")),
        }
    }

    /// The relay's checkpoint was written.
    pub fn relayed(&mut self, bytes: &Bytes) {
        let Ok(checkpoint) = Checkpoint::decode(bytes) else {
            return self.sim.broken("I7", "a relay checkpoint that cannot be read".into());
        };
        for (partition, line) in self.lines.iter_mut().enumerate() {
            let place = u16::try_from(partition).ok().and_then(|partition| checkpoint.partitions.get(&partition));
            let (before, now) = (line.relayed, place.map_or(0, |place| place.position.0));
            if now < before {
                self.sim
                    .broken("I7", format!("the relay's checkpoint of {partition} moves from {before} back to {now}"));
            }
            if let Some(missing) = (before..now).find(|at| !line.published.contains(at)) {
                let words =
                    format!("the relay's checkpoint of {partition} is {now}, and {missing} was not acknowledged");
                self.sim.broken("I7", words);
            }
            line.relayed = now;
        }
    }

    /// Where the relay is not at the end, in words.
    pub fn not_relayed(&self) -> Option<String> {
        let behind = |line: &&Line| line.relayed < line.places.len() as u64;
        let line = self.lines.iter().find(behind)?;
        Some(format!("the relay is at {} of {}", line.relayed, line.places.len()))
    }
}
