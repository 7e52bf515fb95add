//! What every index must do. Each function takes an empty index.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use uuid::Uuid;

use super::{Applied, EventRow, Head, Index, Seen, SegmentRows, Watermark};
use crate::domain::{
    Aggregate, Digest, EventKind, Partition, Position, SegmentNumber, Sequence, Timestamp, derived_id,
};

const P0: Partition = Partition(0);

/// An aggregate of a type without narrower rules.
pub fn account(id: &str) -> Aggregate {
    Aggregate::parse("Account", id).unwrap()
}

fn zero() -> Watermark {
    Watermark { segments: SegmentNumber(0), next_position: Position(0), digest: Digest([0; 32]) }
}

fn command(partition: Partition, segment: u64, position: u64, aggregate: &Aggregate, sequence: u64) -> EventRow {
    EventRow {
        event_id: Uuid::from_u64_pair(u64::from(partition.0) + 1, position),
        partition,
        segment: SegmentNumber(segment),
        position: Position(position),
        aggregate: aggregate.clone(),
        sequence: Sequence(sequence),
        kind: EventKind::Command,
        event_type: Arc::from("OPEN_REQUESTED"),
        command_id: None,
        fingerprint: Some(Digest::of(&position.to_be_bytes())),
    }
}

fn outcome(of: &EventRow, position: u64, sequence: u64) -> EventRow {
    EventRow {
        event_id: derived_id::domain_event(of.event_id, 0),
        position: Position(position),
        sequence: Sequence(sequence),
        kind: EventKind::Domain,
        event_type: Arc::from("OPENED"),
        command_id: Some(of.event_id),
        fingerprint: None,
        ..of.clone()
    }
}

fn segment(number: u64, first: u64, events: Vec<EventRow>, heads: Vec<(Aggregate, Head)>) -> SegmentRows {
    SegmentRows {
        segment: SegmentNumber(number),
        digest: Digest::of(&number.to_be_bytes()),
        first_position: Position(first),
        recorded_at: Timestamp(1_765_929_600_000 + i64::try_from(number).unwrap()),
        events,
        heads,
    }
}

fn head(last: u64, command: u64, domain: u64, foreign: u64) -> Head {
    Head {
        last: Sequence(last),
        last_command: Sequence(command),
        last_domain: Sequence(domain),
        last_foreign: Sequence(foreign),
    }
}

/// Two segments: a and b opened; then a's outcome.
fn two_segments() -> [SegmentRows; 2] {
    let (a, b) = (account("a"), account("b"));
    let asked = command(P0, 0, 0, &a, 1);
    let mut done = outcome(&asked, 2, 2);
    done.segment = SegmentNumber(1);
    [
        segment(
            0,
            0,
            vec![asked, command(P0, 0, 1, &b, 1)],
            vec![(a.clone(), head(1, 1, 0, 0)), (b, head(1, 1, 0, 0))],
        ),
        segment(1, 2, vec![done], vec![(a, head(2, 1, 2, 0))]),
    ]
}

/// Runs all of it.
pub async fn all<I: Index>(empty: impl AsyncFn() -> I) {
    an_empty_index_knows_nothing(empty().await).await;
    folded_segments_are_found(empty().await).await;
    one_of_two_writers_moves_the_watermark(empty().await).await;
    a_refused_apply_leaves_nothing(empty().await).await;
    segments_that_do_not_follow_are_refused(empty().await).await;
    heads_never_go_back(empty().await).await;
    partitions_are_apart(empty().await).await;
    ids_are_found_whatever_made_them(empty().await).await;
    streams_and_lists_are_paged(empty().await).await;
    reset_forgets_everything(empty().await).await;
    a_lookup_is_one_snapshot(empty().await).await;
}

/// Rows of one aggregate.
async fn stream(index: &impl Index, aggregate: &Aggregate, after: u64, limit: usize) -> Vec<EventRow> {
    let found = index.streams(&[(aggregate.clone(), Sequence(after))], limit).await.unwrap();
    found.into_iter().next().unwrap()
}

async fn an_empty_index_knows_nothing(index: impl Index) {
    assert_eq!(index.store_id().await.unwrap(), None);
    assert_eq!(index.watermark(P0).await.unwrap(), zero());
    let found = index.lookup(P0, &[account("a")], &[Uuid::nil()]).await.unwrap();
    assert_eq!(found.watermark, zero());
    assert_eq!(found.heads, [Head::default()]);
    assert_eq!(found.events, [None]);
    assert_eq!(index.locate(P0, Position(0)).await.unwrap(), None);
    assert!(stream(&index, &account("a"), 0, 10).await.is_empty());
    assert!(index.aggregates("Account", None, 10).await.unwrap().is_empty());
}

