//! The aggregate: an order is created once, then updated by whoever knows its version.

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent, EventEnvelope};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    pub customer: String,
    pub product: String,
    pub quantity: u32,
    pub price: f64,
    pub currency: String,
    pub note: String,
}

#[derive(Debug)]
pub enum Command {
    Create(Data),
    Update { expected: u64, data: Data },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    Created(Data),
    Updated(Data),
}

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        match self {
            Event::Created(_) => "Created".into(),
            Event::Updated(_) => "Updated".into(),
        }
    }

    fn event_version(&self) -> String {
        "1".into()
    }
}

#[derive(Debug, PartialEq)]
pub struct Conflict {
    expected: u64,
    found: u64,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected version {}, found {}", self.expected, self.found)
    }
}

impl std::error::Error for Conflict {}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Order {
    version: u64,
    data: Data,
}

impl Aggregate for Order {
    const TYPE: &'static str = "order";
    type Command = Command;
    type Event = Event;
    type Error = Conflict;
    type Services = ();

    async fn handle(&mut self, command: Command, _: &(), sink: &EventSink<Self>) -> Result<(), Conflict> {
        let (expected, event) = match command {
            Command::Create(data) => (0, Event::Created(data)),
            Command::Update { expected, data } => (expected, Event::Updated(data)),
        };
        if self.version != expected {
            return Err(Conflict { expected, found: self.version });
        }
        sink.write(event, self).await;
        Ok(())
    }

    fn apply(&mut self, event: Event) {
        self.version += 1;
        let (Event::Created(data) | Event::Updated(data)) = event;
        self.data = data;
    }
}

/// What is read of an order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct View {
    version: u64,
    data: Data,
}

impl cqrs_es::View<Order> for View {
    fn update(&mut self, event: &EventEnvelope<Order>) {
        self.version = event.sequence as u64;
        let (Event::Created(data) | Event::Updated(data)) = &event.payload;
        self.data.clone_from(data);
    }
}
