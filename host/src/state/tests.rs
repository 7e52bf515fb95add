//! Folds, past states, and those who wait, over a log in memory.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::domain::Position;
use crate::sandbox::{Active, Failure, Handler, LimitKind};
use crate::tests::components::{abuse, active, event, sandbox, together, variant};
use crate::tests::{P0, Process, Store};

mod snapshots;
mod upcast;

const SOON: Duration = Duration::from_secs(60);

fn decider() -> Arc<Handler> {
    sandbox().load(&abuse("decider")).unwrap()
}

fn thing() -> Aggregate {
    Aggregate::parse("Thing", "t").unwrap()
}

async fn process() -> Process {
    Store::new().process(together([decider()])).await
}

/// Deposits of 1, a second apart.
async fn deposits(process: &Process, count: usize) {
    for _ in 0..count {
        process.note("Thing", "t", "NOTED", json!({"amount": 1, "note": "n", "tags": []})).await;
        process.store.advance(1_000);
    }
}

fn balance(folded: &Folded) -> Option<Value> {
    folded.state.as_ref().map(|state| state.to_value()["balance"].clone())
}

#[tokio::test]
async fn a_stream_takes_each_record_once_and_no_gap() {
    let process = process().await;
    deposits(&process, 4).await;
    let records = process.stream("Thing", "t").await;
    let handler = decider();
    let mut stream = Stream::new(thing(), &handler, Upcasters::default());
    assert!(stream.push(&records[0]) && stream.push(&records[0]), "what was taken is no gap");
    assert!(!stream.push(&records[2]));
    assert_eq!(stream.sequence(), records[0].sequence);
    assert!(records.iter().all(|record| stream.push(record)));
    assert_eq!(balance(&stream.fold(&handler).unwrap()), Some(json!(4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_guest_that_takes_its_time_holds_up_nobody_on_its_thread() {
    let (ended, handler) = (Arc::new(Mutex::new(Vec::new())), decider());
    let slow = {
        let ended = ended.clone();
        tokio::spawn(async move {
            // Some tenths of a second, as long as fuel lasts.
            let ((), folded) = call_guests((), move |()| handler.evolve(None, &[event("LOOP", "null")])).await;
            ended.lock().push("the guest");
            folded.unwrap_err()
        })
    };
    let other = {
        let ended = ended.clone();
        tokio::spawn(async move { ended.lock().push("the other") })
    };
    let failure = slow.await.unwrap();
    assert!(matches!(failure, Failure::Limit { which: LimitKind::Fuel, .. }), "{failure}");
    other.await.unwrap();
    assert_eq!(*ended.lock(), ["the other", "the guest"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn calls_that_were_cut_short_are_made_again_and_come_in_their_order() {
    let handler = decider();
    let shares: Vec<Vec<u32>> = (0..4).map(|share| (share * 100..share * 100 + 100).collect()).collect();
    let done = call_guests_for_each(shares.clone(), move |share: &mut Vec<u32>| {
        let evolve = |amount: &u32| {
            let data = format!("{{\"amount\":{amount},\"note\":\"n\",\"tags\":[]}}");
            handler
                .evolve(None, &[event("NOTED", &data)])
                .map(|state| state.unwrap().to_value()["balance"].as_u64().unwrap())
        };
        share.iter().map(evolve).collect::<Result<Vec<_>, _>>()
    })
    .await;
    let balances: Vec<Vec<u64>> = done.into_iter().map(|(_, balances)| balances.unwrap()).collect();
    assert_eq!(
        balances,
        shares.iter().map(|share| share.iter().map(|n| u64::from(*n)).collect::<Vec<_>>()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn states_fill_gaps_from_the_log_and_reach_its_end() {
    let process = process().await;
    deposits(&process, 2).await;
    let active = process.states.handler(&thing()).unwrap();
    process.states.load(&thing()).await.unwrap();
    deposits(&process, 3).await;
    let records = process.stream("Thing", "t").await;
    for some in [&records[4..], &records[2..3], &[]] {
        let asked = Asked { aggregate: thing(), active: active.clone(), records: some.to_vec() };
        assert_eq!(process.states.streams(&[asked]).await.unwrap()[0].sequence(), records[4].sequence);
    }
    assert_eq!(balance(&process.states.load(&thing()).await.unwrap()), Some(json!(5)));
}

#[test]
fn a_full_cache_has_room_for_what_is_created_now_and_used_later() {
    let (handler, cache) = (decider(), states::stream_cache(1 << 20));
    let stream = |name: &str| Stream::new(Aggregate::parse("Thing", name).unwrap(), &handler, Upcasters::default());
    let count = (1 << 20) * 4 / 10 / stream("0-0000").weight();
    for generation in 0..5 {
        let streams: Vec<Stream> = (0..count).map(|n| stream(&format!("{generation}-{n:04}"))).collect();
        for round in 0..4 {
            for stream in &streams {
                let found = cache.get(stream.aggregate()).is_some();
                assert_eq!(found, round > 0, "{} in round {round}", stream.aggregate());
                cache.insert(stream.aggregate().clone(), stream.clone());
            }
        }
    }
}

#[tokio::test]
async fn a_state_is_never_given_for_another_handler_than_the_active_one() {
    let process = process().await;
    deposits(&process, 2).await;
    let first = process.states.load(&thing()).await.unwrap();
    let next = sandbox().load(&variant(&abuse("decider").into(), 3)).unwrap();
    process.catalog.replace(Active::new([active(next.clone(), 2)]).unwrap());
    let second = process.states.load(&thing()).await.unwrap();
    assert_eq!((first.handler_digest, second.handler_digest), (decider().digest(), next.digest()));
    assert_eq!(balance(&second), Some(json!(2)));
}

#[tokio::test]
async fn past_states_by_sequence_and_by_time() {
    let process = process().await;
    deposits(&process, 3).await;
    let records = process.stream("Thing", "t").await;
    let occurred = |index: usize| records[index].envelope().unwrap().occurred_at;
    for (at, wanted) in [
        (At::Sequence(0), None),
        (At::Sequence(2), Some(json!(2))),
        (At::Sequence(99), Some(json!(3))),
        (At::Time(occurred(0)), Some(json!(1))),
        (At::Time(occurred(1).plus_ms(999)), Some(json!(2))),
        (At::Time(occurred(0).plus_ms(-1)), None),
    ] {
        let folded = process.states.load_at(&thing(), at).await.unwrap();
        assert_eq!(balance(&folded), wanted, "{at:?}");
    }
}

#[tokio::test]
async fn who_waits_for_an_outcome_is_woken_by_it() {
    let process = process().await;
    let completions = Completions::new(process.events.clone());
    let stop = CancellationToken::new();
    let following = tokio::spawn(completions.clone().follow(P0, stop.clone()));
    tokio::task::yield_now().await;
    let early = process.note("Thing", "t", "NOTED", json!({})).await;
    let known = completions.wait(early.command_id.unwrap());
    tokio::time::timeout(SOON, known).await.unwrap().unwrap();
    let command = process.send("Thing", "t", "ECHO", json!({})).await;
    let waiting = tokio::spawn({
        let completions = completions.clone();
        async move { completions.wait(command.event_id).await }
    });
    tokio::task::yield_now().await;
    process.note("Thing", "t", "NOTED", json!({})).await;
    assert!(!waiting.is_finished(), "another command's outcome");
    let letter = ParkRequest { consumer: "c", record: &command, reason: "fault", error: String::new() };
    process.parking.park(letter).await.unwrap();
    process.parking.discard(parking::letter_id("c", command.event_id), "no", "alice").await.unwrap();
    tokio::time::timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    stop.cancel();
    following.await.unwrap().unwrap();
}

#[tokio::test]
async fn progress_wakes_when_the_last_of_the_named_is_past() {
    let progress = Progress::default();
    let names = ["a".to_owned(), "b".to_owned()];
    progress.register("a", P0, Position(0));
    let waiting = tokio::spawn({
        let (progress, names) = (progress.clone(), names.clone());
        async move { progress.wait_for(&names, P0, Position(4)).await }
    });
    progress.publish("a", P0, Position(9), None);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "b is not known");
    progress.register("b", P0, Position(4));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "b has not handled it");
    progress.publish("b", P0, Position(5), None);
    tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    progress.publish("a", P0, Position(1), None);
    assert_eq!(progress.get("a", P0), Some(Position(9)), "never backwards");
}

#[tokio::test]
async fn what_runs_elsewhere_is_known_by_its_checkpoint_and_what_runs_here_better() {
    let progress = Progress::default();
    let names = ["projection".to_owned()];
    progress.note_stored("projection", P0, Position(3));
    assert_eq!(progress.consumers()[0].state, ConsumerState::Elsewhere);
    assert!(!progress.is_awaited());
    let wait = progress.wait_for(&names, P0, Position(4));
    let look = async {
        progress.awaited().await;
        progress.note_stored("projection", P0, Position(5));
    };
    tokio::join!(wait, look);
    assert!(!progress.is_awaited());
    progress.register("projection", P0, Position(4));
    {
        let mut wait = std::pin::pin!(progress.wait_for(&names, P0, Position(7)));
        let mut waits = async || {
            tokio::select! {
                biased;
                () = &mut wait => panic!("it is not there yet"),
                () = std::future::ready(()) => {}
            }
        };
        waits().await;
        assert!(!progress.is_awaited(), "nobody needs the stored checkpoint of what runs here");
        progress.leave("projection", P0);
        progress.register("other", P0, Position(1));
        waits().await;
        assert!(progress.is_awaited(), "it went elsewhere");
        progress.register("projection", P0, Position(4));
    }
    assert_eq!(progress.consumers()[0].state, ConsumerState::CatchingUp);
    progress.note_stored("projection", P0, Position(9));
    assert_eq!(progress.get("projection", P0), Some(Position(5)), "a consumer of this process knows best");
    progress.leave("projection", P0);
    progress.note_stored("projection", P0, Position(9));
    assert_eq!(progress.get("projection", P0), Some(Position(9)));
}
