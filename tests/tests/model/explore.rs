//! An exhaustive explorer: breadth first over all states, so that what breaks an invariant is told by a shortest way.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::Hash;

/// A system of states and steps.
pub trait Model {
    type State: Clone + Eq + Hash + Debug;
    type Step: Copy + Debug;

    fn start(&self) -> Self::State;
    /// Every step that can happen, with the state it leads to.
    fn steps(&self, state: &Self::State) -> Vec<(Self::Step, Self::State)>;
    /// Why a state must not be.
    fn broken(&self, state: &Self::State) -> Option<String>;
}

/// What exploring found.
#[derive(Debug)]
pub struct Explored {
    pub states: usize,
    /// The first broken invariant, and the steps that lead there.
    pub broken: Option<(String, Vec<String>)>,
}

/// More states than this are a mistake in a model.
const STATES_MAX: usize = 5_000_000;

/// A state, with the one before it and the step between.
type Found<M> = (<M as Model>::State, Option<(usize, <M as Model>::Step)>);

/// Looks at every state that can be reached.
pub fn explore<M: Model>(model: &M) -> Explored {
    let start = model.start();
    // In the order they were found.
    let mut found: Vec<Found<M>> = vec![(start.clone(), None)];
    let mut known: HashMap<M::State, ()> = HashMap::from([(start, ())]);
    let mut next = 0;
    while next < found.len() {
        let state = found[next].0.clone();
        if let Some(why) = model.broken(&state) {
            let mut way = Vec::new();
            let mut at = next;
            while let (_, Some((before, step))) = &found[at] {
                way.push(format!("{step:?}"));
                at = *before;
            }
            way.reverse();
            return Explored { states: found.len(), broken: Some((why, way)) };
        }
        for (step, to) in model.steps(&state) {
            if let Entry::Vacant(entry) = known.entry(to) {
                found.push((entry.key().clone(), Some((next, step))));
                entry.insert(());
            }
        }
        assert!(found.len() < STATES_MAX, "the model is not small any more");
        next += 1;
    }
    Explored { states: found.len(), broken: None }
}
