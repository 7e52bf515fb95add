//! Tests of the plans. Nothing is armed here: the whole test program would be.
#![allow(clippy::unwrap_used)]

use super::{Action, POINTS, Plan, fail, parse, pass};

#[test]
fn plans_are_read_with_their_times() {
    let plans = parse("append.after_put=kill, claim.before=error@3*20,deploy.after_store=stop@2").unwrap();
    let plan = |point, action, first, count| Plan { point, action, first, count };
    assert_eq!(
        plans,
        [
            plan("append.after_put", Action::Kill, 1, 1),
            plan("claim.before", Action::Error, 3, 20),
            plan("deploy.after_store", Action::Stop, 2, 1),
        ]
    );
    assert!(parse("").unwrap().is_empty());
}

#[test]
fn what_is_no_plan_is_refused_with_the_reason() {
    for (text, reason) in [
        ("nowhere=kill", "no fail point"),
        ("claim.before", "point=action"),
        ("claim.before=explode", "kill, stop or error"),
        ("append.after_put=error", "does not fail by itself"),
        ("claim.before=kill@0", "1, 2, 3"),
        ("claim.before=kill@1*x", "1, 2, 3"),
    ] {
        let refused = parse(text).unwrap_err();
        assert!(refused.contains(reason), "{text}: {refused}");
    }
}

#[test]
fn a_plan_acts_as_often_as_it_says() {
    let plan = &parse("claim.before=error@3*2").unwrap()[0];
    let acts: Vec<u64> = (1..8).filter(|hit| plan.acts(*hit)).collect();
    assert_eq!(acts, [3, 4]);
}

#[test]
fn an_unarmed_point_does_nothing() {
    for (point, _) in POINTS {
        pass(point);
        assert!(fail(point).is_ok());
    }
}
