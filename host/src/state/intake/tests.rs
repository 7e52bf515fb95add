//! The intake on a bus that delivers what a test tells it to.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::port;
use crate::port::bus::Message;
use crate::sandbox::Active;
use crate::tests::{P0, Process, Store, data};

const CONSUMER: &str = "projection_worker:thing_events";

/// Delivers what it is given, and counts what is acknowledged.
#[derive(Debug, Clone, Default)]
struct Script(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    polls: VecDeque<Vec<Delivery>>,
    acknowledged: usize,
    share: Share,
    /// Polls that fail first.
    failures: usize,
}

#[async_trait]
impl Bus for Script {
    fn follows_log(&self) -> bool {
        false
    }

    async fn publish(&self, _: Vec<Message>) -> port::Result<()> {
        Err(away())
    }

    async fn subscribe(&self, group: &str, topics: &[String]) -> port::Result<Box<dyn Subscription>> {
        assert_eq!((group, topics), (CONSUMER, &["thing_events".to_owned()][..]));
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Subscription for Script {
    async fn poll(&mut self, _: usize) -> port::Result<Vec<Delivery>> {
        tokio::task::yield_now().await;
        let mut state = self.0.lock();
        if state.failures > 0 {
            state.failures -= 1;
            return Err(away());
        }
        Ok(state.polls.pop_front().unwrap_or_default())
    }

    async fn acknowledge(&mut self, polls: usize) -> port::Result<()> {
        self.0.lock().acknowledged += polls;
        Ok(())
    }

    fn share(&self) -> Share {
        self.0.lock().share.clone()
    }
}

fn away() -> port::Error {
    port::Error::Unavailable { what: "the bus", reason: "an injected fault".into() }
}

struct Host {
    process: Process,
    script: Script,
    intake: Intake,
    offset: u64,
}

impl Host {
    async fn new() -> Host {
        let process = Store::new().process(Active::default()).await;
        let script = Script::default();
        script.0.lock().share = Share::whole();
        let parts = Parts {
            events: process.events.clone(),
            bus: Arc::new(script.clone()),
            parking: process.parking.clone(),
            progress: process.progress.clone(),
            clock: process.store.clock(),
        };
        process.progress.register(CONSUMER, P0, Position(0));
        let intake = Intake::new(CONSUMER, &["thing_events".to_owned()], parts);
        Host { process, script, intake, offset: 0 }
    }

    async fn note(&self, id: &str, value: u64) -> Record {
        self.process.note("Thing", id, "NOTED", json!({ "value": value })).await
    }

    /// Delivers bytes in one poll, with the places that headers name.
    async fn deliver(&mut self, values: Vec<(Bytes, Option<Position>)>) {
        let poll = values.into_iter().map(|(value, position)| {
            self.offset += 1;
            let coordinates = format!("thing_events/0/{}", self.offset);
            Delivery {
                topic: "thing_events".into(),
                value,
                place: position.map(|position| (P0, position)),
                coordinates,
            }
        });
        let poll = poll.collect();
        self.script.0.lock().polls.push_back(poll);
        self.intake.take().await.unwrap();
    }

    async fn reasons(&self) -> Vec<(String, String)> {
        let letters = port::registry::DeadLetters::list(&self.process.store.letters, None, None, 100).await.unwrap();
        let mut reasons: Vec<_> =
            letters.into_iter().map(|letter| (letter.reason, letter.coordinates.unwrap())).collect();
        reasons.sort();
        reasons
    }
}

/// The same envelope as another producer would write it, with something changed.
fn rewritten(record: &Record, change: impl FnOnce(&mut Value)) -> Bytes {
    let mut envelope: Value = serde_json::from_slice(&record.line).unwrap();
    change(&mut envelope);
    serde_json::to_vec_pretty(&envelope).unwrap().into()
}

#[tokio::test]
async fn messages_are_acknowledged_when_the_checkpoint_has_passed_them() {
    let mut host = Host::new().await;
    let (first, second) = (host.note("a", 1).await, host.note("b", 2).await);
    host.deliver(vec![(second.line.clone(), Some(second.position))]).await;
    host.deliver(vec![(first.line.clone(), Some(first.position))]).await;
    assert_eq!(host.script.0.lock().acknowledged, 0);
    host.process.progress.publish(CONSUMER, P0, Position(1), None);
    host.intake.take().await.unwrap();
    assert_eq!(host.script.0.lock().acknowledged, 0, "the oldest poll waits for the later position");
    host.process.progress.publish(CONSUMER, P0, Position(2), None);
    host.intake.take().await.unwrap();
    assert_eq!(host.script.0.lock().acknowledged, 2);
    assert!(host.reasons().await.is_empty());
}

#[tokio::test]
async fn what_another_member_takes_up_is_not_waited_for() {
    let mut host = Host::new().await;
    let record = host.note("a", 1).await;
    host.deliver(vec![(record.line.clone(), Some(record.position))]).await;
    let share = host.intake.share();
    assert!(share.borrow().takes(P0));
    host.script.0.lock().share = Share { slots: BTreeSet::from([1]), of: 2 };
    host.intake.take().await.unwrap();
    assert!(!share.borrow().takes(P0) && share.borrow().takes(Partition(1)));
    assert_eq!(host.script.0.lock().acknowledged, 1);
}

#[tokio::test]
async fn copies_by_other_producers_change_nothing() {
    let mut host = Host::new().await;
    let (first, second) = (host.note("a", 1).await, host.note("a", 2).await);
    let copies = vec![
        (second.line.clone(), None),
        (first.line.clone(), Some(second.position)),
        (rewritten(&first, |_| {}), None),
        (rewritten(&first, |envelope| envelope["metadata"] = json!({ "kind": "domain", "kafka_topic": "x" })), None),
    ];
    host.deliver(copies.clone()).await;
    host.deliver(copies).await;
    assert!(host.reasons().await.is_empty());
    assert_eq!(host.process.told("Thing", "a").await, ["NOTED", "NOTED"]);
}

#[tokio::test]
async fn what_the_log_does_not_hold_is_noted_once_and_holds_nothing_up() {
    let mut host = Host::new().await;
    let record = host.note("a", 1).await;
    let strangers = vec![
        (Bytes::from_static(b"{not json"), None),
        (Bytes::new(), Some(record.position)),
        (rewritten(&record, |envelope| envelope["data"]["value"] = json!(2)), Some(record.position)),
        (rewritten(&record, |envelope| envelope["event_id"] = json!(Uuid::from_u128(5))), Some(Position(900))),
        (record.line.clone(), Some(record.position)),
    ];
    host.deliver(strangers.clone()).await;
    let at = |reason: &str, offset: u64| (reason.to_owned(), format!("thing_events/0/{offset}"));
    let noted = [at("not-an-envelope", 1), at("not-an-envelope", 2), at("not-in-log", 3), at("not-in-log", 4)].to_vec();
    assert_eq!(host.reasons().await, noted);
    host.offset = 0;
    host.deliver(strangers).await;
    assert_eq!(host.reasons().await, noted, "delivered again, noted once");
    assert!(!host.process.parking.is_parked(CONSUMER, &record.aggregate));
    // Projections have a topic for it, and the relay brings it there.
    let recorded = host.process.stream("Operations", CONSUMER).await;
    assert!(recorded.iter().all(|event| &*event.topic == "projection_failures_dlq"));
    assert_eq!(data(&recorded[2])["coordinates"], "thing_events/0/3");
    assert_eq!(data(&recorded[2])["event_id"], record.event_id.to_string());
    host.process.progress.publish(CONSUMER, P0, Position(1), None);
    host.intake.take().await.unwrap();
    assert_eq!(host.script.0.lock().acknowledged, 2, "a stranger is acknowledged like the rest");
}

#[tokio::test]
async fn a_stranger_can_be_discarded_and_changes_nothing_of_what_it_names() {
    let mut host = Host::new().await;
    let command = host.process.send("Thing", "a", "TOUCH", json!({})).await;
    host.deliver(vec![(rewritten(&command, |envelope| envelope["sequence_number"] = json!(7)), None)]).await;
    let letters =
        port::registry::DeadLetters::list(&host.process.store.letters, Some("parked"), None, 9).await.unwrap();
    assert_eq!((letters.len(), letters[0].event_id), (1, Some(command.event_id)));
    host.process.parking.discard(letters[0].id, "rubbish", "operator").await.unwrap();
    assert!(host.process.outcome(command.event_id).await.is_empty(), "the command itself waits for its worker");
    let left = port::registry::DeadLetters::list(&host.process.store.letters, Some("parked"), None, 9).await.unwrap();
    assert!(left.is_empty());
}

#[tokio::test]
async fn a_bus_that_is_away_is_told_and_asked_again() {
    let host = Host::new().await;
    host.script.0.lock().failures = 3;
    let (mut trouble, stop) = (host.intake.trouble(), CancellationToken::new());
    let (clock, ticking) = (host.process.store.clone(), stop.clone());
    let running = tokio::spawn(host.intake.run(stop.clone()));
    let ticks = tokio::spawn(async move {
        while !ticking.is_cancelled() {
            clock.advance(100);
            tokio::task::yield_now().await;
        }
    });
    trouble.wait_for(|trouble| trouble.as_ref().is_some_and(|words| words.contains("injected"))).await.unwrap();
    trouble.wait_for(Option::is_none).await.unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
    ticks.await.unwrap();
}
