//! Deterministic simulation: several processes of the real code over one faulty world, on one thread, from a seed.
//! `cargo xtask sim` runs many seeds; the same seed gives the same trace. What is audited: see `audit` and `truth`.
#![allow(clippy::unwrap_used)]

mod audit;
mod bus;
mod clients;
mod clock;
mod crew;
mod database;
mod executor;
mod handlers;
mod objects;
mod operators;
mod process;
mod random;
mod seeds;
mod truth;
mod world;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use clients::{Client, History};
use crew::Crew;
use executor::{Executor, OUTSIDE, Sim};
use operators::{spawn_deployer, spawn_mender};
use tikv_jemallocator::Jemalloc;
use world::{Faults, World};

use crate::tests::database::Rows;

/// As in the program; a run allocates a great deal.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Polls of one phase before it is called endless: a hundred times what a run needs.
const POLLS_MAX: u64 = 600_000;

/// How often it is looked whether everything has come to rest: looking costs more than a poll.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a run gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The first invariant that did not hold.
    pub broken: Option<String>,
    /// Hash over all calls of all ports.
    pub trace: u64,
    pub calls: u64,
    /// Events in the log.
    pub events: usize,
    /// The last calls in words, when they were asked for.
    pub tail: Vec<String>,
}

/// Runs one seed, and keeps so many of the last calls in words.
pub fn run(seed: u64, tail: usize) -> Verdict {
    // Guests run on the spot where the runtime has one thread only; nothing is spawned on it.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _entered = runtime.enter();
    let sim = Sim::new(seed, tail);
    let faults = sim.draw(Faults::drawn);
    let world = World::new(sim.clone(), process::consumed(), faults);
    let mut executor = Executor::new(sim.clone());
    phases(&mut executor, &world);
    let (trace, calls, tail) = sim.trace();
    let events = world.truth.lock().len();
    Verdict { broken: sim.verdict(), trace, calls, events, tail }
}

fn phases(executor: &mut Executor, world: &Arc<World>) {
    let sim = &world.sim;
    let (processes, clients, commands, misfortunes) =
        sim.draw(|random| (random.index(3) + 1, random.below(3) + 1, random.below(5) + 2, random.below(6)));
    let deployments = sim.draw(|random| if random.chance(500) { random.below(4) + 1 } else { 0 });
    let crew = Crew::new(world.clone(), processes);
    let history = Arc::new(History::default());
    // The storm.
    (0..processes).for_each(|slot| crew.start(slot));
    Client::spawn(&crew, &history, clients, commands);
    spawn_mender(&crew);
    spawn_deployer(&crew, &history, deployments);
    let weather = Arc::new(Mutex::new(true));
    let (over, unlucky) = (weather.clone(), crew.clone());
    sim.spawn(OUTSIDE, async move {
        unlucky.misfortunes(misfortunes).await;
        *over.lock() = false;
    });
    executor.run_until(POLLS_MAX, || *history.working.lock() == 0 && !*weather.lock());
    // Calm: what sleeps wakes, what was begun ends.
    *world.faults.lock() = Faults::default();
    crew.wake_all();
    settle(executor, &crew);
    // All processes are new; the database as well, at times.
    crew.kill_all();
    if sim.draw(|random| random.chance(250)) {
        world.database.restore(&Rows::empty());
    }
    let renewed = world.truth.lock().len();
    (0..processes).for_each(|slot| crew.start(slot));
    Client::spawn(&crew, &history, 1, 2);
    executor.run_until(POLLS_MAX, || *history.working.lock() == 0);
    settle(executor, &crew);
    audit(executor, &crew, &history, renewed);
}

/// Lets everything come to rest.
fn settle(executor: &mut Executor, crew: &Arc<Crew>) {
    let sim = &crew.world.sim;
    let late = sim.now() + Duration::from_secs(300);
    let mut next_look = sim.now();
    executor.run_until(POLLS_MAX, || {
        if sim.now() < next_look {
            return false;
        }
        next_look = sim.now() + LOOK_EVERY;
        let left = audit::unfinished(crew);
        if sim.now() > late
            && let Some(left) = &left
        {
            sim.broken("liveness", format!("five minutes of calm, and {left}"));
        }
        left.is_none()
    });
}

/// `renewed`: events of the log when all processes were new for the last time.
fn audit(executor: &mut Executor, crew: &Arc<Crew>, history: &Arc<History>, renewed: usize) {
    if crew.world.sim.is_broken() {
        return;
    }
    let done = Arc::new(Mutex::new(false));
    let (over, auditor, history) = (done.clone(), crew.clone(), history.clone());
    crew.world.sim.spawn(OUTSIDE, async move {
        if let Err(why) = audit::all(&auditor, &history, renewed).await {
            auditor.world.sim.broken("audit", why);
        }
        *over.lock() = true;
    });
    executor.run_until(POLLS_MAX, || *done.lock());
}
