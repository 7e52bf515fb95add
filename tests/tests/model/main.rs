//! Models of the two protocols that everything rests on, small enough that every reachable state is looked at: the
//! commit of a segment by several writers, and the claim of an event under leases. Each is also broken on purpose, to
//! show that its invariants would notice.

mod claim;
mod commit;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model, Path};

/// After so many, those that were met again included, a model that has no end is given up, and its count is wrong.
const STATES_MAX: usize = 5_000_000;

/// What can be checked: a copy for each run, and names for what is printed.
trait Checked:
    Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq>
    + Copy
    + Send
    + Sync
    + 'static
{
}

/// Looks at every state: what always holds must hold, what sometimes happens must happen. Gives the number of states.
fn explore(model: impl Checked) -> usize {
    let checker = model.checker().target_state_count(STATES_MAX).spawn_bfs().join();
    for property in model.properties() {
        if property.expectation.discovery_is_failure() && checker.discovery(property.name).is_some() {
            let path = counterexample(model, property.name).expect("it was found a moment ago");
            panic!("{}: {path}which leads to {:?}", property.name, path.last_state());
        }
    }
    checker.assert_properties();
    checker.unique_state_count()
}

/// A shortest way to break a property. The checker searches breadth first, but 0.31 keeps the last way it comes across
/// and not the first, so it is asked again for shorter ones until there are none.
fn counterexample<M: Checked>(model: M, property: &'static str) -> Option<Path<M::State, M::Action>> {
    let mut shortest = None;
    let mut depth_max = usize::MAX;
    loop {
        let builder = model.checker().target_max_depth(depth_max);
        let checker = builder.finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property]))).spawn_bfs().join();
        let Some(path) = checker.discovery(property) else { return shortest };
        // Depth counts states, and those of that depth are not looked at: only shorter ways are left.
        depth_max = path.clone().into_actions().len() + 1;
        shortest = Some(path);
    }
}
