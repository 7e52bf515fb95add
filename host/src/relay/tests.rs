//! The relay over a log in memory and a bus that fails on demand.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::port::bus::Subscription;
use crate::sandbox::Active;
use crate::tests::{P0, Process, Store};

/// Remembers what it took; may refuse.
#[derive(Debug, Default)]
struct Recorder {
    taken: Mutex<Vec<Position>>,
    refusals: Mutex<usize>,
    /// How long an acknowledgement takes.
    slow: Option<Duration>,
}

#[async_trait]
impl Bus for Recorder {
    fn follows_log(&self) -> bool {
        false
    }

    async fn publish(&self, messages: Vec<Message>) -> port::Result<()> {
        let refuses = {
            let mut left = self.refusals.lock();
            let refuses = *left > 0;
            *left = left.saturating_sub(1);
            refuses
        };
        // One that refuses may have taken any prefix.
        let count = if refuses { messages.len() / 2 } else { messages.len() };
        self.taken.lock().extend(messages.iter().take(count).map(|message| message.position));
        if let Some(slow) = self.slow {
            tokio::time::sleep(slow).await;
        }
        match refuses {
            true => Err(port::Error::Unavailable { what: "the bus", reason: "an injected fault".into() }),
            false => Ok(()),
        }
    }

    async fn subscribe(&self, _: &str, _: &[String]) -> port::Result<Box<dyn Subscription>> {
        Err(port::Error::Refused { what: "the bus", reason: "nobody listens here".into() })
    }
}

async fn relay(process: &Process, bus: &Arc<Recorder>) -> Relay {
    let options = Options {
        batch_max: 4,
        checkpoint_interval: Duration::from_secs(1),
        metrics_log_interval: Duration::from_secs(60),
    };
    let (clock, objects) = (process.store.clock(), process.store.objects.clone());
    let events = process.events.clone();
    Relay::open(options, events, objects, bus.clone(), clock, process.progress.clone(), P0).await.unwrap()
}

async fn stored(process: &Process) -> Position {
    let checkpoint = read_checkpoint(&*process.store.objects).await.unwrap().1;
    checkpoint.partitions.get(&P0.0).map_or(Position(0), |place| place.position)
}

async fn filled(count: usize) -> Process {
    fill(Store::new().process(Active::default()).await, count).await
}

async fn fill(process: Process, count: usize) -> Process {
    for index in 0..count {
        process.note("Thing", &format!("t{}", index % 3), "NOTED", json!(index)).await;
    }
    process
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

fn positions(range: std::ops::Range<u64>) -> Vec<Position> {
    range.map(Position).collect()
}

#[tokio::test]
async fn each_event_is_sent_once_in_order_and_the_next_run_goes_on() {
    let process = filled(10).await;
    let bus = Arc::new(Recorder::default());
    let mut first = relay(&process, &bus).await;
    first.send(&never()).await.unwrap();
    assert_eq!(stored(&process).await, Position(0), "stored at intervals only");
    process.store.advance(1_000);
    first.send(&never()).await.unwrap();
    assert_eq!(stored(&process).await, Position(10));
    process.note("Thing", "t0", "NOTED", json!(1)).await;
    let mut second = relay(&process, &bus).await;
    second.send(&never()).await.unwrap();
    assert_eq!(*bus.taken.lock(), positions(0..11));
}

#[tokio::test]
async fn a_bus_that_fails_moves_no_checkpoint_and_skips_nothing() {
    let process = filled(6).await;
    let bus = Arc::new(Recorder { refusals: Mutex::new(2), ..Recorder::default() });
    let mut relay = relay(&process, &bus).await;
    process.store.advance(1_000);
    for _ in 0..2 {
        relay.send(&never()).await.unwrap_err();
        assert_eq!((relay.position, stored(&process).await), (Position(0), Position(0)));
    }
    relay.send(&never()).await.unwrap();
    let taken = bus.taken.lock().clone();
    assert_eq!(taken, [positions(0..2), positions(0..2), positions(0..6)].concat());
    assert_eq!(stored(&process).await, Position(4), "after the first batch, then at intervals");
    process.store.advance(1_000);
    relay.send(&never()).await.unwrap();
    assert_eq!(stored(&process).await, Position(6));
}

#[tokio::test]
async fn two_relays_never_move_the_checkpoint_back() {
    let process = filled(8).await;
    let bus = Arc::new(Recorder::default());
    let mut slow = relay(&process, &bus).await;
    let mut fast = relay(&process, &bus).await;
    slow.position = Position(3);
    fast.position = Position(8);
    fast.store_checkpoint().await.unwrap();
    slow.store_checkpoint().await.unwrap();
    assert_eq!(stored(&process).await, Position(8));
}

#[tokio::test]
async fn a_relay_that_is_told_to_stop_stores_where_it_is() {
    let process = filled(5).await;
    let bus = Arc::new(Recorder::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay(&process, &bus).await.run(stop.clone()));
    let names = [NAME.to_owned()];
    let sent = process.progress.wait_for(&names, P0, Position(4));
    tokio::time::timeout(Duration::from_secs(60), sent).await.unwrap();
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap().unwrap();
    assert_eq!(stored(&process).await, Position(5));
    assert_eq!(*bus.taken.lock(), positions(0..5));
}

#[tokio::test]
async fn a_stop_lets_the_batch_in_hand_be_acknowledged_so_that_it_is_not_sent_again() {
    let process = filled(6).await;
    let bus = Arc::new(Recorder { slow: Some(Duration::from_millis(300)), ..Recorder::default() });
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay(&process, &bus).await.run(stop.clone()));
    while bus.taken.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap().unwrap();
    assert_eq!(stored(&process).await, Position(4), "the batch in hand, and no other");
    relay(&process, &bus).await.send(&never()).await.unwrap();
    assert_eq!(*bus.taken.lock(), positions(0..6));
}

