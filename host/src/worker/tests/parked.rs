//! Aggregates whose handler fails: tried again, parked, released in order, and everything else goes on.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::event_store::Record;
use crate::state::parking::letter_id;
use crate::state::{Parking, Release};

fn thing(id: &str) -> Aggregate {
    Aggregate::parse(THING, id).unwrap()
}

/// A parked aggregate `a` with two commands behind the one that does not fit, and `b` that goes on.
async fn parked(process: &Process, worker: &mut Consumer<Worker>) -> Vec<Record> {
    let mut commands = vec![process.send(THING, "a", "ECHO", small()).await];
    commands.push(process.send(THING, "a", "ECHO", large()).await);
    process.send(THING, "b", "ECHO", small()).await;
    commands.push(process.send(THING, "a", "ECHO", small()).await);
    worker.settle(process).await;
    commands.push(process.send(THING, "a", "ECHO", small()).await);
    worker.settle(process).await;
    assert!(process.parking.is_parked(CONSUMER, &thing("a")));
    commands
}

/// Hears a release as the running worker does.
async fn hear(worker: &mut Consumer<Worker>, releases: &mut tokio::sync::broadcast::Receiver<Release>) {
    worker.hear(releases.recv().await);
}

#[tokio::test]
async fn a_failing_command_is_tried_some_times_then_its_aggregate_is_parked() {
    let store = Store::new();
    let process = store.process(together([narrow_decider()])).await;
    let mut worker = worker(&process).await;
    let commands = parked(&process, &mut worker).await;
    assert_eq!(process.told(THING, "a").await, ["NOTED"], "only what came before it");
    assert_eq!(process.told(THING, "b").await, ["NOTED"]);
    let rows = store.rows(CONSUMER, "parked").await;
    let attempts: Vec<(uuid::Uuid, u32)> = rows.iter().map(|row| (row.event_id, row.attempt_count)).collect();
    assert_eq!(attempts.len(), 3);
    assert_eq!(attempts[0], (commands[1].event_id, ATTEMPTS_MAX));
    assert_eq!(worker.stored_checkpoint(&process).await, process.events.end(P0));
    let letter = process.parking.letter(CONSUMER, &thing("a")).unwrap();
    assert_eq!((letter.reason.as_str(), letter.sequence_number), ("limit", commands[1].sequence.0));
}

#[tokio::test]
async fn traps_and_faults_park_without_an_outcome() {
    let process = Store::new().process(together([decider()])).await;
    for (id, name) in [
        ("fault", "FAULT"),
        ("trap", "PANIC"),
        ("needs", "PANIC_IN_NEEDS"),
        ("rounds", "READ_ON"),
        ("output", "UNDECLARED"),
    ] {
        process.send(THING, id, name, json!(null)).await;
    }
    let mut worker = worker(&process).await;
    worker.settle(&process).await;
    let reasons = [("fault", "fault"), ("trap", "trap"), ("needs", "trap"), ("rounds", "limit"), ("output", "fault")];
    for (id, reason) in reasons {
        assert_eq!(process.parking.letter(CONSUMER, &thing(id)).unwrap().reason, reason);
        assert!(process.told(THING, id).await.is_empty());
    }
}

#[tokio::test]
async fn a_retry_with_a_mended_handler_decides_in_order() {
    let store = Store::new();
    let process = store.process(together([narrow_decider()])).await;
    let mut worker = worker(&process).await;
    let mut releases = process.parking.releases();
    let commands = parked(&process, &mut worker).await;
    process.catalog.replace(together([decider()]));
    process.parking.retry(letter_id(CONSUMER, commands[1].event_id), "alice").await.unwrap();
    hear(&mut worker, &mut releases).await;
    worker.settle(&process).await;
    let sent: Vec<uuid::Uuid> = commands.iter().map(|command| command.event_id).collect();
    assert_eq!(decided(&process, "a").await, sent);
    assert_eq!(store.rows(CONSUMER, "done").await.len(), 5);
    assert_eq!(process.parking.count(), 0);
}

#[tokio::test]
async fn a_retry_that_fails_again_parks_again() {
    let store = Store::new();
    let process = store.process(together([narrow_decider()])).await;
    let mut worker = worker(&process).await;
    let mut releases = process.parking.releases();
    let commands = parked(&process, &mut worker).await;
    process.parking.retry(letter_id(CONSUMER, commands[1].event_id), "alice").await.unwrap();
    hear(&mut worker, &mut releases).await;
    worker.settle(&process).await;
    assert!(process.parking.is_parked(CONSUMER, &thing("a")));
    let rows = store.rows(CONSUMER, "parked").await;
    assert_eq!(rows.len(), 3);
    assert!(rows[0].attempt_count >= 2 * ATTEMPTS_MAX, "{}", rows[0].attempt_count);
    assert_eq!(process.told(THING, "a").await, ["NOTED"]);
    // Another process learns of the release when all of that is over.
    let letter = process.parking.letter(CONSUMER, &thing("a")).unwrap();
    let late = store.run(2, together([narrow_decider()])).await;
    assert_eq!(late.parking.letter(CONSUMER, &thing("a")), Some(letter));
    assert_eq!(store.rows(CONSUMER, "parked").await, rows);
}

