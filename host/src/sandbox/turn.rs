//! Calls in place: on a thread that others need for I/O too. Handing a call of some tens of microseconds to another
//! thread costs as much again, and its memory is in another core's cache; a guest that takes its time must not hold
//! up a thread. So guests begin in place with little fuel for all of them together, and one that wants more is cut
//! short and called again where it may take its time: its answer depends on its inputs alone (I8), so nothing is lost.

use std::cell::Cell;

use super::failure::{Failure, LimitKind};

thread_local! {
    /// What is under way on this thread.
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

/// What guests have used of a turn in place.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    fuel: u64,
    cut_short: bool,
}

/// Runs work whose guests may together use [`super::Limits::in_place_fuel`]. `None` when one was cut short: what the
/// work answered says nothing then, and it is to be done again elsewhere.
pub fn in_place<T>(work: impl FnOnce() -> T) -> Option<T> {
    /// Ends the turn also when the work panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            TURN.set(None);
        }
    }
    TURN.set(Some(Turn::default()));
    let end = End;
    let done = work();
    let cut_short = is_cut_short();
    drop(end);
    (!cut_short).then_some(done)
}

/// Whether a guest was cut short in the turn on this thread.
pub fn is_cut_short() -> bool {
    TURN.get().is_some_and(|turn| turn.cut_short)
}

/// Fuel that guests have used in the turn on this thread, if there is one.
pub(super) fn used() -> Option<u64> {
    TURN.get().map(|turn| turn.fuel)
}

/// Counts fuel that a guest used.
pub(super) fn count(fuel: u64) {
    if let Some(turn) = TURN.get() {
        TURN.set(Some(Turn { fuel: turn.fuel.saturating_add(fuel), ..turn }));
    }
}

/// Says that a guest was cut short.
pub(super) fn cut_short() -> Failure {
    if let Some(turn) = TURN.get() {
        TURN.set(Some(Turn { cut_short: true, ..turn }));
    }
    Failure::limit(LimitKind::InPlace, "the call is to be made where it may take its time")
}
