//! What waits, until when, and what the checkpoint waits for.
#![allow(clippy::unwrap_used)]

use super::*;

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
fn the_checkpoint_waits_for_the_first_event_that_is_held_and_not_parked() {
    let mut held = Held::default();
    assert_eq!(held.least(), None);
    held.wait(&aggregate("a"), place(7), ms(10));
    held.postpone(&aggregate("a"), place(9));
    held.fail(&aggregate("b"), place(5), ms(0));
    assert_eq!(held.least(), Some(Position(5)));
    held.park(&aggregate("b"), place(5));
    assert_eq!(held.least(), Some(Position(7)));
}

#[test]
fn failures_back_off_and_are_forgotten_when_the_aggregate_gets_on() {
    let mut held = Held::default();
    let a = aggregate("a");
    assert_eq!(held.fail(&a, place(0), ms(0)), 1);
    assert_eq!(held.next_due(), Some(ms(20)));
    assert!(held.take_due(ms(19), 10).is_empty());
    assert_eq!(held.take_due(ms(20), 10), vec![(a.clone(), place(0))]);
    assert_eq!(held.fail(&a, place(0), ms(20)), 2);
    assert_eq!(held.next_due(), Some(ms(60)));
    held.take_due(ms(60), 10);
    held.progressed(&a);
    assert!(!held.holds(&a));
    assert_eq!(held.fail(&a, place(3), ms(100)), 1);
}

#[test]
fn an_aggregate_held_again_while_it_was_tried_is_not_forgotten() {
    let mut held = Held::default();
    let a = aggregate("a");
    held.fail(&a, place(0), ms(0));
    held.take_due(ms(50), 10);
    held.wait(&a, place(0), ms(90));
    held.progressed(&a);
    assert_eq!(held.next_due(), Some(ms(90)));
}

#[test]
fn an_attempt_cut_short_is_made_again() {
    let mut held = Held::default();
    let a = aggregate("a");
    held.wait(&a, place(4), ms(0));
    held.take_due(ms(1), 10);
    assert_eq!(held.next_due(), None);
    held.rearm(ms(5));
    assert_eq!(held.take_due(ms(5), 10), vec![(a, place(4))]);
}

#[test]
fn a_released_aggregate_is_due_at_once_with_all_its_attempts() {
    let mut held = Held::default();
    let a = aggregate("a");
    held.fail(&a, place(2), ms(0));
    held.park(&a, place(2));
    assert!(held.take_due(ms(1_000), 10).is_empty());
    assert!(held.holds(&a));
    held.release(&a, place(2));
    assert_eq!(held.take_due(ms(0), 10), vec![(a.clone(), place(2))]);
    assert_eq!(held.fail(&a, place(2), ms(0)), 1);
    let unknown = aggregate("parked by an earlier run");
    held.release(&unknown, Place { position: Position(u64::MAX), sequence: Sequence(3) });
    assert_eq!(held.take_due(ms(0), 10)[0].1.sequence, Sequence(3));
}

#[test]
fn the_oldest_are_tried_first() {
    let mut held = Held::default();
    for (id, position) in [("c", 3), ("a", 1), ("b", 2)] {
        held.wait(&aggregate(id), place(position), ms(0));
    }
    let tried: Vec<u64> = held.take_due(ms(0), 2).into_iter().map(|(_, place)| place.position.0).collect();
    assert_eq!(tried, vec![1, 2]);
}

#[test]
fn a_release_goes_back_to_the_parked_event_whatever_came_since() {
    let mut held = Held::default();
    let a = aggregate("a");
    // Parked by an earlier run: this one knows only what came later.
    held.park(&a, place(9));
    held.release(&a, Place { position: Position(u64::MAX), sequence: Sequence(3) });
    let taken = held.take_due(ms(0), 10);
    assert_eq!(taken, vec![(a, Place { position: Position(9), sequence: Sequence(3) })]);
}

#[test]
fn an_aggregate_with_more_to_do_stays_noted() {
    let mut held = Held::default();
    let a = aggregate("a");
    held.fail(&a, place(2), ms(0));
    held.take_due(ms(50), 10);
    held.advanced(&a);
    assert_eq!((held.least(), held.waiting()), (Some(Position(2)), 1));
    held.rearm(ms(50));
    held.take_due(ms(50), 10);
    assert_eq!(held.fail(&a, place(2), ms(50)), 1, "its failures are forgotten");
}