#[tokio::test]
async fn a_discarded_command_fails_and_the_rest_goes_on() {
    let store = Store::new();
    let process = store.process(together([narrow_decider()])).await;
    let mut worker = worker(&process).await;
    let mut releases = process.parking.releases();
    let commands = parked(&process, &mut worker).await;
    process.parking.discard(letter_id(CONSUMER, commands[1].event_id), "never mind", "alice").await.unwrap();
    hear(&mut worker, &mut releases).await;
    worker.settle(&process).await;
    assert_eq!(process.ending(commands[1].event_id).await["code"], "discarded");
    assert_eq!(process.told(THING, "a").await, ["NOTED", "COMMAND_FAILED", "NOTED", "NOTED"]);
    assert_eq!(store.rows(CONSUMER, "done").await.len(), 5, "the discarded one has its row too");
}

#[tokio::test]
async fn a_release_that_nobody_heard_is_found_by_the_next_run() {
    let store = Store::new();
    let process = store.process(together([narrow_decider()])).await;
    let mut first = worker(&process).await;
    let commands = parked(&process, &mut first).await;
    first.stored_checkpoint(&process).await;
    drop(first);
    process.parking.retry(letter_id(CONSUMER, commands[1].event_id), "alice").await.unwrap();
    let process = store.run(2, together([decider()])).await;
    let mut second = worker(&process).await;
    second.settle(&process).await;
    let sent: Vec<uuid::Uuid> = commands.iter().map(|command| command.event_id).collect();
    assert_eq!(decided(&process, "a").await, sent);
}

#[tokio::test]
async fn a_release_between_the_opening_of_a_process_and_its_following_is_heard() {
    let store = Store::new();
    let process = store.process(together([narrow_decider()])).await;
    let commands = parked(&process, &mut worker(&process).await).await;
    let (letters, clock) = (Arc::new(store.letters.clone()), store.clock());
    let opened = Parking::open(process.events.clone(), letters, store.database.clone(), clock).await.unwrap();
    process.parking.retry(letter_id(CONSUMER, commands[1].event_id), "alice").await.unwrap();
    assert!(opened.is_parked(CONSUMER, &thing("a")));
    let mut releases = opened.releases();
    let stop = CancellationToken::new();
    let follower = tokio::spawn(opened.clone().follow(P0, stop.clone()));
    let heard = tokio::time::timeout(Duration::from_secs(60), releases.recv()).await.unwrap().unwrap();
    assert_eq!(heard.aggregate, thing("a"));
    assert!(!opened.is_parked(CONSUMER, &thing("a")));
    stop.cancel();
    follower.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_parked_is_known_after_the_database_was_lost() {
    let store = Store::new();
    let process = store.process(together([narrow_decider()])).await;
    let commands = parked(&process, &mut worker(&process).await).await;
    let end = process.events.end(P0);
    let store = store.without_database();
    let process = store.run(2, together([decider()])).await;
    let letter = process.parking.letter(CONSUMER, &thing("a")).unwrap();
    assert_eq!(crate::port::registry::DeadLetters::get(&store.letters, letter.id).await.unwrap(), Some(letter.clone()));
    let mut worker = worker(&process).await;
    let mut releases = process.parking.releases();
    worker.settle(&process).await;
    assert_eq!(process.events.end(P0), end, "parked is parked, whatever the handler would do today");
    let waiting: Vec<u64> = store.rows(CONSUMER, "parked").await.iter().map(|row| row.sequence_number).collect();
    let sent: Vec<u64> = commands[1..].iter().map(|command| command.sequence.0).collect();
    assert_eq!(waiting, sent);
    process.parking.retry(letter.id, "alice").await.unwrap();
    hear(&mut worker, &mut releases).await;
    worker.settle(&process).await;
    assert_eq!(process.told(THING, "a").await.len(), 4);
}

#[tokio::test]
async fn a_retry_whose_row_could_not_be_released_is_heard_with_the_next_one() {
    let store = Store::new();
    let process = store.process(together([narrow_decider()])).await;
    let mut worker = worker(&process).await;
    let mut releases = process.parking.releases();
    let other = process.send(THING, "other", "ECHO", large()).await;
    let commands = parked(&process, &mut worker).await;
    process.catalog.replace(together([decider()]));
    store.failures.next("release");
    process.parking.retry(letter_id(CONSUMER, commands[1].event_id), "alice").await.unwrap_err();
    assert!(releases.try_recv().is_err());
    process.parking.retry(letter_id(CONSUMER, other.event_id), "alice").await.unwrap();
    for _ in 0..2 {
        hear(&mut worker, &mut releases).await;
    }
    worker.settle(&process).await;
    assert_eq!(process.told(THING, "a").await.len(), 4);
    assert_eq!(process.told(THING, "other").await, ["NOTED"]);
}
