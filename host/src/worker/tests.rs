//! Workers over a store in memory: who decides what, how often, and what remains when something fails.
#![allow(clippy::unwrap_used)]

mod parked;
mod reads;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::domain::{Aggregate, Position, derived_id};
use crate::sandbox::{Active, Handler};
use crate::state::Consumer;
use crate::state::consumer::Options;
use crate::tests::components::{abuse, active, narrow, sandbox, together, variant};
use crate::tests::{P0, Process, Store};

const CONSUMER: &str = "abuse:Thing";
const THING: &str = "Thing";
const ATTEMPTS_MAX: u32 = 3;

fn decider() -> Arc<Handler> {
    sandbox().load(&abuse("decider")).unwrap()
}

/// The same handler with a limit that is set too low for [`large`].
fn narrow_decider() -> Arc<Handler> {
    narrow().load(&abuse("decider")).unwrap()
}

fn small() -> Value {
    json!({"amount": 1, "note": "n", "tags": []})
}

fn large() -> Value {
    json!({"amount": 1, "note": "n".repeat(crate::tests::components::NARROW_BYTES), "tags": []})
}

fn options() -> Options {
    Options {
        consumer: CONSUMER.into(),
        topics: vec!["thing_commands".into()],
        build: None,
        attempts_max: ATTEMPTS_MAX,
        lease_ms: 30_000,
        heartbeat_interval: Duration::from_secs(10),
        batch_max: 100,
        batches_max: 3,
        pace: Duration::ZERO,
    }
}

async fn worker_with(process: &Process, options: Options) -> Consumer<Worker> {
    Consumer::open(options, process.parts(), P0, Worker::new(process.states.clone())).await.unwrap()
}

async fn worker(process: &Process) -> Consumer<Worker> {
    worker_with(process, options()).await
}

/// Ids of the commands of an aggregate in the order of their outcomes.
async fn decided(process: &Process, id: &str) -> Vec<uuid::Uuid> {
    process.stream(THING, id).await.iter().filter_map(|record| record.command_id).collect()
}

#[tokio::test]
async fn a_command_gets_its_outcome_once_and_its_row() {
    let process = Store::new().process(together([decider()])).await;
    let command = process.send(THING, "a", "ECHO", small()).await;
    let mut worker = worker(&process).await;
    worker.settle(&process).await;
    assert_eq!(process.outcome(command.event_id).await, ["NOTED"]);
    worker.go_back(Position(0));
    worker.settle(&process).await;
    assert_eq!(process.told(THING, "a").await, ["NOTED"]);
    assert_eq!(process.store.rows(CONSUMER, "done").await.len(), 1);
    assert_eq!(worker.stored_checkpoint(&process).await, process.events.end(P0));
    assert_eq!(process.progress.get(CONSUMER, P0), Some(process.events.end(P0)));
}

#[tokio::test]
async fn commands_of_one_aggregate_are_decided_in_their_order() {
    let process = Store::new().process(together([decider()])).await;
    let mut sent = Vec::new();
    for _ in 0..7 {
        sent.push(process.send(THING, "a", "ECHO", small()).await.event_id);
        process.send(THING, "b", "ECHO", small()).await;
    }
    // Fewer than one aggregate has: the rest is taken up by itself.
    let mut worker = worker_with(&process, Options { batch_max: 3, ..options() }).await;
    worker.settle(&process).await;
    assert_eq!(decided(&process, "a").await, sent);
    assert_eq!(process.told(THING, "b").await.len(), 7);
    let folded = process.states.load(&Aggregate::parse(THING, "a").unwrap()).await.unwrap();
    assert_eq!(folded.state.unwrap().to_value()["balance"], 7);
    assert_eq!(process.store.rows(CONSUMER, "done").await.len(), 14);
}

#[tokio::test]
async fn what_the_log_shows_decided_is_not_decided_again() {
    let store = Store::new();
    let process = store.process(together([decider()])).await;
    for id in ["a", "b", "a", "a"] {
        process.send(THING, id, "ECHO", large()).await;
    }
    worker(&process).await.settle(&process).await;
    let end = process.events.end(P0);
    // The database is lost, and the handler of today would fail on every one of them, at once for good.
    let store = store.without_database();
    let process = store.run(2, together([narrow_decider()])).await;
    let strict = Options { attempts_max: 1, batch_max: 1, ..options() };
    let mut worker = worker_with(&process, strict).await;
    worker.settle(&process).await;
    assert_eq!(process.events.end(P0), end, "nothing was appended");
    assert_eq!(store.rows(CONSUMER, "done").await.len(), 4);
    assert_eq!(worker.stored_checkpoint(&process).await, end);
}

