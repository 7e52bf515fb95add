//! Claims and leases: processes take events of one aggregate, pause for as long as they like, lose their leases, wake
//! up and go on. Time is not modelled: a lease may run out at any moment, which is what clocks that disagree amount to.
//!
//! Two consumers: a worker, whose effect is an append to the log with derived ids and the last outcome it decided on;
//! and a projection, whose effect, row and fence are one transaction.

use stateright::{Model, Property};

use crate::{Checked, counterexample, explore};

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

const ONE_EFFECT: &str = "I6: an event has one effect";
const DECIDED_ON_ALL: &str = "I3: an event is decided on every outcome before its own";
const DONE_HAS_EFFECT: &str = "I7: what is done has its effect";

/// Who: a process and its run.
type Owner = (usize, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Row {
    Absent,
    Held { by: Owner, attempt: u8, expired: bool },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Claim {
    event: usize,
    attempt: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Claimed(Claim),
    /// Decided, or projected, when so many effects were there.
    Ready(Claim, usize),
    /// The effect is there, the row is not marked.
    Effected(Claim),
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

/// What happens: to an event, or to a process and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Expire(usize),
    Crash(usize),
    Take(usize, usize),
    Prepare(usize, Claim),
    Effect(usize, Claim, usize),
    Mark(usize, Claim),
}

#[derive(Clone, Copy)]
struct Claims {
    broken: Broken,
    /// Effect and row are one transaction.
    projection: bool,
}

impl Checked for Claims {}

impl State {
    fn has_effect(&self, event: usize) -> bool {
        self.effects.iter().any(|(of, _)| *of == event)
    }

    /// Whether a process may take an event.
    fn is_free(&self, event: usize, process: usize) -> bool {
        // Events of the aggregate are handled in order: one is open when those before it have their effect.
        let open = (0..event).all(|earlier| self.has_effect(earlier));
        let free = match self.rows[event] {
            Row::Absent => true,
            // An expired lease, and one of an earlier run of the same process, may be taken over.
            Row::Held { by, expired, .. } => expired || (by.0 == process && by.1 < self.runs[process]),
            Row::Done => false,
        };
        open && free && self.attempts[event] < TAKEN_MAX
    }
}

impl Claims {
    /// Marks the row if the process still holds it.
    fn mark(&self, state: &mut State, process: usize, claim: Claim) -> bool {
        let me: Owner = (process, state.runs[process]);
        let row = &mut state.rows[claim.event];
        let held = matches!(*row, Row::Held { by, attempt, .. } if (by, attempt) == (me, claim.attempt));
        let marked = held || self.broken == Broken::NotFenced;
        if marked {
            *row = Row::Done;
        }
        marked
    }

    /// Decides or projects, and where a process is then.
    fn prepare(&self, state: &mut State, claim: Claim) -> Phase {
        if self.broken == Broken::DoneFirst {
            state.rows[claim.event] = Row::Done;
        }
        // A worker looks in the log first.
        match state.has_effect(claim.event) && !self.projection {
            true => Phase::Effected(claim),
            false => Phase::Ready(claim, state.effects.len()),
        }
    }

    /// Makes the effect if it may, and where a process is then.
    fn effect(&self, state: &mut State, process: usize, claim: Claim, seen: usize) -> Phase {
        if self.projection {
            if self.mark(state, process, claim) {
                state.effects.push((claim.event, seen));
            }
            return Phase::Idle;
        }
        let exists = state.has_effect(claim.event);
        if self.broken == Broken::NothingExpected || (!exists && state.effects.len() == seen) {
            state.effects.push((claim.event, seen));
        } else if !exists {
            return Phase::Claimed(claim);
        }
        // What is recorded first holds.
        Phase::Effected(claim)
    }
}

impl Model for Claims {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            rows: [Row::Absent; EVENTS],
            attempts: [0; EVENTS],
            effects: Vec::new(),
            phases: [Phase::Idle; PROCESSES],
            runs: [1; PROCESSES],
            crashes: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let unexpired = |event: &usize| matches!(state.rows[*event], Row::Held { expired: false, .. });
        steps.extend((0..EVENTS).filter(unexpired).map(Step::Expire));
        for process in 0..PROCESSES {
            if state.crashes < CRASHES_MAX && state.phases[process] != Phase::Idle {
                steps.push(Step::Crash(process));
            }
            match state.phases[process] {
                Phase::Idle => {
                    let free = (0..EVENTS).filter(|event| state.is_free(*event, process));
                    steps.extend(free.map(|event| Step::Take(process, event)));
                }
                Phase::Claimed(claim) => steps.push(Step::Prepare(process, claim)),
                Phase::Ready(claim, seen) => steps.push(Step::Effect(process, claim, seen)),
                Phase::Effected(claim) => steps.push(Step::Mark(process, claim)),
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Expire(event) => {
                if let Row::Held { expired, .. } = &mut next.rows[event] {
                    *expired = true;
                }
            }
            Step::Crash(process) => {
                next.crashes += 1;
                next.runs[process] += 1;
                next.phases[process] = Phase::Idle;
            }
            Step::Take(process, event) => {
                next.attempts[event] += 1;
                let attempt = next.attempts[event];
                next.rows[event] = Row::Held { by: (process, next.runs[process]), attempt, expired: false };
                next.phases[process] = Phase::Claimed(Claim { event, attempt });
            }
            Step::Prepare(process, claim) => next.phases[process] = self.prepare(&mut next, claim),
            Step::Effect(process, claim, seen) => next.phases[process] = self.effect(&mut next, process, claim, seen),
            Step::Mark(process, claim) => {
                self.mark(&mut next, process, claim);
                next.phases[process] = Phase::Idle;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always(ONE_EFFECT, |_, state| {
                (0..EVENTS).all(|event| state.effects.iter().filter(|(of, _)| *of == event).count() <= 1)
            }),
            Property::<Self>::always(DECIDED_ON_ALL, |model, state| {
                model.projection || state.effects.iter().enumerate().all(|(place, (_, seen))| *seen == place)
            }),
            Property::<Self>::always(DONE_HAS_EFFECT, |_, state| {
                (0..EVENTS).all(|event| state.rows[event] != Row::Done || state.has_effect(event))
            }),
            Property::<Self>::sometimes("everything is done, after a crash", |_, state| {
                state.crashes == CRASHES_MAX && state.rows == [Row::Done; EVENTS]
            }),
            Property::<Self>::sometimes("a process goes on with what another has finished", |_, state| {
                let late =
                    |phase: &Phase| matches!(phase, Phase::Ready(claim, _) if state.rows[claim.event] == Row::Done);
                state.phases.iter().any(late)
            }),
        ]
    }
}

#[test]
fn no_pause_and_no_crash_makes_a_second_effect() {
    assert_eq!(explore(Claims { broken: Broken::Nothing, projection: false }), 5_355);
    assert_eq!(explore(Claims { broken: Broken::Nothing, projection: true }), 1_177);
}

#[test]
fn every_shortcut_with_a_claim_is_noticed() {
    for (broken, projection, property) in [
        (Broken::NotFenced, true, ONE_EFFECT),
        (Broken::NothingExpected, false, ONE_EFFECT),
        (Broken::NothingExpected, false, DECIDED_ON_ALL),
        (Broken::DoneFirst, false, DONE_HAS_EFFECT),
        (Broken::DoneFirst, true, DONE_HAS_EFFECT),
    ] {
        let found = counterexample(Claims { broken, projection }, property);
        assert!(found.is_some(), "{broken:?} breaks nothing");
    }
}
