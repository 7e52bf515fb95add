//! A scenario for each rule. The harness also decides twice, folds every split of the history, and reads back
//! what was written.

use super::{COUNT_MAX, Command, Event, Handler, Increase, Increased, Reset, WasReset};
use carryall_sdk::testing::{given, given_nothing};

fn increase(by: u32) -> Command {
    Command::Increase(Increase { by })
}

fn increased(by: u32, count: u32) -> Event {
    Event::Increased(Increased { by, count })
}

#[test]
fn a_count_grows() {
    given_nothing::<Handler>().when(increase(2)).then([increased(2, 2)]).when(increase(3)).then([increased(3, 5)]);
}

#[test]
fn a_count_has_a_limit() {
    let full = || given::<Handler>([increased(COUNT_MAX, COUNT_MAX)]);
    full().when(increase(1)).then_rejected("count-too-large");
    given_nothing::<Handler>().when(increase(0)).then_rejected("nothing-to-add");
}

#[test]
fn a_reset_ends_the_aggregate() {
    let end = given::<Handler>([increased(2, 2)]).when(Command::Reset(Reset {})).then([Event::WasReset(WasReset {})]);
    assert_eq!(end.state(), None);
    end.when(Command::Reset(Reset {})).then_unchanged();
}