#[tokio::test]
async fn an_outcome_whose_row_was_not_written_is_kept() {
    let store = Store::new();
    let process = store.process(together([decider()])).await;
    let command = process.send(THING, "a", "ECHO", small()).await;
    store.failures.next("done");
    let mut first = worker(&process).await;
    first.work().await.unwrap_err();
    assert_eq!(process.outcome(command.event_id).await, ["NOTED"]);
    assert_eq!(store.rows(CONSUMER, "processing").await.len(), 1);
    // The same run goes on, or the next one does.
    let next = store.run(2, together([decider()])).await;
    let mut second = worker(&next).await;
    second.settle(&next).await;
    first.settle(&process).await;
    assert_eq!(next.told(THING, "a").await, ["NOTED"]);
    assert_eq!(store.rows(CONSUMER, "done").await.len(), 1);
}

#[tokio::test]
async fn a_batch_that_was_cut_short_goes_on_at_once() {
    let store = Store::new();
    let process = store.process(together([decider()])).await;
    process.send(THING, "bad", "FAULT", json!(null)).await;
    for id in ["a", "b", "c", "a"] {
        process.send(THING, id, "ECHO", small()).await;
    }
    let begun = store.clock().monotonic();
    let mut worker = worker(&process).await;
    for call in ["claim", "fail", "done"] {
        store.failures.next(call);
        worker.work().await.unwrap_err();
    }
    worker.work().await.unwrap();
    assert!(store.failures.are_over());
    assert_eq!(store.clock().monotonic(), begun, "no lease was waited for");
    for (id, count) in [("a", 2), ("b", 1), ("c", 1)] {
        assert_eq!(process.told(THING, id).await.len(), count, "{id}");
    }
    worker.settle(&process).await;
    assert_eq!(store.rows(CONSUMER, "done").await.len(), 4);
}

#[tokio::test]
async fn held_commands_behind_the_cursor_survive_a_batch_that_was_cut_short() {
    let store = Store::new();
    let process = store.process(together([narrow_decider()])).await;
    for id in ["a", "b"] {
        process.send(THING, id, "ECHO", large()).await;
    }
    let waiting = process.send(THING, "a", "ECHO", small()).await;
    process.send(THING, "b", "FAULT", json!(null)).await;
    let mut worker = worker(&process).await;
    assert!(!worker.work().await.unwrap());
    process.catalog.replace(together([decider()]));
    store.advance(20);
    // Both get their first outcome; then b fails, and its row cannot be written while a's second outcome is at hand.
    store.failures.next("fail");
    worker.work().await.unwrap_err();
    assert!(worker.checkpoint() <= Position(2), "the checkpoint waits for what is undecided");
    worker.settle(&process).await;
    assert_eq!(process.outcome(waiting.event_id).await, ["NOTED"]);
}

/// Whoever holds the first one comes to the next as well, and must find it free.
#[tokio::test]
async fn a_claim_behind_one_that_is_held_elsewhere_is_given_back() {
    let store = Store::new();
    let process = store.process(together([decider()])).await;
    let first = process.send(THING, "a", "ECHO", small()).await;
    let second = process.send(THING, "a", "ECHO", small()).await;
    store.claim_elsewhere(CONSUMER, &first, 30_000).await;
    let mut worker = worker(&process).await;
    worker.work().await.unwrap();
    let held: Vec<uuid::Uuid> = store.rows(CONSUMER, "processing").await.iter().map(|row| row.event_id).collect();
    assert_eq!(held, [first.event_id]);
    assert!(process.told(THING, "a").await.is_empty());
    store.advance(30_001);
    worker.settle(&process).await;
    assert_eq!(decided(&process, "a").await, [first.event_id, second.event_id]);
}

#[tokio::test]
async fn two_workers_give_each_command_one_outcome() {
    let store = Store::new();
    let process = store.process(together([decider()])).await;
    for _ in 0..5 {
        process.send(THING, "a", "ECHO", small()).await;
        process.send(THING, "b", "ECHO", small()).await;
    }
    // Without a lease each takes the other's claims.
    let racing = Options { lease_ms: 0, batch_max: 4, ..options() };
    let mut other = process.clone();
    other.owner.name = "other".into();
    other.states = States::new(process.events.clone(), process.catalog.clone(), 1 << 20);
    let mut first = worker_with(&process, racing.clone()).await;
    let mut second = worker_with(&other, racing).await;
    for _ in 0..4 {
        let (one, two) = tokio::join!(first.work(), second.work());
        one.unwrap();
        two.unwrap();
    }
    first.settle(&process).await;
    second.settle(&other).await;
    for id in ["a", "b"] {
        let outcomes = decided(&process, id).await;
        let commands: Vec<uuid::Uuid> = process.stream(THING, id).await.iter().map(|r| r.event_id).take(5).collect();
        assert_eq!(outcomes, commands, "one each, in order");
    }
    assert_eq!(store.rows(CONSUMER, "done").await.len(), 10);
    assert_eq!((first.checkpoint(), second.checkpoint()), (process.events.end(P0), process.events.end(P0)));
}