async fn folded_segments_are_found(index: impl Index) {
    let segments = two_segments();
    assert_eq!(index.apply(P0, &zero(), &segments).await.unwrap(), Applied::Done);
    let watermark = Watermark { segments: SegmentNumber(2), next_position: Position(3), digest: segments[1].digest };
    assert_eq!(index.watermark(P0).await.unwrap(), watermark);
    let (asked, done) = (&segments[0].events[0], &segments[1].events[0]);
    let aggregates = [account("nobody"), account("b"), account("a"), account("a")];
    let ids = [done.event_id, Uuid::nil(), asked.event_id, asked.event_id];
    let found = index.lookup(P0, &aggregates, &ids).await.unwrap();
    assert_eq!(found.watermark, watermark);
    assert_eq!(found.heads, [Head::default(), head(1, 1, 0, 0), head(2, 1, 2, 0), head(2, 1, 2, 0)]);
    assert_eq!(found.events, [Some(done.clone()), None, Some(asked.clone()), Some(asked.clone())]);
    for (position, place) in [(0, (0, 0)), (1, (0, 0)), (2, (1, 2))] {
        let place = (SegmentNumber(place.0), Position(place.1));
        assert_eq!(index.locate(P0, Position(position)).await.unwrap(), Some(place));
    }
    assert_eq!(index.locate(P0, Position(3)).await.unwrap(), None);
    assert_eq!(stream(&index, &account("a"), 0, 10).await, [asked.clone(), done.clone()]);
}

async fn one_of_two_writers_moves_the_watermark(index: impl Index) {
    let [first, second] = two_segments();
    let (first, from) = ([first], zero());
    let (left, right) = tokio::join!(index.apply(P0, &from, &first), index.apply(P0, &from, &first));
    let moved = index.watermark(P0).await.unwrap();
    let mut results = [left.unwrap(), right.unwrap()];
    results.sort_by_key(|applied| *applied != Applied::Done);
    assert_eq!(results, [Applied::Done, Applied::Moved(moved.clone())]);
    let wrong_digest = Watermark { digest: Digest::of(b"another history"), ..moved.clone() };
    let second = [second];
    assert_eq!(index.apply(P0, &wrong_digest, &second).await.unwrap(), Applied::Moved(moved.clone()));
    assert_eq!(index.apply(P0, &moved, &second).await.unwrap(), Applied::Done);
}

async fn a_refused_apply_leaves_nothing(index: impl Index) {
    let [first, second] = two_segments();
    index.apply(P0, &zero(), &[first]).await.unwrap();
    let elsewhere = Watermark { digest: Digest::of(b"another history"), ..index.watermark(P0).await.unwrap() };
    let id = second.events[0].event_id;
    assert!(matches!(index.apply(P0, &elsewhere, &[second]).await.unwrap(), Applied::Moved(_)));
    let found = index.lookup(P0, &[account("a")], &[id]).await.unwrap();
    assert_eq!((found.heads, found.events), (vec![head(1, 1, 0, 0)], vec![None]));
}

async fn segments_that_do_not_follow_are_refused(index: impl Index) {
    let [first, second] = two_segments();
    assert!(index.apply(P0, &zero(), &[second.clone(), first.clone()]).await.is_err());
    assert!(index.apply(P0, &zero(), &[second]).await.is_err());
    let mut gap = first;
    gap.events[1].position = Position(5);
    assert!(index.apply(P0, &zero(), &[gap]).await.is_err());
    assert_eq!(index.watermark(P0).await.unwrap(), zero());
}

async fn heads_never_go_back(index: impl Index) {
    let a = account("a");
    let first = segment(0, 0, vec![command(P0, 0, 0, &a, 1)], vec![(a.clone(), head(1, 1, 0, 0))]);
    let second = segment(1, 1, vec![command(P0, 1, 1, &a, 2)], vec![(a.clone(), head(2, 2, 0, 0))]);
    // Both in one call: the head of the later segment counts.
    index.apply(P0, &zero(), &[first, second]).await.unwrap();
    assert_eq!(index.lookup(P0, &[a], &[]).await.unwrap().heads, [head(2, 2, 0, 0)]);
}

async fn partitions_are_apart(index: impl Index) {
    let (p1, c) = (Partition(1), account("c"));
    index.apply(P0, &zero(), &two_segments()).await.unwrap();
    assert_eq!(index.watermark(p1).await.unwrap(), zero());
    let row = command(p1, 0, 0, &c, 1);
    let there = segment(0, 0, vec![row.clone()], vec![(c.clone(), head(1, 1, 0, 0))]);
    assert_eq!(index.apply(p1, &zero(), &[there]).await.unwrap(), Applied::Done);
    assert_eq!(index.watermark(P0).await.unwrap().segments, SegmentNumber(2));
    // An id is found whichever partition is asked, so that it is not used again for an aggregate of another.
    assert_eq!(index.lookup(P0, &[], &[row.event_id]).await.unwrap().events, [Some(row.clone())]);
    assert_eq!(stream(&index, &c, 0, 10).await, [row]);
}

