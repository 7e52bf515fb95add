//! The commit protocol (`docs/event-log.md`): writers judge requests against their view and create the next segment
//! with one conditional put whose answer may be lost, and which may land after everybody thought it would not.
//!
//! One aggregate, one request a segment: what the log holds is the list of request ids. A request may expect the length
//! of the log; a client that was told "unknown" sends the same id again, to any writer.

use crate::explore::{Model, explore};

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// An unknown put is answered as failed.
    UnknownIsFailed,
    /// After an unknown put, a read that finds nothing is taken as "not written".
    AbsentIsNotWritten,
    /// An unknown put is taken as done.
    UnknownIsDone,
    /// A refusal is answered from the view, without looking whether it is the last.
    StaleRefusal,
    /// The put id of the occupant is not looked at: what is there is somebody else's, and the request failed.
    ExistsIsFailed,
    /// An id that exists is not looked for.
    IdsNotLookedUp,
}

const WRITERS: usize = 2;
/// Expected length of the log, for each request.
const REQUESTS: [Option<usize>; 2] = [None, Some(1)];
/// How often a client sends one request.
const SENDS_MAX: u8 = 2;
/// Puts that land late, and processes that die, in one history.
const LATES_MAX: u8 = 2;
const CRASHES_MAX: u8 = 1;