#[tokio::test]
async fn who_relied_on_a_command_that_failed_fails_as_well() {
    let process = Store::new().process(together([decider()])).await;
    let refused = process.send(THING, "a", "REJECT", json!(1)).await;
    let mut relying = Vec::new();
    let mut last = refused.sequence.0;
    for _ in 0..2 {
        let sent = process.send_expecting(THING, "a", "ECHO", small(), Some(last)).await;
        last = sent.sequence.0;
        relying.push(sent);
    }
    let free = process.send(THING, "a", "ECHO", small()).await;
    worker(&process).await.settle(&process).await;
    assert_eq!(process.ending(refused.event_id).await["code"], "no");
    for command in relying {
        assert_eq!(process.ending(command.event_id).await["code"], "predecessor-failed");
    }
    assert_eq!(process.outcome(free.event_id).await, ["NOTED"]);
}

#[tokio::test]
async fn commands_issued_before_a_crash_are_not_issued_again() {
    let process = Store::new().process(together([decider()])).await;
    let origin = process.send(THING, "origin", "COMMANDS", json!(3)).await;
    // What a crash after two of three leaves.
    for index in 0..2 {
        let target = Aggregate::parse(THING, &format!("t-{index}")).unwrap();
        let draft = crate::codec::envelope::CommandDraft {
            command_id: derived_id::issued_command(origin.event_id, index),
            command_type: "ECHO",
            aggregate: &target,
            expected_seq: None,
            payload: &crate::codec::json::Json::empty_object(),
            actor: "alice",
            occurred_at: origin.recorded_at,
            correlation_id: "c",
            causation_id: Some(origin.event_id),
            traceparent: None,
            extra: None,
            topic: "thing_commands".into(),
            service: "worker",
        };
        let append = crate::event_store::Append {
            aggregate: target.clone(),
            expected: crate::event_store::Expected::Any,
            drafts: vec![draft.build().unwrap()],
            outcome_of: None,
            ids_are_new: false,
        };
        process.events.append(append).await.unwrap();
    }
    worker(&process).await.settle(&process).await;
    assert_eq!(process.ending(origin.event_id).await["issued"], 3);
    for index in 0..3 {
        let id = derived_id::issued_command(origin.event_id, index);
        assert_eq!(process.stream(THING, &format!("t-{index}")).await.len(), 2, "one command, one outcome");
        assert_eq!(process.outcome(id).await, ["NOTED"]);
    }
}

#[tokio::test]
async fn who_issues_a_command_that_nobody_takes_is_at_fault_and_nothing_is_written() {
    let process = Store::new().process(together([decider()])).await;
    let origin = process.send(THING, "origin", "COMMAND_FOR", json!("Rocket")).await;
    worker(&process).await.settle(&process).await;
    let letter = process.parking.letter(CONSUMER, &origin.aggregate).unwrap();
    assert_eq!((letter.reason.as_str(), letter.sequence_number), ("fault", origin.sequence.0));
    assert!(letter.error.contains("ECHO for Rocket"), "{}", letter.error);
    assert_eq!(process.stream("Rocket", "x").await.len(), 0);
}

#[tokio::test]
async fn each_event_names_the_handler_that_made_it() {
    let process = Store::new().process(together([decider()])).await;
    let mut worker = worker(&process).await;
    let next = sandbox().load(&variant(&abuse("decider").into(), 2)).unwrap();
    let before = process.send(THING, "a", "ECHO", small()).await;
    worker.settle(&process).await;
    process.catalog.replace(Active::new([active(next.clone(), 2)]).unwrap());
    let after = process.send(THING, "a", "ECHO", small()).await;
    worker.settle(&process).await;
    for (command, digest, revision) in [(before, decider().digest(), 1), (after, next.digest(), 2)] {
        let outcome = process.events.outcome(command.event_id).await.unwrap().remove(0);
        let metadata: Value = serde_json::from_slice::<Value>(&outcome.line).unwrap()["metadata"].clone();
        assert_eq!(metadata["handler"]["digest"], digest.to_string());
        assert_eq!(metadata["handler"]["revision"], revision);
    }
}

#[tokio::test]
async fn commands_wait_in_the_log_until_a_handler_is_active() {
    let process = Store::new().process(Active::default()).await;
    let command = process.send(THING, "a", "ECHO", small()).await;
    let mut worker = worker(&process).await;
    for _ in 0..3 {
        assert!(!worker.work().await.unwrap());
        process.store.advance(200);
    }
    assert_eq!(worker.checkpoint(), Position(0));
    process.catalog.replace(together([decider()]));
    worker.settle(&process).await;
    assert_eq!(process.outcome(command.event_id).await, ["NOTED"]);
}

#[tokio::test]
async fn a_running_worker_follows_the_log_and_stops_when_told() {
    let process = Store::new().process(together([decider()])).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker(&process).await.run(stop.clone()));
    let mut end = process.events.watch_end(P0);
    for count in 1..=3 {
        process.send(THING, "a", "ECHO", small()).await;
        let decided = end.wait_for(|end| end.0 == 2 * count);
        tokio::time::timeout(Duration::from_secs(60), decided).await.unwrap().unwrap();
    }
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap().unwrap();
    assert!(process.store.checkpoint(CONSUMER).await >= Position(5));
}
