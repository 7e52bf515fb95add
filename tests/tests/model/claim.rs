//! Claims and leases: processes take events of one aggregate, pause for as long as they like, lose their leases, wake
//! up and go on. Time is not modelled: a lease may run out at any moment, which is what clocks that disagree amount to.
//!
//! Two consumers: a worker, whose effect is an append to the log with derived ids and the last outcome it decided on;
//! and a projection, whose effect, row and fence are one transaction.

use crate::explore::{Model, explore};

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The transaction of a projection does not look at owner and attempt.
    NotFenced,
    /// The append does not say what it was decided on, and ids are drawn.
    NothingExpected,
    /// The row is marked before the effect.
    DoneFirst,
}

const PROCESSES: usize = 2;
const EVENTS: usize = 2;
const TAKEN_MAX: u8 = 3;
const CRASHES_MAX: u8 = 1;

/// Who: a process and its run.
type Owner = (usize, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Row {
    Absent,
    Held { by: Owner, attempt: u8, expired: bool },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Claimed {
        event: usize,
        attempt: u8,
    },
    /// Decided, or projected, when so many effects were there.
    Ready {
        event: usize,
        attempt: u8,
        seen: usize,
    },
    /// The effect is there, the row is not marked.
    Effected {
        event: usize,
        attempt: u8,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    rows: [Row; EVENTS],
    attempts: [u8; EVENTS],
    /// Effects in order: of which event, made on how many.
    effects: Vec<(usize, usize)>,
    phases: [Phase; PROCESSES],
    runs: [u8; PROCESSES],
    crashes: u8,
}

/// What happens, to whom, about what.
type Step = (&'static str, usize, usize);

struct Claims {
    broken: Broken,
    /// Effect and row are one transaction.
    projection: bool,
}

impl Claims {
    fn is_held(&self, state: &State, event: usize, by: Owner, attempt: u8) -> bool {
        match (self.broken, state.rows[event]) {
            (Broken::NotFenced, _) => true,
            (_, row) => matches!(row, Row::Held { by: held, attempt: at, .. } if (held, at) == (by, attempt)),
        }
    }

    /// Events of the aggregate are handled in order: one is open when those before it have their effect.
    fn is_open(state: &State, event: usize) -> bool {
        (0..event).all(|earlier| state.effects.iter().any(|(of, _)| *of == earlier))
    }
}

impl Model for Claims {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        State {
            rows: [Row::Absent; EVENTS],
            attempts: [0; EVENTS],
            effects: Vec::new(),
            phases: [Phase::Idle; PROCESSES],
            runs: [1; PROCESSES],
            crashes: 0,
        }
    }

    fn steps(&self, state: &State) -> Vec<(Step, State)> {
        let mut steps = Vec::new();
        let mut step = |step: Step, effect: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            effect(&mut next);
            steps.push((step, next));
        };
        for event in 0..EVENTS {
            if let Row::Held { by, attempt, expired: false } = state.rows[event] {
                step(("expire", 0, event), &|s| s.rows[event] = Row::Held { by, attempt, expired: true });
            }
        }
        for process in 0..PROCESSES {
            let me: Owner = (process, state.runs[process]);
            if state.crashes < CRASHES_MAX && state.phases[process] != Phase::Idle {
                step(("crash", process, 0), &|s| {
                    s.crashes += 1;
                    s.runs[process] += 1;
                    s.phases[process] = Phase::Idle;
                });
            }
            match state.phases[process] {
                Phase::Idle => {
                    for event in (0..EVENTS).filter(|event| Self::is_open(state, *event)) {
                        let free = match state.rows[event] {
                            Row::Absent => true,
                            // An expired lease, and one of an earlier run of the same process, may be taken over.
                            Row::Held { by, expired, .. } => expired || (by.0 == process && by.1 < me.1),
                            Row::Done => false,
                        };
                        if free && state.attempts[event] < TAKEN_MAX {
                            step(("claim", process, event), &|s| {
                                s.attempts[event] += 1;
                                let attempt = s.attempts[event];
                                s.rows[event] = Row::Held { by: me, attempt, expired: false };
                                s.phases[process] = Phase::Claimed { event, attempt };
                            });
                        }
                    }
                }
                Phase::Claimed { event, attempt } => step(("prepare", process, 0), &|s| {
                    let exists = s.effects.iter().any(|(of, _)| *of == event);
                    if self.broken == Broken::DoneFirst {
                        s.rows[event] = Row::Done;
                    }
                    // A worker looks in the log first.
                    s.phases[process] = match exists && !self.projection {
                        true => Phase::Effected { event, attempt },
                        false => Phase::Ready { event, attempt, seen: s.effects.len() },
                    };
                }),
                Phase::Ready { event, attempt, seen } if self.projection => step(("effect", process, 0), &|s| {
                    if self.is_held(s, event, me, attempt) {
                        s.effects.push((event, seen));
                        s.rows[event] = Row::Done;
                    }
                    s.phases[process] = Phase::Idle;
                }),
                Phase::Ready { event, attempt, seen } => step(("effect", process, 0), &|s| {
                    let exists = s.effects.iter().any(|(of, _)| *of == event);
                    let unchecked = self.broken == Broken::NothingExpected;
                    if unchecked || (!exists && s.effects.len() == seen) {
                        s.effects.push((event, seen));
                        s.phases[process] = Phase::Effected { event, attempt };
                    } else if exists {
                        // What is recorded first holds.
                        s.phases[process] = Phase::Effected { event, attempt };
                    } else {
                        s.phases[process] = Phase::Claimed { event, attempt };
                    }
                }),
                Phase::Effected { event, attempt } => step(("mark", process, 0), &|s| {
                    if self.is_held(s, event, me, attempt) {
                        s.rows[event] = Row::Done;
                    }
                    s.phases[process] = Phase::Idle;
                }),
            }
        }
        steps
    }

    fn broken(&self, state: &State) -> Option<String> {
        for (place, (event, seen)) in state.effects.iter().enumerate() {
            if state.effects[..place].iter().any(|(earlier, _)| earlier == event) {
                return Some(format!("I6: event {event} has two effects"));
            }
            if !self.projection && *seen != place {
                return Some(format!("I3: event {event} was decided on {seen} outcomes and is number {place}"));
            }
        }
        (0..EVENTS)
            .find(|event| state.rows[*event] == Row::Done && !state.effects.iter().any(|(of, _)| of == event))
            .map(|event| format!("I7: event {event} is done and has no effect"))
    }
}

#[test]
fn no_pause_and_no_crash_makes_a_second_effect() {
    for projection in [false, true] {
        let explored = explore(&Claims { broken: Broken::Nothing, projection });
        assert_eq!(explored.broken, None);
        assert!(explored.states > 1_000, "the model is large enough to mean something: {}", explored.states);
    }
}

#[test]
fn every_shortcut_with_a_claim_is_noticed() {
    for (broken, projection) in [
        (Broken::NotFenced, true),
        (Broken::NothingExpected, false),
        (Broken::DoneFirst, false),
        (Broken::DoneFirst, true),
    ] {
        assert!(explore(&Claims { broken, projection }).broken.is_some(), "{broken:?} breaks nothing");
    }
}
