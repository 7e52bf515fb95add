//! What outlives every process: the objects, the database, the bus, the weather that decides what fails, and the truth
//! they are audited against.

use std::sync::Arc;

use parking_lot::Mutex;

use super::bus::Topics;
use super::executor::Sim;
use super::random::Random;
use super::truth::{Consumed, Truth};
use crate::port::object_store::memory::MemoryStore;
use crate::port::{Error, Result};
use crate::tests::database::Rows;

/// Chances of what goes wrong with one call, in per mille.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Any call fails before it has an effect.
    pub before: u64,
    /// The effect happens; the answer is lost.
    pub after: u64,
    /// A conditional write gets no answer and is not written.
    pub lost: u64,
    /// A conditional write gets no answer and lands later.
    pub late: u64,
    /// A read gives the beginning only.
    pub cut: u64,
    /// A message is delivered twice, a group reads again what it had, messages of different keys change places.
    pub again: u64,
}

impl Faults {
    /// Every run has its own weather: each kind of fault is absent in half of them.
    pub fn drawn(random: &mut Random) -> Faults {
        let mut some = |max: u64| if random.chance(500) { random.below(max) + 1 } else { 0 };
        Faults { before: some(60), after: some(60), lost: some(120), late: some(120), cut: some(15), again: some(300) }
    }
}

/// Everything outside of the processes.
#[derive(Debug)]
pub struct World {
    pub sim: Sim,
    /// Of the log.
    pub partitions: u16,
    pub truth: Mutex<Truth>,
    pub objects: MemoryStore,
    pub database: Rows,
    pub topics: Topics,
    pub faults: Mutex<Faults>,
    /// Nobody reaches the database.
    pub database_away: Mutex<bool>,
}

impl World {
    pub fn new(sim: Sim, consumed: Vec<Consumed>, faults: Faults) -> Arc<World> {
        let (partitions, divided) = sim.draw(|random| (random.pick(&[1, 1, 2, 3]), random.chance(500)));
        let slots = sim.draw(|random| random.index(usize::from(partitions)) + 1);
        Arc::new(World {
            truth: Mutex::new(Truth::new(sim.clone(), partitions, consumed)),
            sim,
            partitions,
            objects: MemoryStore::new(),
            database: Rows::empty(),
            topics: Topics::new(divided.then_some(slots)),
            faults: Mutex::new(faults),
            database_away: Mutex::new(false),
        })
    }

    /// Whether a consumer decides commands, or writes a build that is not given up: who slept through that may still
    /// write to it, and nobody reads it.
    pub fn is_written(&self, consumer: &str) -> bool {
        self.truth.lock().is_worker(consumer) || self.database.build_of(consumer).is_some()
    }

    /// Whether a fault of this kind happens now.
    pub fn strikes(&self, kind: impl FnOnce(&Faults) -> u64) -> bool {
        let chance = kind(&self.faults.lock());
        chance > 0 && self.sim.draw(|random| random.chance(chance))
    }
}

/// A call that failed.
pub fn away<T>(what: &'static str) -> Result<T> {
    Err(Error::Unavailable { what, reason: "an injected fault".into() })
}
