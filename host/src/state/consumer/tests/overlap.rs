//! Batches under way at once: what each is given, what fails with it, and what the checkpoint waits for.

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::domain::EventKind;
use crate::port::registry::Claimed;
use crate::sandbox::Active;
use crate::state::finished;
use crate::tests::{P0, Store};

const CONSUMER: &str = "noting:Thing";
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How a batch is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Well,
    Fails,
}

/// What work that notes was given and did.
#[derive(Debug, Default)]
struct Notes {
    begun: Vec<(BatchNumber, Vec<String>)>,
    effects: Vec<String>,
    /// What the checkpoint would be after each batch, when it ended well.
    checkpoints: Vec<(BatchNumber, Position)>,
}

/// Claims its events, waits until the test says how the batch ends, then marks them done or fails.
#[derive(Debug, Clone)]
struct Noting {
    notes: Arc<Mutex<Notes>>,
    endings: watch::Sender<HashMap<BatchNumber, Ending>>,
    passes: bool,
}

fn name(record: &Record) -> String {
    format!("{}{}", record.aggregate.id, record.sequence)
}

#[async_trait]
impl Work for Noting {
    fn wants(&self, _context: &Context, record: &Record) -> bool {
        record.kind == EventKind::Command
    }

    async fn handle(&self, context: &Context, batch: Batch) -> Result<(), Error> {
        let number = batch.number;
        let records: Vec<Record> = batch.items.into_iter().flat_map(|item| item.records).collect();
        self.notes.lock().begun.push((number, records.iter().map(name).collect()));
        let claimed = context.claims.claim(records.iter()).await?;
        if self.passes {
            context.pass(number);
        }
        let mut endings = self.endings.subscribe();
        let ending = endings.wait_for(|endings| endings.contains_key(&number)).await.unwrap()[&number];
        if ending == Ending::Fails {
            return Err(Error::NoHandler { kind: "an injected fault".into() });
        }
        let after = context.checkpoint_after(number);
        let mut notes = self.notes.lock();
        notes.checkpoints.push((number, after));
        for (record, claimed) in records.iter().zip(claimed) {
            if let Claimed::Yes { attempt } = claimed {
                notes.effects.push(name(record));
                context.finish([finished(record, attempt)]);
            }
        }
        Ok(())
    }
}

struct Trial {
    process: Process,
    consumer: Consumer<Noting>,
    work: Noting,
}

impl Trial {
    async fn new(batches_max: usize, passes: bool) -> Trial {
        Trial::paced(batches_max, passes, Duration::ZERO).await
    }

    async fn paced(batches_max: usize, passes: bool, pace: Duration) -> Trial {
        let process = Store::new().process(Active::default()).await;
        let work = Noting { notes: Arc::default(), endings: watch::Sender::new(HashMap::new()), passes };
        let options = Options {
            consumer: CONSUMER.into(),
            topics: vec!["thing_commands".into()],
            build: None,
            attempts_max: 3,
            lease_ms: 30_000,
            heartbeat_interval: HEARTBEAT,
            batch_max: 100,
            batches_max,
            pace,
        };
        let consumer = Consumer::open(options, process.parts(), P0, work.clone()).await.unwrap();
        Trial { process, consumer, work }
    }

    async fn send(&self, ids: &[&str]) {
        for id in ids {
            self.process.send("Thing", id, "ECHO", json!({})).await;
        }
    }

    /// Takes up what may be taken up, and lets it go as far as it gets by itself.
    async fn turn(&mut self) -> Result<(), Error> {
        self.consumer.take_up().await?;
        let mut first = Ok(());
        while let Some(Some(ended)) = self.consumer.under_way.next().now_or_never() {
            let ended = self.consumer.ended(ended);
            first = first.and(ended);
        }
        first
    }

    /// Sends, and lets a batch of it begin.
    async fn begin(&mut self, ids: &[&str]) {
        self.send(ids).await;
        self.turn().await.unwrap();
    }

    fn ends(&self, number: BatchNumber, ending: Ending) {
        self.work.endings.send_modify(|endings| {
            endings.insert(number, ending);
        });
    }

