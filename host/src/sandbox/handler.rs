//! A loaded component and the calls to it. Each call runs in a fresh instance; the rounds of `needs` and the `decide`
//! of one command share one, the `needs` and the `project` of one batch do, and nothing else does. All calls block
//! for as long as the guest computes: keep them off the threads that do I/O.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use wasmtime::Store;
use wasmtime::component::InstancePre;

use super::check::Checker;
use super::describe::Description;
use super::engine::{Inner, Slot};
use super::failure::{Error, Failure, LimitKind};
use super::limits::SLOW_CALLS;
use super::state::{CallKind, Identity, State};
use super::turn;
use super::types::{
    CausedChange, Command, Comparison, FetchedDocument, ReadValue, RecordedEvent, Stored, StoredRef, Verdict,
};
use super::wasi::Exited;
use super::wit_0_1::{Exports, Guest};
use crate::codec::json::Json;
use crate::domain::{Aggregate, Digest, Timestamp};
use crate::port::read_model::DocumentKey;

/// What the engine says when a guest hands over more than its hostcall fuel: the type of that error is private to it,
/// and a test holds this text to it.
const COPIED_TOO_MUCH: &str = "too much data is being copied";

/// Which contract a component fulfils.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum World {
    Instance,
    Ontology,
    Projection,
    Upcaster,
}

impl World {
    /// The name of the world in WIT.
    pub fn as_str(self) -> &'static str {
        match self {
            World::Instance => "instance-handler",
            World::Ontology => "ontology-handler",
            World::Projection => "projection-handler",
            World::Upcaster => "upcaster-handler",
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a decision may know besides its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallContext {
    /// The command's `occurred_at`: the only time the handler sees.
    pub now: Timestamp,
    /// Derived from the command id by the caller: equal for a re-run, different for every other command.
    pub seed: (u64, u64),
}

/// Of calls that have no command: they must not depend on time or chance.
const NO_CONTEXT: CallContext = CallContext { now: Timestamp(0), seed: (0, 0) };

/// A component, compiled, checked and described.
pub struct Handler {
    core: Arc<Core>,
}

struct Core {
    sandbox: Arc<Inner>,
    identity: Arc<Identity>,
    world: World,
    exports: Exports,
    component: InstancePre<State>,
    description: Description,
    /// Calls that are not tried in place, since one before them was cut short there.
    slow: AtomicU32,
}

/// A fresh instance that runs. Whatever fails in it, it is never used again.
struct Live {
    // Before the slot: the instance is back in its pool when the slot is free.
    store: Store<State>,
    guest: Guest,
    usable: bool,
    _slot: Slot,
}

impl Handler {
    /// Takes a component whose imports and exports are known to fit, and asks it to describe itself.
    pub(super) fn new(
        sandbox: Arc<Inner>,
        digest: Digest,
        exports: Exports,
        component: InstancePre<State>,
    ) -> Result<Handler, Error> {
        let world = exports.world();
        let unnamed = Arc::new(Identity { name: "(unnamed)".into(), digest });
        let description = describe(&sandbox, &exports, &component, unnamed)?.check(world)?;
        let identity = Arc::new(Identity { name: description.name.clone(), digest });
        Ok(Handler {
            core: Arc::new(Core { sandbox, identity, world, exports, component, description, slow: AtomicU32::new(0) }),
        })
    }

    /// SHA-256 of the component.
    pub fn digest(&self) -> Digest {
        self.core.identity.digest
    }

    /// The contract it fulfils.
    pub fn world(&self) -> World {
        self.core.world
    }

    /// What it says of itself.
    pub fn description(&self) -> &Description {
        &self.core.description
    }

    /// Opens a fresh instance for one command: its `needs` rounds and its `decide` share it, and nothing else does.
    pub fn decision(&self, context: CallContext) -> Result<Decision, Failure> {
        let live = self.core.open(CallKind::Decide, context)?;
        Ok(Decision { core: self.core.clone(), context, live })
    }

    /// Folds events into a state. `evolve(s, a ++ b)` equals `evolve(evolve(s, a), b)`; `None` is an absent aggregate.
    pub fn evolve(&self, state: Option<&str>, events: &[RecordedEvent]) -> Result<Option<Json>, Failure> {
        let mut live = self.core.open(CallKind::Evolve, NO_CONTEXT)?;
        live.call(&self.core, |guest, store, checker| guest.evolve(store, checker, state, events))
    }

    /// Ontology handlers: is the newer class definition safe for what is stored under the older?
    pub fn compare(&self, older: &str, newer: &str) -> Result<Comparison, Failure> {
        let mut live = self.core.open(CallKind::Compare, NO_CONTEXT)?;
        live.call(&self.core, |guest, store, checker| guest.compare(store, checker, older, newer))
    }

    /// Projections: opens a fresh instance for one batch of events: its `needs` and its `project` share it.
    pub fn projecting(&self) -> Result<Projecting, Failure> {
        let live = self.core.open(CallKind::Project, NO_CONTEXT)?;
        Ok(Projecting { core: self.core.clone(), live })
    }

    /// Upcasters: one stored event as one or more newer ones.
    pub fn upcast(&self, event: StoredRef<'_>) -> Result<Vec<Stored>, Failure> {
        let mut live = self.core.open(CallKind::Upcast, NO_CONTEXT)?;
        live.call(&self.core, |guest, store, checker| guest.upcast(store, checker, event))
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = &self.core;
        write!(f, "{} {} {} {}", core.world, core.description.name, core.description.version, self.digest())
    }
}

/// One command being decided, in an instance of its own.
pub struct Decision {
    core: Arc<Core>,
    context: CallContext,
    live: Live,
}

impl Decision {
    /// Which other aggregates' states the decision needs, given those read so far; asked again until it names nothing
    /// new.
    pub fn needs(
        &mut self,
        command: &Command,
        state: Option<&str>,
        have: &[ReadValue],
    ) -> Result<Vec<Aggregate>, Failure> {
        self.live.call(&self.core, |guest, store, checker| guest.needs(store, checker, command, state, have))
    }

    /// Decides, and gives the instance up.
    pub fn decide(mut self, state: Option<&str>, command: &Command, reads: &[ReadValue]) -> Result<Verdict, Failure> {
        let context = self.context;
        self.live.call(&self.core, |guest, store, checker| guest.decide(store, checker, context, state, command, reads))
    }
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "decision by {} {}", self.core.identity.name, self.core.identity.digest)
    }
}

