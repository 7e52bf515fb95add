//! The commit protocol (`docs/event-log.md`): writers judge requests against their view and create the next segment
//! with one conditional put whose answer may be lost, and which may land after everybody thought it would not.
//!
//! One aggregate, one request a segment: what the log holds is the list of request ids. A request may expect the length
//! of the log; a client that was told "unknown" sends the same id again, to any writer.

use stateright::{Model, Property};

use crate::{Checked, counterexample, explore};

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
    /// Who loses a slot writes the next one without another look at the expectation.
    NotJudgedAgain,
}

const WRITERS: usize = 2;
/// Expected length of the log, for each request.
const REQUESTS: [Option<usize>; 2] = [None, Some(1)];
/// How often a client sends one request.
const SENDS_MAX: u8 = 2;
/// Puts that land late, and processes that die, in one history.
const LATES_MAX: u8 = 2;
const CRASHES_MAX: u8 = 1;

const DENSE: &str = "I2: nobody writes beyond the end of the log";
const AS_EXPECTED: &str = "I3: what is written is where it was expected";
const REFUSAL_IS_TRUE: &str = "I3: who is refused expected something else";
const ONE_POSITION: &str = "I4: a request has one position";
const DURABLE: &str = "I5: what is acknowledged is in the log";
const UNWRITTEN: &str = "I5: what was told to be unwritten is not in the log";

/// A writer, and the number of its put.
type PutId = (usize, u8);

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
    /// Whether the log was other than expected at that moment.
    Refused {
        rightly: bool,
    },
    GivenUp {
        surely_not: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// Request of each segment, and the put that wrote it.
    log: Vec<(usize, PutId)>,
    /// Puts that may still land: slot, request, put.
    late: Vec<(usize, usize, PutId)>,
    views: [usize; WRITERS],
    phases: [Phase; WRITERS],
    puts: [u8; WRITERS],
    fates: [Fate; REQUESTS.len()],
    lates: u8,
    crashes: u8,
}

/// What becomes of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Put {
    Answered,
    AnswerLost,
    Lost,
    /// It may land later.
    Late,
    Failed,
}

/// What happens: to a put that is late, or to a writer and the request it is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Land(usize),
    Crash(usize),
    Send(usize, usize),
    Judge(usize, usize),
    Confirm(usize, usize),
    Write(usize, usize, u8, Put),
    /// The client learns that it is unknown; the writer goes on until the slot is occupied.
    GiveWord(usize, usize),
}

#[derive(Clone, Copy)]
struct Commit(Broken);

impl Checked for Commit {}

impl State {
    fn holds(&self, request: usize) -> bool {
        self.log.iter().any(|(held, _)| *held == request)
    }

    fn answer(&mut self, request: usize, fate: impl FnOnce(u8, bool) -> Fate) {
        if let Fate::Sent { sends, surely_not } = self.fates[request] {
            self.fates[request] = fate(sends, surely_not);
        }
    }

    fn accept(&mut self, request: usize) -> Phase {
        self.answer(request, |_, _| Fate::Accepted);
        Phase::Idle
    }

    fn refuse(&mut self, request: usize) -> Phase {
        let rightly = REQUESTS[request].is_some_and(|expected| expected != self.log.len());
        self.answer(request, |_, _| Fate::Refused { rightly });
        Phase::Idle
    }

    /// The answer "nothing was written", or "unknown".
    fn fail(&mut self, request: usize, surely: bool) -> Phase {
        self.answer(request, |sends, surely_not| {
            let surely_not = surely_not && surely;
            if sends < SENDS_MAX { Fate::Open { sends, surely_not } } else { Fate::GivenUp { surely_not } }
        });
        Phase::Idle
    }

    fn next_put(&mut self, writer: usize, request: usize) -> Phase {
        self.puts[writer] += 1;
        Phase::Write { request, put: self.puts[writer], unresolved: false }
    }