    fn begun(&self) -> Vec<(BatchNumber, String)> {
        self.work.notes.lock().begun.iter().map(|(number, names)| (*number, names.join(" "))).collect()
    }

    fn effects(&self) -> String {
        self.work.notes.lock().effects.join(" ")
    }

    async fn done(&self) -> usize {
        self.process.store.rows(CONSUMER, "done").await.len()
    }
}

fn batch(number: BatchNumber, names: &str) -> (BatchNumber, String) {
    (number, names.to_owned())
}

#[tokio::test]
async fn an_aggregate_is_in_one_batch_at_a_time_and_keeps_its_order() {
    let mut trial = Trial::new(3, true).await;
    trial.begin(&["a", "b"]).await;
    trial.begin(&["a", "c", "a"]).await;
    assert_eq!(trial.begun(), [batch(1, "a1 b1"), batch(2, "c1")], "a waits for the batch it is in");
    trial.ends(2, Ending::Well);
    trial.turn().await.unwrap();
    assert_eq!((trial.effects().as_str(), trial.consumer.checkpoint()), ("c1", Position(0)));
    trial.ends(1, Ending::Well);
    trial.turn().await.unwrap();
    assert_eq!(trial.consumer.checkpoint(), Position(2), "what came of a while it was under way");
    trial.turn().await.unwrap();
    assert_eq!(trial.begun()[2], batch(3, "a2 a3"));
    trial.ends(3, Ending::Well);
    trial.turn().await.unwrap();
    assert_eq!(trial.effects(), "c1 a1 b1 a2 a3");
    assert_eq!(trial.consumer.stored_checkpoint(&trial.process).await, Position(5));
    assert_eq!(trial.done().await, 5);
}

#[tokio::test]
async fn a_batch_that_fails_comes_again_and_spoils_no_other() {
    let mut trial = Trial::new(3, true).await;
    trial.begin(&["a", "b"]).await;
    trial.begin(&["c"]).await;
    trial.begin(&["d"]).await;
    trial.ends(2, Ending::Fails);
    trial.ends(3, Ending::Well);
    trial.turn().await.unwrap_err();
    assert_eq!(trial.effects(), "d1");
    trial.ends(1, Ending::Well);
    trial.turn().await.unwrap();
    assert_eq!((trial.effects().as_str(), trial.consumer.checkpoint()), ("d1 a1 b1", Position(2)));
    assert_eq!(trial.begun()[3], batch(4, "c1"), "with the claim it has, at once");
    trial.ends(4, Ending::Well);
    trial.turn().await.unwrap();
    assert_eq!(trial.effects(), "d1 a1 b1 c1");
    assert_eq!(trial.consumer.checkpoint(), Position(4));
}

#[tokio::test]
async fn a_batch_begins_when_the_one_before_only_waits_for_its_appends() {
    let mut trial = Trial::new(3, false).await;
    trial.begin(&["a"]).await;
    trial.begin(&["b", "c"]).await;
    assert_eq!(trial.begun(), [batch(1, "a1")]);
    trial.ends(1, Ending::Well);
    trial.turn().await.unwrap();
    trial.turn().await.unwrap();
    assert_eq!(trial.begun()[1], batch(2, "b1 c1"), "what came meanwhile is one batch");
}

#[tokio::test]
async fn no_more_batches_are_under_way_than_allowed() {
    let mut trial = Trial::new(2, true).await;
    for id in ["a", "b", "c"] {
        trial.begin(&[id]).await;
    }
    assert_eq!(trial.begun(), [batch(1, "a1"), batch(2, "b1")]);
    trial.ends(2, Ending::Well);
    trial.turn().await.unwrap();
    trial.turn().await.unwrap();
    assert_eq!(trial.begun()[2], batch(3, "c1"));
}

