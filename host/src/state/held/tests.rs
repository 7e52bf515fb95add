//! What is under way, what waits, until when, and what the checkpoint waits for.
#![allow(clippy::unwrap_used)]

use super::*;

/// The batch that most tests are about.
const B: BatchNumber = 1;

fn aggregate(id: &str) -> Aggregate {
    Aggregate::parse("Account", id).unwrap()
}

fn place(position: u64) -> Place {
    Place { position: Position(position), sequence: Sequence(position + 1) }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn the_checkpoint_waits_for_the_first_event_under_way_or_waiting_and_not_parked() {
    let mut held = Held::default();
    assert_eq!(held.least(), None);
    assert!(held.take(&aggregate("a"), place(7), B));
    held.wait(&aggregate("c"), place(6), ms(10));
    held.fail(&aggregate("b"), place(5), ms(0));
    assert_eq!(held.least(), Some(Position(5)));
    held.park(&aggregate("b"), place(5));
    assert_eq!(held.least(), Some(Position(6)));
    held.take_due(ms(10), 10, B);
    held.end(&aggregate("c"), B, true, ms(10));
    assert_eq!(held.least(), Some(Position(7)));
}

#[test]
fn what_comes_of_an_aggregate_under_way_or_waiting_is_noted_and_not_taken() {
    let mut held = Held::default();
    let a = aggregate("a");
    assert!(held.take(&a, place(1), B));
    assert!(!held.take(&a, place(4), 2) && !held.take(&a, place(6), 2));
    assert_eq!(held.next_due(), None);
    held.end(&a, B, true, ms(5));
    assert_eq!(held.least(), Some(Position(4)), "what was under way has its effect");
    assert!(!held.take(&a, place(8), 2), "it is due");
    assert_eq!(held.take_due(ms(5), 10, 2), vec![(a.clone(), place(4))]);
    held.end(&a, B, true, ms(5));
    assert_eq!(held.waiting(), 1, "another batch has it");
    held.end(&a, 2, true, ms(5));
    assert_eq!(held.waiting(), 0);
}

#[test]
fn the_checkpoint_after_a_batch_waits_for_others_and_for_what_the_batch_leaves() {
    let mut held = Held::default();
    for (id, position, batch) in [("a", 1, 1), ("b", 2, 2), ("c", 3, 2)] {
        assert!(held.take(&aggregate(id), place(position), batch));
    }
    assert_eq!(held.least_after(2), Some(Position(1)));
    assert_eq!(held.least_after(1), Some(Position(2)));
    held.end(&aggregate("a"), 1, true, ms(0));
    assert_eq!(held.least_after(2), None);
    held.has_more(&aggregate("b"), place(5));
    assert_eq!(held.least_after(2), Some(Position(5)));
    held.wait(&aggregate("c"), place(3), ms(9));
    assert_eq!(held.least_after(2), Some(Position(3)));
}

#[test]
fn failures_back_off_and_are_forgotten_when_the_aggregate_gets_on() {
    let mut held = Held::default();
    let a = aggregate("a");
    assert_eq!(held.fail(&a, place(0), ms(0)), 1);
    assert_eq!(held.next_due(), Some(ms(20)));
    assert!(held.take_due(ms(19), 10, B).is_empty());
    assert_eq!(held.take_due(ms(20), 10, B), vec![(a.clone(), place(0))]);
    assert_eq!(held.fail(&a, place(0), ms(20)), 2);
    assert_eq!(held.next_due(), None, "not before its batch has ended");
    held.end(&a, B, true, ms(20));
    assert_eq!(held.next_due(), Some(ms(60)));
    held.take_due(ms(60), 10, 2);
    held.end(&a, 2, true, ms(60));
    assert_eq!(held.waiting(), 0);
    assert_eq!(held.fail(&a, place(3), ms(100)), 1);
}

#[test]
fn an_attempt_cut_short_is_made_again() {
    let mut held = Held::default();
    let a = aggregate("a");
    held.wait(&a, place(4), ms(0));
    held.take_due(ms(1), 10, B);
    held.advanced(&a);
    held.end(&a, B, false, ms(5));
    assert_eq!(held.take_due(ms(5), 10, 2), vec![(a.clone(), place(4))]);
    assert_eq!(held.fail(&a, place(4), ms(50)), 1, "its failures were forgotten");
}

#[test]
fn a_released_aggregate_is_due_at_once_with_all_its_attempts() {
    let mut held = Held::default();
    let a = aggregate("a");
    held.fail(&a, place(2), ms(0));
    held.park(&a, place(2));
    assert!(held.take_due(ms(1_000), 10, B).is_empty());
    assert_eq!(held.waiting(), 0);
    held.release(&a, place(2));
    assert_eq!(held.take_due(ms(0), 10, B), vec![(a.clone(), place(2))]);
    assert_eq!(held.fail(&a, place(2), ms(0)), 1);
    let unknown = aggregate("parked by an earlier run");
    held.release(&unknown, Place { position: Position(u64::MAX), sequence: Sequence(3) });
    assert_eq!(held.take_due(ms(0), 10, B)[0].1.sequence, Sequence(3));
}

#[test]
fn events_of_a_parked_aggregate_are_taken_to_be_set_aside_and_it_stays_parked() {
    let mut held = Held::default();
    let a = aggregate("a");
    held.park(&a, place(2));
    assert!(held.take(&a, place(5), B));
    assert_eq!(held.least(), Some(Position(2)), "their rows are not written yet");
    assert!(!held.take(&a, place(6), 2));
    held.end(&a, B, true, ms(1));
    assert_eq!(held.take_due(ms(1), 10, 2), vec![(a.clone(), place(2))], "the one that came meanwhile");
    held.end(&a, 2, false, ms(2));
    held.take_due(ms(2), 10, 3);
    held.end(&a, 3, true, ms(3));
    assert_eq!((held.least(), held.next_due()), (None, None));
    held.release(&a, place(9));
    assert_eq!(held.take_due(ms(3), 10, 4), vec![(a, place(2))]);
}

#[test]
fn the_oldest_are_tried_first() {
    let mut held = Held::default();
    for (id, position) in [("c", 3), ("a", 1), ("b", 2)] {
        held.wait(&aggregate(id), place(position), ms(0));
    }
    let tried: Vec<u64> = held.take_due(ms(0), 2, B).into_iter().map(|(_, place)| place.position.0).collect();
    assert_eq!(tried, vec![1, 2]);
}

#[test]
fn a_release_goes_back_to_the_parked_event_whatever_came_since() {
    let mut held = Held::default();
    let a = aggregate("a");
    // Parked by an earlier run: this one knows only what came later.
    held.park(&a, place(9));
    held.release(&a, Place { position: Position(u64::MAX), sequence: Sequence(3) });
    let taken = held.take_due(ms(0), 10, B);
    assert_eq!(taken, vec![(a, Place { position: Position(9), sequence: Sequence(3) })]);
}