type Put = (usize, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// Judges a request.
    Judge(usize),
    /// Writes it to the slot after its view; `unresolved`: an earlier attempt may have landed, or may land.
    Write {
        request: usize,
        put: u8,
        unresolved: bool,
    },
    /// Looks whether the view is the last before it refuses.
    Confirm(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    /// Not sent, or to be sent again; so often sent; whether every answer so far said that nothing was written.
    Open {
        sends: u8,
        surely_not: bool,
    },
    Sent {
        sends: u8,
        surely_not: bool,
    },
    Accepted,
    Refused,
    GivenUp {
        surely_not: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// Request of each segment, and the put that wrote it.
    log: Vec<(usize, Put)>,
    /// Puts that may still land: slot, request, put.
    late: Vec<(usize, usize, Put)>,
    views: [usize; WRITERS],
    phases: [Phase; WRITERS],
    puts: [u8; WRITERS],
    fates: [Fate; REQUESTS.len()],
    lates: u8,
    crashes: u8,
    wrong: Option<&'static str>,
}

/// What happens, to whom, about what.
type Step = (&'static str, usize, usize);

struct Commit(Broken);

impl State {
    fn answer(&mut self, request: usize, fate: impl FnOnce(u8, bool) -> Fate) {
        if let Fate::Sent { sends, surely_not } = self.fates[request] {
            self.fates[request] = fate(sends, surely_not);
        }
    }

    fn accept(&mut self, request: usize) {
        if !self.log.iter().any(|(held, _)| *held == request) {
            self.wrong = Some("acknowledged and not durable");
        }
        self.answer(request, |_, _| Fate::Accepted);
    }

    fn refuse(&mut self, request: usize) {
        if REQUESTS[request].is_none_or(|expected| expected == self.log.len()) {
            self.wrong = Some("refused, and the expectation is right");
        }
        self.answer(request, |_, _| Fate::Refused);
    }

    /// The answer "nothing was written", or "unknown".
    fn fail(&mut self, request: usize, surely: bool) {
        self.answer(request, |sends, surely_not| {
            let surely_not = surely_not && surely;
            if sends < SENDS_MAX { Fate::Open { sends, surely_not } } else { Fate::GivenUp { surely_not } }
        });
    }

    fn create(&mut self, slot: usize, request: usize, put: Put) {
        if self.log.len() == slot {
            self.log.push((request, put));
        } else if slot > self.log.len() {
            self.wrong = Some("a hole in the log");
        }
    }
}

impl Commit {
    /// The slot is occupied and the writer knows by whom.
    fn occupied(&self, state: &mut State, writer: usize, request: usize, put: u8) {
        let (held, by) = state.log[state.views[writer]];
        if self.0 == Broken::ExistsIsFailed {
            state.fail(request, true);
            state.views[writer] += 1;
            state.phases[writer] = Phase::Idle;
            return;
        }
        state.views[writer] += 1;
        if by == (writer, put) {
            state.accept(held);
            state.phases[writer] = Phase::Idle;
        } else {
            state.phases[writer] = Phase::Judge(request);
        }
    }

    /// The put's answer did not come.
    fn unknown(&self, state: &mut State, writer: usize, request: usize, put: u8) {
        let absent = state.log.len() == state.views[writer];
        match self.0 {
            Broken::UnknownIsFailed => state.fail(request, true),
            Broken::AbsentIsNotWritten if absent => state.fail(request, true),
            Broken::UnknownIsDone => state.accept(request),
            _ => {
                state.phases[writer] = Phase::Write { request, put, unresolved: true };
                return;
            }
        }
        state.phases[writer] = Phase::Idle;
    }
}

impl Model for Commit {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        State {
            log: Vec::new(),
            late: Vec::new(),
            views: [0; WRITERS],
            phases: [Phase::Idle; WRITERS],
            puts: [0; WRITERS],
            fates: [Fate::Open { sends: 0, surely_not: true }; REQUESTS.len()],
            lates: 0,
            crashes: 0,
            wrong: None,
        }
    }

    fn steps(&self, state: &State) -> Vec<(Step, State)> {
        let mut steps = Vec::new();
        let mut step = |step: Step, effect: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            effect(&mut next);
            steps.push((step, next));
        };
        for late in 0..state.late.len() {
            step(("land", late, 0), &|s| {
                let (slot, request, put) = s.late.remove(late);
                s.create(slot, request, put);
            });
        }
        for writer in 0..WRITERS {
            let view = state.views[writer];
            if state.crashes < CRASHES_MAX && state.phases[writer] != Phase::Idle {
                step(("crash", writer, 0), &|s| {
                    s.crashes += 1;
                    if let Phase::Judge(request) | Phase::Write { request, .. } | Phase::Confirm(request) =
                        s.phases[writer]
                    {
                        s.fail(request, false);
                    }
                    // A new run reads the log to its end before it serves.
                    s.views[writer] = s.log.len();
                    s.phases[writer] = Phase::Idle;
                });
            }
            match state.phases[writer] {
                Phase::Idle => {
                    for request in 0..REQUESTS.len() {
                        if let Fate::Open { sends, surely_not } = state.fates[request] {
                            step(("send", writer, request), &|s| {
                                s.fates[request] = Fate::Sent { sends: sends + 1, surely_not };
                                s.phases[writer] = Phase::Judge(request);
                            });
                        }
                    }
                }
                Phase::Judge(request) => step(("judge", writer, 0), &|s| {
                    let known = s.log[..view].iter().any(|(held, _)| *held == request);
                    if known && self.0 != Broken::IdsNotLookedUp {
                        s.accept(request);
                        s.phases[writer] = Phase::Idle;
                    } else if REQUESTS[request].is_none_or(|expected| expected == view) {
                        s.puts[writer] += 1;
                        s.phases[writer] = Phase::Write { request, put: s.puts[writer], unresolved: false };
                    } else if self.0 == Broken::StaleRefusal {
                        s.refuse(request);
                        s.phases[writer] = Phase::Idle;
                    } else {
                        s.phases[writer] = Phase::Confirm(request);
                    }
                }),
                Phase::Confirm(request) => step(("confirm", writer, 0), &|s| {
                    if s.log.len() == view {
                        s.refuse(request);
                        s.phases[writer] = Phase::Idle;
                    } else {
                        s.views[writer] += 1;
                        s.phases[writer] = Phase::Judge(request);
                    }
                }),
                Phase::Write { request, put, unresolved } => {
                    step(("put done", writer, 0), &|s| {
                        if s.log.len() == view {
                            s.create(view, request, (writer, put));
                            s.views[writer] += 1;
                            s.accept(request);
                            s.phases[writer] = Phase::Idle;
                        } else {
                            self.occupied(s, writer, request, put);
                        }
                    });
                    step(("put answer lost", writer, 0), &|s| {
                        s.create(view, request, (writer, put));
                        self.unknown(s, writer, request, put);
                    });
                    step(("put lost", writer, 0), &|s| self.unknown(s, writer, request, put));
                    if state.lates < LATES_MAX && !state.late.contains(&(view, request, (writer, put))) {
                        step(("put late", writer, 0), &|s| {
                            s.lates += 1;
                            s.late.push((view, request, (writer, put)));
                            s.late.sort_unstable();
                            self.unknown(s, writer, request, put);
                        });
                    }
                    if unresolved {
                        // The client learns that it is unknown; the writer goes on until the slot is occupied.
                        step(("give word", writer, 0), &|s| s.fail(request, false));
                    } else {
                        step(("put fails", writer, 0), &|s| {
                            s.fail(request, true);
                            s.phases[writer] = Phase::Idle;
                        });
                    }
                }
            }
        }
        steps
    }

    fn broken(&self, state: &State) -> Option<String> {
        for (place, (request, _)) in state.log.iter().enumerate() {
            if state.log[..place].iter().any(|(earlier, _)| earlier == request) {
                return Some(format!("I4: request {request} has two positions"));
            }
            if REQUESTS[*request].is_some_and(|expected| expected != place) {
                return Some(format!("I3: request {request} was written at {place}"));
            }
            match state.fates[*request] {
                Fate::Refused => return Some(format!("I5: request {request} was refused and is in the log")),
                Fate::GivenUp { surely_not: true } => {
                    return Some(format!("I5: request {request} was told to be unwritten and is in the log"));
                }
                _ => {}
            }
        }
        state.wrong.map(|wrong| format!("I5: {wrong}"))
    }
}

#[test]
fn no_order_of_events_breaks_the_commit() {
    let explored = explore(&Commit(Broken::Nothing));
    assert_eq!(explored.broken, None);
    assert!(explored.states > 10_000, "the model is large enough to mean something: {}", explored.states);
}

#[test]
fn every_shortcut_in_the_commit_is_noticed() {
    for broken in [
        Broken::UnknownIsFailed,
        Broken::AbsentIsNotWritten,
        Broken::UnknownIsDone,
        Broken::StaleRefusal,
        Broken::ExistsIsFailed,
        Broken::IdsNotLookedUp,
    ] {
        assert!(explore(&Commit(broken)).broken.is_some(), "{broken:?} breaks nothing");
    }
}