/// One batch of events being projected, in an instance of its own.
pub struct Projecting {
    core: Arc<Core>,
    live: Live,
}

impl Projecting {
    /// The documents to fetch before [`Projecting::project`] is given the same events.
    pub fn needs(&mut self, events: &[RecordedEvent]) -> Result<Vec<DocumentKey>, Failure> {
        self.live.call(&self.core, |guest, store, checker| guest.project_needs(store, checker, events))
    }

    /// What the events change; gives the instance up. A document that does not exist is left out of `documents`.
    pub fn project(
        mut self,
        events: &[RecordedEvent],
        documents: &[FetchedDocument],
    ) -> Result<Vec<CausedChange>, Failure> {
        self.live.call(&self.core, |guest, store, checker| guest.project(store, checker, events, documents))
    }
}

impl fmt::Debug for Projecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "projection by {} {}", self.core.identity.name, self.core.identity.digest)
    }
}

fn describe(
    sandbox: &Arc<Inner>,
    exports: &Exports,
    component: &InstancePre<State>,
    identity: Arc<Identity>,
) -> Result<super::describe::Draft, Error> {
    let _slot = sandbox.slot().map_err(Error::Describe)?;
    let mut store = sandbox.store(identity, CallKind::Describe, NO_CONTEXT);
    let _running = sandbox.arm(&mut store).map_err(|error| Error::Engine { message: error.to_string() })?;
    let instance =
        component.instantiate(&mut store).map_err(|error| Error::Describe(classify(&error, store.data())))?;
    exports.check_signatures(&mut store, &instance)?;
    exports.describe(&mut store, &instance).map_err(|error| Error::Describe(classify(&error, store.data())))
}

impl Core {
    fn open(&self, kind: CallKind, context: CallContext) -> Result<Live, Failure> {
        if turn::used().is_some() && self.slow.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(turn::cut_short());
        }
        let slot = self.sandbox.slot()?;
        let mut store = self.sandbox.store(self.identity.clone(), kind, context);
        let opened = self.run(&mut store, |store| self.exports.open(&self.component, store));
        let guest = opened?.map_err(|error| classify(&error, store.data()))?;
        Ok(Live { store, guest, usable: true, _slot: slot })
    }

    /// Runs something of the guest with full fuel and a new deadline, or with what there is in place.
    fn run<T>(
        &self,
        store: &mut Store<State>,
        work: impl FnOnce(&mut Store<State>) -> wasmtime::Result<T>,
    ) -> Result<wasmtime::Result<T>, Failure> {
        let armed = self.sandbox.arm(store).map_err(|error| classify(&error, store.data()))?;
        let result = work(store);
        if armed.end(store, &result) {
            self.slow.store(SLOW_CALLS, Relaxed);
            return Err(turn::cut_short());
        }
        Ok(result)
    }
}

impl Live {
    /// Runs one function of the guest.
    fn call<T>(
        &mut self,
        core: &Core,
        function: impl FnOnce(&Guest, &mut Store<State>, Checker<'_>) -> wasmtime::Result<Result<T, Failure>>,
    ) -> Result<T, Failure> {
        if !self.usable {
            return Err(Failure::Trap { message: "this instance has failed before".into() });
        }
        self.usable = false;
        let checker = Checker { limits: core.sandbox.limits(), description: &core.description };
        let Live { store, guest, .. } = self;
        match core.run(store, |store| function(guest, store, checker))? {
            Ok(answer) => {
                self.usable = true;
                answer
            }
            Err(error) => Err(classify(&error, self.store.data())),
        }
    }
}

/// What an error of the engine means. The text stays short and free of the host's paths.
fn classify(error: &wasmtime::Error, state: &State) -> Failure {
    use wasmtime::Trap;

    if let Some(which) = state.limiter.met {
        return Failure::limit(which, error.root_cause().to_string());
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        let which = match trap {
            Trap::OutOfFuel => Some(LimitKind::Fuel),
            Trap::Interrupt => Some(LimitKind::Time),
            Trap::StackOverflow => Some(LimitKind::Stack),
            _ => None,
        };
        return match (which, state.log.panic_message()) {
            (Some(which), _) => Failure::limit(which, trap.to_string()),
            (None, Some(panic)) => Failure::trap(format!("panic: {panic}")),
            (None, None) => Failure::trap(trap.to_string()),
        };
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Failure::limit(LimitKind::Instances, error.to_string());
    }
    if error.is::<Exited>() {
        return Failure::trap(Exited.to_string());
    }
    let cause = error.root_cause().to_string();
    if cause.contains(COPIED_TOO_MUCH) {
        return Failure::limit(LimitKind::Output, "more bytes than one answer may have");
    }
    Failure::trap(cause)
}