    /// Whether the slot was free.
    fn create(&mut self, slot: usize, request: usize, put: PutId) -> bool {
        let free = self.log.len() == slot;
        if free {
            self.log.push((request, put));
        }
        free
    }

    fn confirm(&mut self, writer: usize, request: usize) -> Phase {
        if self.log.len() == self.views[writer] {
            return self.refuse(request);
        }
        self.views[writer] += 1;
        Phase::Judge(request)
    }

    /// A new run reads the log to its end before it serves.
    fn crash(&mut self, writer: usize) {
        self.crashes += 1;
        if let Phase::Judge(request) | Phase::Write { request, .. } | Phase::Confirm(request) = self.phases[writer] {
            self.fail(request, false);
        }
        self.views[writer] = self.log.len();
        self.phases[writer] = Phase::Idle;
    }
}

/// What a writer does, and where it is then.
impl Commit {
    fn judge(&self, state: &mut State, writer: usize, request: usize) -> Phase {
        let view = state.views[writer];
        let known = state.log[..view].iter().any(|(held, _)| *held == request);
        if known && self.0 != Broken::IdsNotLookedUp {
            state.accept(request)
        } else if REQUESTS[request].is_none_or(|expected| expected == view) {
            state.next_put(writer, request)
        } else if self.0 == Broken::StaleRefusal {
            state.refuse(request)
        } else {
            Phase::Confirm(request)
        }
    }

    fn write(&self, state: &mut State, writer: usize, request: usize, put: u8, fate: Put) -> Phase {
        let (slot, id) = (state.views[writer], (writer, put));
        match fate {
            Put::Failed => return state.fail(request, true),
            Put::Answered => {
                if !state.create(slot, request, id) {
                    return self.occupied(state, writer, request, put);
                }
                state.views[writer] += 1;
                return state.accept(request);
            }
            Put::AnswerLost => {
                state.create(slot, request, id);
            }
            Put::Lost => {}
            Put::Late => {
                state.lates += 1;
                state.late.push((slot, request, id));
                state.late.sort_unstable();
            }
        }
        // The answer did not come.
        let absent = state.log.len() == slot;
        match self.0 {
            Broken::UnknownIsFailed => state.fail(request, true),
            Broken::AbsentIsNotWritten if absent => state.fail(request, true),
            Broken::UnknownIsDone => state.accept(request),
            _ => Phase::Write { request, put, unresolved: true },
        }
    }

    /// The slot is occupied and the writer knows by whom.
    fn occupied(&self, state: &mut State, writer: usize, request: usize, put: u8) -> Phase {
        let (held, by) = state.log[state.views[writer]];
        state.views[writer] += 1;
        match self.0 {
            Broken::ExistsIsFailed => state.fail(request, true),
            _ if by == (writer, put) => state.accept(held),
            Broken::NotJudgedAgain => state.next_put(writer, request),
            _ => Phase::Judge(request),
        }
    }
}