/// Ids of commands may be derived (from an `Idempotency-Key`, from the command that issued them), those of domain
/// events need not be, if somebody else wrote the log.
async fn ids_are_found_whatever_made_them(index: impl Index) {
    let a = account("a");
    let keyed = EventRow { event_id: derived_id::idempotency_key("key"), ..command(P0, 0, 0, &a, 1) };
    let strange = EventRow { event_id: Uuid::from_u64_pair(7, 7), ..outcome(&keyed, 1, 2) };
    let other = command(P0, 0, 2, &a, 3);
    let derived = outcome(&other, 3, 4);
    let events = vec![keyed, strange, other, derived];
    let rows = segment(0, 0, events.clone(), vec![(a, head(4, 3, 4, 0))]);
    index.apply(P0, &zero(), &[rows]).await.unwrap();
    let mut ids: Vec<Uuid> = events.iter().map(|event| event.event_id).collect();
    ids.push(derived_id::domain_event(ids[0], 0));
    let mut expected: Vec<Option<EventRow>> = events.into_iter().map(Some).collect();
    expected.push(None);
    assert_eq!(index.lookup(P0, &[], &ids).await.unwrap().events, expected);
}

async fn streams_and_lists_are_paged(index: impl Index) {
    let a = account("a");
    let events: Vec<_> = (0..5).map(|n| command(P0, 0, n, &a, n + 1)).collect();
    let mut heads = vec![(a.clone(), head(5, 5, 0, 0))];
    heads.extend(["B", "Z", "é", "z"].map(|id| (account(id), head(1, 1, 0, 0))));
    index.apply(P0, &zero(), &[segment(0, 0, events.clone(), heads)]).await.unwrap();
    assert_eq!(stream(&index, &a, 1, 2).await, events[1..3]);
    assert_eq!(stream(&index, &a, 5, 2).await, []);
    let asked = [(a.clone(), 3), (account("nobody"), 0), (a.clone(), 0), (a.clone(), 9)];
    let found = index.streams(&asked.map(|(aggregate, after)| (aggregate, Sequence(after))), 3).await.unwrap();
    assert_eq!(found, [&events[3..], &[], &events[..3], &[]], "of each so many, in the order asked");
    assert!(index.streams(&[], 3).await.unwrap().is_empty());
    let all = index.aggregates("Account", None, 10).await.unwrap();
    assert_eq!(all.iter().map(|x| x.id.as_str()).collect::<Vec<_>>(), ["B", "Z", "a", "z", "é"]);
    let page = index.aggregates("Account", Some("Z"), 2).await.unwrap();
    assert_eq!(page, [account("a"), account("z")]);
    assert_eq!(index.aggregates("Account2", None, 10).await.unwrap(), []);
}

async fn reset_forgets_everything(index: impl Index) {
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let seen = |store, watermark: Option<Watermark>| Seen { store, watermark: watermark.map(|w| (P0, w)) };
    let before = index.store_id().await.unwrap();
    assert!(index.reset(first, &seen(before, None)).await.unwrap());
    index.apply(P0, &zero(), &two_segments()).await.unwrap();
    assert_eq!(index.store_id().await.unwrap(), Some(first));
    // Somebody else was faster: what was done since stays.
    let at = index.watermark(P0).await.unwrap();
    let earlier = Watermark { digest: Digest([9; 32]), ..at.clone() };
    assert!(!index.reset(second, &seen(Some(second), None)).await.unwrap());
    assert!(!index.reset(second, &seen(None, None)).await.unwrap());
    assert!(!index.reset(second, &seen(Some(first), Some(earlier))).await.unwrap());
    assert_eq!(index.watermark(P0).await.unwrap(), at);
    assert!(index.reset(second, &seen(Some(first), Some(at))).await.unwrap());
    assert_eq!(index.store_id().await.unwrap(), Some(second));
    assert_eq!(index.watermark(P0).await.unwrap(), zero());
    assert!(stream(&index, &account("a"), 0, 10).await.is_empty());
    assert!(index.aggregates("Account", None, 10).await.unwrap().is_empty());
    assert_eq!(index.apply(P0, &zero(), &two_segments()).await.unwrap(), Applied::Done);
}

/// While one task folds, another looks up: rows and watermark always belong together.
async fn a_lookup_is_one_snapshot(index: impl Index) {
    const SEGMENTS: u64 = 30;
    let a = account("a");
    let fold = async {
        let mut from = zero();
        for n in 0..SEGMENTS {
            let rows = segment(n, n, vec![command(P0, n, n, &a, n + 1)], vec![(a.clone(), head(n + 1, n + 1, 0, 0))]);
            assert_eq!(index.apply(P0, &from, std::slice::from_ref(&rows)).await.unwrap(), Applied::Done);
            from = Watermark { segments: SegmentNumber(n + 1), next_position: Position(n + 1), digest: rows.digest };
            tokio::task::yield_now().await;
        }
    };
    let watch = async {
        loop {
            let found = index.lookup(P0, std::slice::from_ref(&a), &[]).await.unwrap();
            assert_eq!(found.watermark.next_position.0, found.heads[0].last.0);
            if found.watermark.segments.0 == SEGMENTS {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(fold, watch);
}