#[tokio::test]
async fn a_checkpoint_that_goes_with_a_batch_waits_for_the_other_batches() {
    let mut trial = Trial::new(3, true).await;
    trial.begin(&["a"]).await;
    trial.begin(&["b"]).await;
    trial.begin(&["b"]).await;
    for number in [2, 1] {
        trial.ends(number, Ending::Well);
        trial.turn().await.unwrap();
    }
    trial.ends(3, Ending::Well);
    trial.turn().await.unwrap();
    let checkpoints = trial.work.notes.lock().checkpoints.clone();
    // The second waits for the first; the first for what came of b meanwhile, which waits or is under way.
    assert_eq!(checkpoints, [(2, Position(0)), (1, Position(2)), (3, Position(3))]);
}

#[tokio::test]
async fn claims_are_renewed_as_long_as_their_batch_is_under_way() {
    let mut trial = Trial::new(1, true).await;
    trial.begin(&["a"]).await;
    let claimed_at = trial.process.store.rows(CONSUMER, "processing").await[0].heartbeat_at.unwrap();
    for beat in 1..=3 {
        trial.process.store.clock.advance(HEARTBEAT);
        trial.turn().await.unwrap();
        let renewed = trial.process.store.rows(CONSUMER, "processing").await[0].heartbeat_at.unwrap();
        assert_eq!(renewed.0 - claimed_at.0, beat * 10_000);
    }
}

#[tokio::test]
async fn what_is_finished_is_marked_again_after_an_error() {
    let mut trial = Trial::new(3, true).await;
    trial.begin(&["a"]).await;
    trial.ends(1, Ending::Well);
    trial.process.store.failures.next("done");
    trial.turn().await.unwrap();
    trial.turn().await.unwrap_err();
    assert_eq!(trial.done().await, 0);
    trial.turn().await.unwrap();
    assert_eq!((trial.done().await, trial.effects().as_str()), (1, "a1"));
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_found_again() {
    let mut trial = Trial::new(3, true).await;
    trial.ends(2, Ending::Well);
    trial.process.store.failures.next("claim's answer");
    trial.send(&["a"]).await;
    trial.turn().await.unwrap_err();
    assert_eq!(trial.process.store.rows(CONSUMER, "processing").await.len(), 1);
    trial.turn().await.unwrap();
    assert_eq!(trial.effects(), "a1", "without waiting for its lease to end");
}

#[tokio::test]
async fn after_a_large_batch_the_next_one_waits_for_company_and_after_a_small_one_it_does_not() {
    let pace = Duration::from_millis(10);
    let mut trial = Trial::paced(3, true, pace).await;
    trial.begin(&["a"]).await;
    trial.begin(&["b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8"]).await;
    assert_eq!(trial.begun().len(), 2);
    trial.begin(&["c"]).await;
    trial.begin(&["d"]).await;
    assert_eq!(trial.begun().len(), 2, "it waits");
    trial.process.store.clock.advance(pace);
    trial.turn().await.unwrap();
    assert_eq!(trial.begun()[2], batch(3, "c1 d1"), "what came meanwhile is in one batch");
}

#[tokio::test]
async fn a_running_consumer_is_woken_by_what_ends_and_stops_when_all_is_done() {
    let trial = Trial::new(2, true).await;
    let (process, work) = (trial.process.clone(), trial.work.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(trial.consumer.run(stop.clone()));
    for id in ["a", "b", "c"] {
        process.send("Thing", id, "ECHO", json!({})).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(work.notes.lock().begun.len(), 2);
    work.endings.send_modify(|endings| endings.extend((1..4).map(|number| (number, Ending::Well))));
    let names = [CONSUMER.to_owned()];
    let all = process.progress.wait_for(&names, P0, Position(2));
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    process.send("Thing", "d", "ECHO", json!({})).await;
    while work.notes.lock().begun.len() < 4 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    tokio::task::yield_now().await;
    assert!(!running.is_finished(), "a batch is under way");
    work.endings.send_modify(|endings| {
        endings.insert(4, Ending::Well);
    });
    tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap().unwrap();
    assert_eq!(process.store.rows(CONSUMER, "done").await.len(), 4);
    assert_eq!(process.store.checkpoint(CONSUMER).await, Position(4));
}
