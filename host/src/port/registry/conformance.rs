//! What every registry, and every keeper of dead letters, must do. Each function takes an empty one.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use uuid::Uuid;

use super::{Claim, ClaimFilter, ClaimRow, Claimed, DeadLetter, DeadLetters, Finished, Owner, Registry, Status};
use crate::domain::{Sequence, Timestamp};

const H: &str = "instance_worker";
const LEASE_MS: i64 = 1000;
const T0: Timestamp = Timestamp(1_765_929_600_000);

/// A run of a process.
pub fn owner(name: &str, run: u64) -> Owner {
    Owner { name: name.into(), run }
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// Event `n` of aggregate `a`, with sequence `n`.
pub fn claim(n: u64) -> Claim {
    Claim { event_id: id(n.into()), aggregate_id: "a".into(), sequence: Sequence(n) }
}

fn finished(n: u64, attempt: u32) -> Finished {
    Finished { event_id: id(n.into()), aggregate_id: "a".into(), sequence: Sequence(n), attempt }
}

async fn claim_one(registry: &impl Registry, by: &Owner, n: u64, now: Timestamp) -> Claimed {
    registry.claim(H, by, &[claim(n)], LEASE_MS, now).await.unwrap().remove(0)
}

async fn row(registry: &impl Registry, n: u64) -> Option<ClaimRow> {
    let filter = ClaimFilter { event_ids: vec![id(n.into())], limit: 10, ..ClaimFilter::default() };
    registry.rows(&filter).await.unwrap().into_iter().next()
}

/// Runs all of it.
pub async fn all<R: Registry>(empty: impl AsyncFn() -> R) {
    a_claim_is_won_once_and_done_once(&empty().await).await;
    concurrent_claims_give_one_winner(&empty().await).await;
    one_call_answers_in_order_and_claims_a_repeated_event_once(&empty().await).await;
    an_expired_lease_is_taken_over_with_another_attempt(&empty().await).await;
    a_later_run_takes_over_at_once_and_no_other(&empty().await).await;
    a_zombie_finishes_nothing(&empty().await).await;
    a_failed_event_is_claimable_and_a_parked_one_is_not(&empty().await).await;
    stale_is_only_what_has_no_row(&empty().await).await;
    the_version_of_an_aggregate_only_grows(&empty().await).await;
    handlers_are_apart(&empty().await).await;
    rows_are_filtered_and_paged(&empty().await).await;
    retiring_keeps_what_is_needed_and_is_bounded(&empty().await).await;
}

async fn a_claim_is_won_once_and_done_once(registry: &impl Registry) {
    let me = owner("host:a", 1);
    assert!(registry.claim(H, &me, &[], LEASE_MS, T0).await.unwrap().is_empty());
    assert_eq!(claim_one(registry, &me, 1, T0).await, Claimed::Yes { attempt: 1 });
    assert_eq!(claim_one(registry, &me, 1, T0).await, Claimed::InProgress);
    assert_eq!(claim_one(registry, &owner("host:b", 1), 1, T0).await, Claimed::InProgress);
    let claimed = row(registry, 1).await.unwrap();
    assert_eq!((claimed.status.as_str(), claimed.owner.as_deref()), ("processing", Some("host:a#1")));
    assert_eq!((claimed.started_at, claimed.heartbeat_at, claimed.processed_at), (Some(T0), Some(T0), None));
    let then = T0.plus_ms(5);
    assert!(registry.done(H, &me, &[finished(1, 1)], then).await.unwrap().is_empty());
    assert_eq!(claim_one(registry, &me, 1, T0.plus_ms(10 * LEASE_MS)).await, Claimed::DuplicateDone);
    let done = row(registry, 1).await.unwrap();
    assert_eq!((done.status.as_str(), done.processed_at, done.attempt_count), ("done", Some(then), 1));
    // Said again, it is not ours any more; nothing changes.
    assert_eq!(registry.done(H, &me, &[finished(1, 1)], then.plus_ms(5)).await.unwrap(), [id(1)]);
    assert_eq!(row(registry, 1).await.unwrap(), done);
}

async fn concurrent_claims_give_one_winner(registry: &impl Registry) {
    let owners: Vec<_> = (0..8).map(|n| owner(&format!("host:{n}"), 1)).collect();
    let claims: Vec<_> = (1..=20).map(claim).collect();
    let all = owners.iter().map(|by| registry.claim(H, by, &claims, LEASE_MS, T0));
    let answers = futures_util::future::join_all(all).await;
    for place in 0..claims.len() {
        let won = answers.iter().filter(|a| a.as_ref().unwrap()[place] == Claimed::Yes { attempt: 1 }).count();
        let busy = answers.iter().filter(|a| a.as_ref().unwrap()[place] == Claimed::InProgress).count();
        assert_eq!((won, busy), (1, owners.len() - 1));
    }
}

async fn one_call_answers_in_order_and_claims_a_repeated_event_once(registry: &impl Registry) {
    let me = owner("host:a", 1);
    claim_one(registry, &me, 2, T0).await;
    registry.done(H, &me, &[finished(2, 1)], T0).await.unwrap();
    let claims = [claim(4), claim(2), claim(3), claim(4), claim(1)];
    let answers = registry.claim(H, &me, &claims, LEASE_MS, T0).await.unwrap();
    let yes = Claimed::Yes { attempt: 1 };
    assert_eq!(answers, [yes.clone(), Claimed::DuplicateDone, yes, Claimed::InProgress, Claimed::Stale]);
}

async fn an_expired_lease_is_taken_over_with_another_attempt(registry: &impl Registry) {
    let (one, two) = (owner("host:a", 1), owner("host:b", 1));
    claim_one(registry, &one, 1, T0).await;
    let renewed = T0.plus_ms(600);
    assert!(registry.heartbeat(H, &one, &[id(1)], renewed).await.unwrap().is_empty());
    assert_eq!(claim_one(registry, &two, 1, T0.plus_ms(LEASE_MS + 1)).await, Claimed::InProgress);
    let expired = renewed.plus_ms(LEASE_MS);
    assert_eq!(claim_one(registry, &two, 1, expired.plus_ms(-1)).await, Claimed::InProgress);
    assert_eq!(claim_one(registry, &two, 1, expired).await, Claimed::Yes { attempt: 2 });
    assert_eq!(registry.heartbeat(H, &one, &[id(1), id(7)], expired).await.unwrap(), [id(1), id(7)]);
    assert_eq!(row(registry, 1).await.unwrap().owner.as_deref(), Some("host:b#1"));
}

async fn a_later_run_takes_over_at_once_and_no_other(registry: &impl Registry) {
    claim_one(registry, &owner("host:a", 9), 1, T0).await;
    claim_one(registry, &owner("host:a#2", 1), 2, T0).await;
    for other in [owner("host:a", 9), owner("host:a", 8), owner("host:b", 10), owner("host:", 10), owner("host", 99)] {
        assert_eq!(claim_one(registry, &other, 1, T0).await, Claimed::InProgress, "{other}");
    }
    assert_eq!(claim_one(registry, &owner("host:a", 10), 1, T0).await, Claimed::Yes { attempt: 2 });
    // `host:a#2#1` is run 1 of `host:a#2`, and no run of `host:a`.
    assert_eq!(claim_one(registry, &owner("host:a", 10), 2, T0).await, Claimed::InProgress);
}

async fn a_zombie_finishes_nothing(registry: &impl Registry) {
    let (zombie, heir) = (owner("host:a", 1), owner("host:a", 2));
    claim_one(registry, &zombie, 1, T0).await;
    claim_one(registry, &zombie, 2, T0).await;
    claim_one(registry, &heir, 1, T0).await;
    let lost = registry.done(H, &zombie, &[finished(1, 1), finished(2, 1)], T0).await.unwrap();
    assert_eq!(lost, [id(1)]);
    assert_eq!(row(registry, 1).await.unwrap().status, "processing");
    assert_eq!(row(registry, 2).await.unwrap().status, "done");
    claim_one(registry, &zombie, 3, T0).await;
    // Of several, what is ours is ended, and what is not is told.
    let lost = registry.fail(H, &zombie, &[finished(1, 1), finished(3, 1)], Status::Failed, "late", T0).await.unwrap();
    assert_eq!(lost, [id(1)]);
    assert_eq!(row(registry, 1).await.unwrap().status, "processing");
    assert_eq!(row(registry, 3).await.unwrap().last_error.as_deref(), Some("late"));
    // The same owner with an attempt of the past is a zombie too.
    assert_eq!(registry.done(H, &heir, &[finished(1, 1)], T0).await.unwrap(), [id(1)]);
    assert!(registry.done(H, &heir, &[finished(1, 2)], T0).await.unwrap().is_empty());
}

async fn a_failed_event_is_claimable_and_a_parked_one_is_not(registry: &impl Registry) {
    let (me, other) = (owner("host:a", 1), owner("host:b", 1));
    claim_one(registry, &me, 1, T0).await;
    let why = "the handler trapped";
    assert!(registry.fail(H, &me, &[finished(1, 1)], Status::Failed, why, T0).await.unwrap().is_empty());
    assert_eq!(row(registry, 1).await.unwrap().last_error.as_deref(), Some(why));
    assert_eq!(claim_one(registry, &other, 1, T0).await, Claimed::Yes { attempt: 2 });
    assert!(registry.fail(H, &other, &[finished(1, 2)], Status::Parked, "again", T0).await.unwrap().is_empty());
    assert_eq!(claim_one(registry, &owner("host:b", 2), 1, T0.plus_ms(10 * LEASE_MS)).await, Claimed::Parked);
    assert!(registry.release(H, id(1), T0).await.unwrap());
    let released = row(registry, 1).await.unwrap();
    assert_eq!((released.status.as_str(), released.owner), ("failed", None));
    assert_eq!(claim_one(registry, &me, 1, T0).await, Claimed::Yes { attempt: 3 });
    registry.done(H, &me, &[finished(1, 3)], T0).await.unwrap();
    assert_eq!(row(registry, 1).await.unwrap().last_error, None);
    assert!(!registry.release(H, id(1), T0).await.unwrap());
    assert!(!registry.release(H, id(2), T0).await.unwrap());
}

async fn stale_is_only_what_has_no_row(registry: &impl Registry) {
    let me = owner("host:a", 1);
    claim_one(registry, &me, 1, T0).await;
    claim_one(registry, &me, 3, T0).await;
    registry.done(H, &me, &[finished(3, 1)], T0).await.unwrap();
    // 1 has a row: it is taken up again although the aggregate is past it.
    registry.fail(H, &me, &[finished(1, 1)], Status::Failed, "e", T0).await.unwrap();
    assert_eq!(claim_one(registry, &me, 1, T0).await, Claimed::Yes { attempt: 2 });
    assert_eq!(claim_one(registry, &me, 2, T0).await, Claimed::Stale);
    assert_eq!(claim_one(registry, &me, 2, T0).await, Claimed::Stale);
    assert_eq!(row(registry, 2).await.unwrap().status, "skipped_stale");
    assert_eq!(claim_one(registry, &me, 4, T0).await, Claimed::Yes { attempt: 1 });
}

async fn the_version_of_an_aggregate_only_grows(registry: &impl Registry) {
    let me = owner("host:a", 1);
    let claims: Vec<_> = [5, 6, 7].map(claim).into();
    registry.claim(H, &me, &claims, LEASE_MS, T0).await.unwrap();
    registry.done(H, &me, &[finished(7, 1), finished(5, 1)], T0).await.unwrap();
    registry.done(H, &me, &[finished(6, 1)], T0).await.unwrap();
    assert_eq!(claim_one(registry, &me, 4, T0).await, Claimed::Stale);
    assert_eq!(claim_one(registry, &me, 8, T0).await, Claimed::Yes { attempt: 1 });
    let lower = Claim { event_id: id(100), aggregate_id: "a".into(), sequence: Sequence(7) };
    assert_eq!(registry.claim(H, &me, &[lower], LEASE_MS, T0).await.unwrap(), [Claimed::Stale]);
}

async fn handlers_are_apart(registry: &impl Registry) {
    let me = owner("host:a", 1);
    claim_one(registry, &me, 1, T0).await;
    registry.done(H, &me, &[finished(1, 1)], T0).await.unwrap();
    let other = registry.claim("projection_worker:instance_events", &me, &[claim(1)], LEASE_MS, T0).await.unwrap();
    assert_eq!(other, [Claimed::Yes { attempt: 1 }]);
}

async fn rows_are_filtered_and_paged(registry: &impl Registry) {
    let me = owner("host:a", 1);
    for handler in ["b", "a", "c"] {
        let claims: Vec<_> = (1..=4).map(claim).collect();
        registry.claim(handler, &me, &claims, LEASE_MS, T0).await.unwrap();
        registry.fail(handler, &me, &[finished(2, 1)], Status::Parked, "e", T0).await.unwrap();
    }
    let find = async |filter: ClaimFilter| -> Vec<(String, u128)> {
        let rows = registry.rows(&filter).await.unwrap();
        rows.into_iter().map(|row| (row.handler, row.event_id.as_u128())).collect()
    };
    let all = ClaimFilter { limit: 100, ..ClaimFilter::default() };
    assert_eq!(find(all.clone()).await.len(), 12);
    let first = find(ClaimFilter { limit: 5, ..all.clone() }).await;
    assert_eq!(first.last(), Some(&("b".to_owned(), 1)));
    let next = ClaimFilter { limit: 3, after: Some(("b".into(), id(1))), ..all.clone() };
    assert_eq!(find(next).await, [("b".into(), 2), ("b".into(), 3), ("b".into(), 4)]);
    let parked = ClaimFilter { status: Some(Status::Parked), ..all.clone() };
    assert_eq!(find(parked.clone()).await, [("a".into(), 2), ("b".into(), 2), ("c".into(), 2)]);
    let of_one = ClaimFilter { handler: Some("b".into()), ..parked };
    assert_eq!(find(of_one).await, [("b".into(), 2)]);
    let by_id = ClaimFilter { event_ids: vec![id(3), id(9), id(3)], ..all.clone() };
    assert_eq!(find(by_id.clone()).await, [("a".into(), 3), ("b".into(), 3), ("c".into(), 3)]);
    let by_both = ClaimFilter { handler: Some("c".into()), ..by_id.clone() };
    assert_eq!(find(by_both).await, [("c".into(), 3)]);
    let by_id_after = ClaimFilter { after: Some(("a".into(), id(3))), limit: 1, ..by_id };
    assert_eq!(find(by_id_after).await, [("b".into(), 3)]);
}

async fn retiring_keeps_what_is_needed_and_is_bounded(registry: &impl Registry) {
    let me = owner("host:a", 1);
    let claims: Vec<_> = (1..=6).map(claim).collect();
    registry.claim(H, &me, &claims, LEASE_MS, T0).await.unwrap();
    let old: Vec<_> = (1..=4).map(|n| finished(n, 1)).collect();
    registry.done(H, &me, &old, T0).await.unwrap();
    registry.done(H, &me, &[finished(5, 1)], T0.plus_ms(100)).await.unwrap();
    let before = T0.plus_ms(50);
    // A registry may retire early what the versions of aggregates tell, unless somebody looks at it.
    let all = ClaimFilter { limit: 10, ..ClaimFilter::default() };
    assert_eq!(registry.rows(&all).await.unwrap().len(), 6);
    assert_eq!(registry.retire(T0, 10).await.unwrap(), 0);
    assert_eq!(registry.retire(before, 3).await.unwrap(), 3);
    assert_eq!(registry.retire(before, 3).await.unwrap(), 1);
    assert_eq!(registry.retire(before, 3).await.unwrap(), 0);
    let left: HashSet<_> = registry.rows(&all).await.unwrap().into_iter().map(|row| row.sequence_number).collect();
    assert_eq!(left, HashSet::from([5, 6]));
    // A later call begins anew where an earlier one had come to the end.
    registry.done(H, &me, &[finished(6, 1)], T0).await.unwrap();
    assert_eq!(registry.retire(before, 10).await.unwrap(), 1);
    // What was retired is not handled again.
    assert_eq!(claim_one(registry, &me, 2, T0).await, Claimed::Stale);
}

/// Runs the suite of dead letters.
pub async fn dead_letters(letters: &impl DeadLetters) {
    let letter = |n: u64| DeadLetter {
        id: id(n.into()),
        handler: H.into(),
        event_id: Some(id(u128::from(n) + 100)),
        aggregate_type: "Account".into(),
        aggregate_id: "a".into(),
        sequence_number: 10 - n,
        reason: "trap".into(),
        error: "the handler trapped: \"unreachable\"".into(),
        parked_at: T0,
        state: "parked".into(),
        coordinates: None,
        operation: Sequence(n),
    };
    let strange = DeadLetter {
        event_id: None,
        aggregate_id: String::new(),
        reason: "not-an-envelope".into(),
        coordinates: Some("account_commands/0/7".into()),
        ..letter(5)
    };
    for letter in [&letter(2), &letter(1), &letter(3), &strange] {
        assert!(letters.put(letter).await.unwrap());
    }
    assert_eq!(letters.get(id(5)).await.unwrap(), Some(strange.clone()));
    assert_eq!(letters.get(id(9)).await.unwrap(), None);
    let released = DeadLetter { state: "released".into(), operation: Sequence(6), ..letter(2) };
    assert!(letters.put(&released).await.unwrap());
    assert!(letters.put(&released).await.unwrap(), "told again");
    assert!(!letters.put(&letter(2)).await.unwrap(), "told by one that is behind");
    assert_eq!(letters.list(Some("parked"), None, 2).await.unwrap(), [letter(1), letter(3)]);
    assert_eq!(letters.list(Some("parked"), Some(id(3)), 2).await.unwrap(), std::slice::from_ref(&strange));
    assert_eq!(letters.list(None, Some(id(1)), 10).await.unwrap(), [released, letter(3), strange]);
}
