//! Calls in place: quick ones end there, others are cut short there and end elsewhere, with the same answer.

use super::*;

/// A handler of its own, since what was slow is remembered.
fn handler(limits: Limits) -> Arc<Handler> {
    let limits = Limits { in_place_ms: UNHURRIED_MS, wall_ms: UNHURRIED_MS, ..limits };
    Sandbox::new(Options { limits, cache_folder: None }).unwrap().load(&component("decider")).unwrap()
}

fn decide_by(handler: &Handler, name: &str) -> Result<Verdict, Failure> {
    handler.decision(CONTEXT)?.decide(None, &command(name, "1"), &[])
}

#[test]
fn a_quick_call_ends_in_place() {
    let handler = handler(Limits::default());
    let decided = in_place(|| decide_by(&handler, "ECHO")).expect("a small call fits into a turn");
    assert_eq!(noted(decided), "1");
    assert!(!is_cut_short(), "the turn is over");
}

#[test]
fn what_is_slow_is_cut_short_and_not_tried_again_for_a_while() {
    let handler = handler(Limits { fuel: 100_000_000, ..Limits::default() });
    assert!(in_place(|| assert_limit(decide_by(&handler, "LOOP"), LimitKind::InPlace)).is_none());
    assert_limit(decide_by(&handler, "LOOP"), LimitKind::Fuel);
    for _ in 0..super::super::limits::SLOW_CALLS {
        assert!(in_place(|| decide_by(&handler, "ECHO")).is_none(), "it was slow a moment ago");
    }
    assert!(in_place(|| decide_by(&handler, "ECHO")).is_some());
}

#[test]
fn all_calls_of_a_turn_share_its_fuel() {
    let handler = handler(Limits { in_place_fuel: 1_000_000, ..Limits::default() });
    let mut ended = 0;
    let turn = in_place(|| {
        while let Ok(verdict) = decide_by(&handler, "ECHO") {
            assert_eq!(noted(Ok(verdict)), "1");
            ended += 1;
            assert!(ended < 100_000, "nobody counts");
        }
    });
    assert!(turn.is_none());
    assert!(ended > 1, "one call alone used it up");
}

#[test]
fn the_failures_of_a_handler_count_in_place() {
    let quick = handler(Limits::default());
    in_place(|| assert_trap(decide_by(&quick, "PANIC"), "gives up")).expect("a crash is no lack of fuel");
    let bounded = handler(Limits { fuel: 5_000_000, in_place_fuel: 10_000_000, ..Limits::default() });
    in_place(|| assert_limit(decide_by(&bounded, "LOOP"), LimitKind::Fuel)).expect("elsewhere it has no more");
}

#[test]
fn nobody_waits_for_an_instance_in_place() {
    let handler = handler(Limits { instances_max: 1, ..Limits::default() });
    let open = handler.decision(CONTEXT).unwrap();
    let begun = std::time::Instant::now();
    assert!(in_place(|| decide_by(&handler, "ECHO")).is_none());
    assert!(begun.elapsed() < std::time::Duration::from_millis(super::super::limits::SLOT_WAIT_MS));
    drop(open);
    assert!(in_place(|| decide_by(&handler, "ECHO")).is_some());
}

#[test]
fn a_turn_ends_when_its_work_panics() {
    let panicked = std::panic::catch_unwind(|| in_place(|| panic!("as the host never does")));
    assert!(panicked.is_err());
    assert_eq!(super::super::turn::used(), None);
}
