//! Several writers on one store that loses answers, lands writes late and fails, from a seed; then an audit of the
//! history they left (I1 to I5). The same seed gives the same history, byte for byte.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::*;
use crate::codec::{pack, segment};
use crate::event_store::verify;
use crate::port::object_store::faulty::{Chances, Faulty};

const WRITERS: u64 = 3;
const APPENDS: u64 = 25;
const CHANCES: Chances = Chances { error_before: 60, lost_request: 80, lost_response: 100, lands_late: 80, delay: 200 };

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What the writers were told: id → (sequence, position), and the ids of which nothing was written.
#[derive(Default)]
struct Told {
    written: HashMap<Uuid, (Sequence, Position)>,
    refused: HashSet<Uuid>,
}

async fn writer(number: u64, seed: u64, store: EventStore) -> Told {
    let mut random = Random(seed ^ number.wrapping_mul(0x9e37_79b9));
    let mut told = Told::default();
    for turn in 0..APPENDS {
        let aggregate = account(["a", "b", "c"][usize::try_from(random.below(3)).unwrap()]);
        // Now and then an id that another writer uses too, for the same content.
        let shared = random.below(4) == 0;
        let id = if shared { 1_000_000 + u128::from(random.below(10)) } else { u128::from(number * 1_000 + turn + 1) };
        let aggregate = if shared { account(&format!("shared-{id}")) } else { aggregate };
        let head = store.head(&aggregate).await.unwrap();
        let append = match random.below(5) {
            0 if head.last_command > Sequence(0) && !shared => {
                let mut append =
                    outcome(id, head.last_command.0, &aggregate, 2, Expected::LastDomain(head.last_domain));
                append.ids_are_new = random.below(2) == 0;
                append
            }
            1 => command(id, &aggregate, Expected::Any),
            2 => command(id, &aggregate, Expected::Exactly(head.last)),
            _ => command(id, &aggregate, Expected::Client(head.last.0)),
        };
        let event_id = append.drafts[0].event_id;
        let mut unsure = shared;
        loop {
            match store.append(append.clone()).await {
                Ok(appended) => {
                    if let Expected::Exactly(last) = append.expected
                        && !appended.replayed
                    {
                        assert_eq!(appended.records[0].sequence.0, last.0 + 1, "the expectation held");
                    }
                    for record in &appended.records {
                        told.written.insert(record.event_id, (record.sequence, record.position));
                    }
                    break;
                }
                Err(AppendError::Conflict { .. }) => {
                    told.refused.insert(event_id);
                    break;
                }
                // Nothing of it was written, so it may be given up.
                Err(AppendError::Unavailable(_) | AppendError::Busy) if !unsure && random.below(3) == 0 => {
                    told.refused.insert(event_id);
                    break;
                }
                // The same again, until the truth is known.
                Err(AppendError::Unavailable(_) | AppendError::Busy) => {}
                Err(AppendError::Unknown { .. }) => unsure = true,
                Err(error) => panic!("{error}"),
            }
        }
    }
    told
}

/// Runs the writers; gives the objects and what was told.
async fn run(seed: u64) -> (Arc<MemoryStore>, Vec<Told>) {
    let objects = Arc::new(MemoryStore::new());
    // The store exists before: creating it is another test.
    start_with(objects.clone(), Arc::new(MemoryIndex::new()), options(), clock(seed)).await.end().await;
    let (mut faults, mut clocks, mut processes) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WRITERS {
        let store = Arc::new(Faulty::scripted(objects.clone(), []));
        let time = clock(seed.wrapping_mul(100) + number + 1);
        let options = Options {
            follow_ms: (number == 0).then_some(20),
            heads_max: if number == 1 { 2 } else { 1_000 },
            unresolved_answer_after_ms: 100,
            ..options()
        };
        processes.push(start_with(store.clone(), Arc::new(MemoryIndex::new()), options, time.clone()).await);
        store.seed(seed.wrapping_add(number * 77), CHANCES);
        faults.push(store);
        clocks.push(time);
    }
    let writers = processes.iter().zip(0..).map(|(process, number)| writer(number, seed, process.store.clone()));
    let told = with_time(&clocks, futures_util::future::join_all(writers)).await;
    for store in faults {
        store.heal().await.unwrap();
    }
    let ends = processes.into_iter().map(Process::end);
    with_time(&clocks, futures_util::future::join_all(ends)).await;
    (objects, told)
}

async fn history(objects: &MemoryStore) -> Vec<Bytes> {
    let mut segments = Vec::new();
    for key in objects.list("events/", None, 10_000).await.unwrap().keys {
        segments.push(objects.get(&key).await.unwrap().unwrap());
    }
    segments
}

/// Dense numbers, an unbroken chain, one position for each id.
fn audit(history: &[Bytes]) -> HashMap<Uuid, (Sequence, Position)> {
    let mut places = HashMap::new();
    let mut lasts: HashMap<Aggregate, Sequence> = HashMap::new();
    let (mut digest, mut position) = (segment::NO_DIGEST, Position(0));
    for (number, bytes) in history.iter().enumerate() {
        let segment = segment::decode(bytes.clone()).unwrap();
        assert_eq!(segment.header.segment.0, number as u64);
        assert_eq!((segment.header.prev_digest, segment.header.first_position), (digest, position));
        for event in &segment.events {
            let last = lasts.entry(event.aggregate.clone()).or_default();
            assert_eq!(event.sequence.0, last.0 + 1);
            *last = event.sequence;
            let earlier = places.insert(event.event_id, (event.sequence, position));
            assert_eq!(earlier, None, "one id, one position");
            position = Position(position.0 + 1);
        }
        digest = segment.digest;
    }
    places
}

#[tokio::test]
async fn writers_on_a_faulty_store_leave_one_clean_history() {
    let mut collisions = 0;
    for seed in 0..30 {
        let (objects, told) = run(seed).await;
        let segments = history(&objects).await;
        let places = audit(&segments);
        let mut writers = HashSet::new();
        for bytes in &segments {
            writers.insert(segment::decode_header(bytes).unwrap().put_id);
        }
        collisions += writers.len();
        for told in &told {
            for (id, place) in &told.written {
                assert_eq!(places.get(id), Some(place), "seed {seed}: {id} was acknowledged there");
            }
        }
        let written: HashSet<&Uuid> = told.iter().flat_map(|told| told.written.keys()).collect();
        for refused in told.iter().flat_map(|told| &told.refused).filter(|id| !written.contains(id)) {
            assert!(!places.contains_key(refused), "seed {seed}: {refused} was refused and is written");
        }
        let index = Arc::new(MemoryIndex::new());
        let process = start(objects.clone(), index.clone(), options()).await;
        assert_eq!(process.report.folded_events, places.len() as u64);
        process.end().await;
        let report =
            verify::verify(objects.as_ref(), Some(index.as_ref()), pack::Size::default(), |_| {}).await.unwrap();
        assert_eq!((report.findings, report.index_behind), (Vec::new(), 0));
    }
    assert!(collisions > 500, "the runs are long enough to mean something: {collisions} segments");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_history() {
    for seed in 0..6 {
        let (first, second) = (run(seed).await.0, run(seed).await.0);
        assert_eq!(history(&first).await, history(&second).await);
    }
}