#[tokio::test]
async fn a_relay_stands_by_while_another_moves_the_checkpoint_and_takes_over_when_that_stands_still() {
    let process = filled(8).await;
    let (bus, idle) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
    let (mut works, mut waits) = (relay(&process, &bus).await, relay(&process, &idle).await);
    process.store.advance(1_000);
    works.proceed(&never()).await.unwrap();
    waits.position = Position(2);
    waits.store_checkpoint().await.unwrap();
    assert_eq!((stored(&process).await, waits.position), (Position(4), Position(4)), "it goes where the other is");
    for _ in 0..8 {
        process.note("Thing", "t0", "NOTED", json!(1)).await;
        process.store.advance(1_000);
        works.proceed(&never()).await.unwrap();
        waits.proceed(&never()).await.unwrap();
    }
    assert_eq!(*idle.taken.lock(), []);
    assert_eq!(stored(&process).await, Position(16));
    process.store.advance(60_000);
    waits.proceed(&never()).await.unwrap();
    assert_eq!(*idle.taken.lock(), [], "nothing to send is no standstill");
    process.note("Thing", "t0", "NOTED", json!(1)).await;
    waits.proceed(&never()).await.unwrap();
    assert_eq!(*idle.taken.lock(), []);
    process.store.advance(5_000);
    waits.proceed(&never()).await.unwrap();
    waits.proceed(&never()).await.unwrap();
    assert_eq!(*idle.taken.lock(), positions(16..17));
}

/// A log that went another way, with the checkpoint of the first.
async fn restored(of: &Process, count: usize) -> Process {
    let store = Store::new();
    store.advance(1);
    let process = fill(store.process(Active::default()).await, count).await;
    let checkpoint = of.store.objects.get(KEY).await.unwrap().unwrap();
    process.store.objects.put(KEY, checkpoint).await.unwrap();
    process
}

#[tokio::test]
async fn a_log_restored_from_a_backup_is_sent_again_however_long_it_is_now() {
    let lost = filled(10).await;
    let bus = Arc::new(Recorder::default());
    let mut before = relay(&lost, &bus).await;
    lost.store.advance(1_000);
    before.send(&never()).await.unwrap();
    lost.store.advance(1_000);
    before.send(&never()).await.unwrap();
    assert_eq!(stored(&lost).await, Position(10));
    for count in [4, 10, 13] {
        let process = restored(&lost, count).await;
        let bus = Arc::new(Recorder::default());
        let mut after = relay(&process, &bus).await;
        process.store.advance(1_000);
        after.send(&never()).await.unwrap();
        process.store.advance(1_000);
        after.send(&never()).await.unwrap();
        assert_eq!(*bus.taken.lock(), positions(0..count as u64));
        assert_eq!(stored(&process).await, Position(count as u64), "the place of the history at hand");
        let mut next = relay(&process, &bus).await;
        next.send(&never()).await.unwrap();
        assert_eq!(bus.taken.lock().len(), count, "it goes on from there");
    }
}

#[tokio::test]
async fn a_checkpoint_that_names_no_history_is_taken_as_it_is() {
    let process = filled(6).await;
    let segment = process.events.segment_of(P0, Position(4)).await.unwrap();
    let place = Place { segment, position: Position(4), digest: None };
    let old = Checkpoint { partitions: [(0, place)].into(), updated_at: process.store.clock.now() };
    process.store.objects.put(KEY, old.encode()).await.unwrap();
    let bus = Arc::new(Recorder::default());
    relay(&process, &bus).await.send(&never()).await.unwrap();
    assert_eq!(*bus.taken.lock(), positions(4..6));
}