impl Model for Commit {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            log: Vec::new(),
            late: Vec::new(),
            views: [0; WRITERS],
            phases: [Phase::Idle; WRITERS],
            puts: [0; WRITERS],
            fates: [Fate::Open { sends: 0, surely_not: true }; REQUESTS.len()],
            lates: 0,
            crashes: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.extend((0..state.late.len()).map(Step::Land));
        for writer in 0..WRITERS {
            if state.crashes < CRASHES_MAX && state.phases[writer] != Phase::Idle {
                steps.push(Step::Crash(writer));
            }
            match state.phases[writer] {
                Phase::Idle => {
                    let open = |request: &usize| matches!(state.fates[*request], Fate::Open { .. });
                    steps.extend((0..REQUESTS.len()).filter(open).map(|request| Step::Send(writer, request)));
                }
                Phase::Judge(request) => steps.push(Step::Judge(writer, request)),
                Phase::Confirm(request) => steps.push(Step::Confirm(writer, request)),
                Phase::Write { request, put, unresolved } => {
                    let mut fates = vec![Put::Answered, Put::AnswerLost, Put::Lost];
                    if state.lates < LATES_MAX && !state.late.contains(&(state.views[writer], request, (writer, put))) {
                        fates.push(Put::Late);
                    }
                    if unresolved {
                        steps.push(Step::GiveWord(writer, request));
                    } else {
                        fates.push(Put::Failed);
                    }
                    steps.extend(fates.into_iter().map(|fate| Step::Write(writer, request, put, fate)));
                }
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        let s = &mut next;
        match step {
            Step::Land(late) => {
                let (slot, request, put) = s.late.remove(late);
                s.create(slot, request, put);
            }
            Step::Crash(writer) => s.crash(writer),
            Step::Send(writer, request) => {
                if let Fate::Open { sends, surely_not } = s.fates[request] {
                    s.fates[request] = Fate::Sent { sends: sends + 1, surely_not };
                }
                s.phases[writer] = Phase::Judge(request);
            }
            Step::Judge(writer, request) => s.phases[writer] = self.judge(s, writer, request),
            Step::Confirm(writer, request) => s.phases[writer] = s.confirm(writer, request),
            Step::Write(writer, request, put, fate) => s.phases[writer] = self.write(s, writer, request, put, fate),
            Step::GiveWord(_, request) => {
                s.fail(request, false);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always(DENSE, |_, state| {
                let late = state.late.iter().map(|(slot, ..)| slot);
                late.chain(&state.views).all(|slot| *slot <= state.log.len())
            }),
            Property::<Self>::always(AS_EXPECTED, |_, state| {
                let mut places = state.log.iter().enumerate();
                places.all(|(place, (request, _))| REQUESTS[*request].is_none_or(|expected| expected == place))
            }),
            Property::<Self>::always(REFUSAL_IS_TRUE, |_, state| {
                !state.fates.contains(&Fate::Refused { rightly: false })
            }),
            Property::<Self>::always(ONE_POSITION, |_, state| {
                (0..REQUESTS.len()).all(|request| state.log.iter().filter(|(held, _)| *held == request).count() <= 1)
            }),
            Property::<Self>::always(DURABLE, |_, state| {
                (0..REQUESTS.len()).all(|request| state.fates[request] != Fate::Accepted || state.holds(request))
            }),
            Property::<Self>::always(UNWRITTEN, |_, state| {
                let told = |fate| matches!(fate, Fate::Refused { .. } | Fate::GivenUp { surely_not: true });
                (0..REQUESTS.len()).all(|request| !told(state.fates[request]) || !state.holds(request))
            }),
            Property::<Self>::sometimes("all is accepted, after a crash and with late puts", |_, state| {
                let worst = state.crashes == CRASHES_MAX && state.lates == LATES_MAX;
                worst && state.fates == [Fate::Accepted; REQUESTS.len()]
            }),
            Property::<Self>::sometimes("a request is refused", |_, state| {
                state.fates.contains(&Fate::Refused { rightly: true })
            }),
            Property::<Self>::sometimes("what nobody could judge is in the log", |_, state| {
                let unknown = Fate::GivenUp { surely_not: false };
                (0..REQUESTS.len()).any(|request| state.fates[request] == unknown && state.holds(request))
            }),
        ]
    }
}

#[test]
fn no_order_of_events_breaks_the_commit() {
    assert_eq!(explore(Commit(Broken::Nothing)), 86_202);
}

#[test]
fn every_shortcut_in_the_commit_is_noticed() {
    for (broken, property) in [
        (Broken::UnknownIsFailed, UNWRITTEN),
        (Broken::AbsentIsNotWritten, UNWRITTEN),
        (Broken::UnknownIsDone, DURABLE),
        (Broken::StaleRefusal, REFUSAL_IS_TRUE),
        (Broken::ExistsIsFailed, UNWRITTEN),
        (Broken::IdsNotLookedUp, ONE_POSITION),
        (Broken::NotJudgedAgain, AS_EXPECTED),
    ] {
        assert!(counterexample(Commit(broken), property).is_some(), "{broken:?} breaks nothing");
    }
}
