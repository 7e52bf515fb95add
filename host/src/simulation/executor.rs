//! One thread, a seeded scheduler and a virtual clock. Every poll picks one of the tasks that could run; time moves a
//! little with each poll and jumps to the next sleeper when nobody can run. Tasks belong to groups (one run of one
//! process each) that can be paused, woken and killed between any two polls: at every await.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::random::Random;

/// A run of a process.
pub type Group = usize;
/// What is no process: clients, the weather, writes that land late.
pub const OUTSIDE: Group = 0;

/// Time that one poll takes at most.
const POLL_MICROS_MAX: u64 = 40;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The world's scheduler as tasks see it. Cheap to clone.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Mutex<Shared>>,
    ready: Arc<Mutex<BTreeSet<usize>>>,
}

struct Shared {
    now: Duration,
    random: Random,
    timers: BTreeMap<(Duration, u64), Waker>,
    timers_made: u64,
    spawned: Vec<(Group, Task)>,
    killed: Vec<Group>,
    paused: HashSet<Group>,
    trace: DefaultHasher,
    calls: u64,
    /// The last calls in words, as many as someone wants to read.
    tail: VecDeque<String>,
    tail_max: usize,
    /// The first broken invariant.
    broken: Option<String>,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sim")
    }
}

impl Sim {
    pub fn new(seed: u64, tail_max: usize) -> Sim {
        let shared = Shared {
            now: Duration::ZERO,
            random: Random::new(seed),
            timers: BTreeMap::new(),
            timers_made: 0,
            spawned: Vec::new(),
            killed: Vec::new(),
            paused: HashSet::new(),
            trace: DefaultHasher::new(),
            calls: 0,
            tail: VecDeque::new(),
            tail_max,
            broken: None,
        };
        Sim { shared: Arc::new(Mutex::new(shared)), ready: Arc::default() }
    }

    pub fn now(&self) -> Duration {
        self.shared.lock().now
    }

    /// Draws from the run's random numbers.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.shared.lock().random)
    }

    pub fn spawn(&self, group: Group, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.lock().spawned.push((group, Box::pin(task)));
    }

    /// The group's tasks are dropped before the next poll.
    pub fn kill(&self, group: Group) {
        self.shared.lock().killed.push(group);
    }

    pub fn pause(&self, group: Group) {
        self.shared.lock().paused.insert(group);
    }

    pub fn wake(&self, group: Group) {
        self.shared.lock().paused.remove(&group);
    }

    pub async fn sleep(&self, duration: Duration) {
        let due = self.now() + duration;
        std::future::poll_fn(|context| {
            let shared = &mut *self.shared.lock();
            if shared.now >= due {
                return Poll::Ready(());
            }
            shared.timers_made += 1;
            shared.timers.insert((due, shared.timers_made), context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub async fn sleep_ms(&self, ms: u64) {
        self.sleep(Duration::from_millis(ms)).await;
    }

    /// What lies between a call and its effect, and between the effect and its answer: nothing, the turns of others, or
    /// some time.
    pub async fn hop(&self) {
        let micros = self.draw(|random| match random.below(100) {
            0..40 => 0,
            40..80 => random.below(500),
            80..98 => random.below(8_000),
            _ => random.below(400_000),
        });
        if micros > 0 {
            self.sleep(Duration::from_micros(micros)).await;
        }
    }

    /// Adds a call to the trace.
    pub fn note(&self, who: &str, call: &'static str, number: u64, words: impl FnOnce() -> String) {
        let shared = &mut *self.shared.lock();
        (shared.now.as_nanos(), who, call, number).hash(&mut shared.trace);
        shared.calls += 1;
        if shared.tail_max > 0 {
            if shared.tail.len() == shared.tail_max {
                shared.tail.pop_front();
            }
            shared.tail.push_back(format!("{:>12.3?} {who:<5} {call:<12} {number:<5} {}", shared.now, words()));
        }
    }

    /// An invariant does not hold. The run ends; the first one counts.
    pub fn broken(&self, invariant: &str, what: String) {
        let mut shared = self.shared.lock();
        if shared.broken.is_none() {
            shared.broken = Some(format!("{invariant}: {what}"));
        }
    }

    pub fn is_broken(&self) -> bool {
        self.shared.lock().broken.is_some()
    }

    pub fn verdict(&self) -> Option<String> {
        self.shared.lock().broken.clone()
    }

    /// Hash over all calls, how many there were, and the last ones in words.
    pub fn trace(&self) -> (u64, u64, Vec<String>) {
        let shared = self.shared.lock();
        let tail = shared.tail.iter().cloned().collect();
        (shared.trace.finish(), shared.calls, tail)
    }
}

struct TaskWaker {
    task: usize,
    ready: Arc<Mutex<BTreeSet<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().insert(self.task);
    }
}

/// Runs the tasks.
pub struct Executor {
    sim: Sim,
    tasks: Vec<Option<(Group, Task)>>,
    polls: u64,
}

impl Executor {
    pub fn new(sim: Sim) -> Executor {
        Executor { sim, tasks: Vec::new(), polls: 0 }
    }

    /// Polls until the condition holds, an invariant is broken, or so many polls are over.
    pub fn run_until(&mut self, polls_max: u64, mut over: impl FnMut() -> bool) {
        let enough = self.polls + polls_max;
        while !over() && !self.sim.is_broken() {
            if self.polls == enough {
                self.sim.broken("liveness", format!("not over after {polls_max} polls"));
            }
            self.take_orders();
            if !self.poll_one() && !self.jump() {
                self.sim.broken("liveness", "nobody can run and nobody sleeps".into());
            }
        }
    }

    /// Spawns and kills what was asked for.
    fn take_orders(&mut self) {
        loop {
            let (spawned, killed) = {
                let mut shared = self.sim.shared.lock();
                (std::mem::take(&mut shared.spawned), std::mem::take(&mut shared.killed))
            };
            if spawned.is_empty() && killed.is_empty() {
                return;
            }
            for (group, task) in spawned {
                self.sim.ready.lock().insert(self.tasks.len());
                self.tasks.push(Some((group, task)));
            }
            for slot in &mut self.tasks {
                // Dropped outside of every lock: what is dropped may call back.
                let dead = slot.take_if(|(group, _)| killed.contains(group));
                drop(dead);
            }
        }
    }

    fn poll_one(&mut self) -> bool {
        let task = {
            let shared = &mut *self.sim.shared.lock();
            let now = shared.now;
            while let Some(timer) = shared.timers.first_entry()
                && timer.key().0 <= now
            {
                timer.remove().wake();
            }
            let mut ready = self.sim.ready.lock();
            ready.retain(|task| self.tasks[*task].is_some());
            let may_run =
                |task: &&usize| self.tasks[**task].as_ref().is_some_and(|(group, _)| !shared.paused.contains(group));
            let count = ready.iter().filter(may_run).count();
            if count == 0 {
                return false;
            }
            let nth = shared.random.index(count);
            let task = *ready.iter().filter(may_run).nth(nth).expect("one of those counted");
            ready.remove(&task);
            shared.now += Duration::from_micros(shared.random.below(POLL_MICROS_MAX));
            task
        };
        self.polls += 1;
        let waker = Waker::from(Arc::new(TaskWaker { task, ready: self.sim.ready.clone() }));
        if let Some((_, future)) = &mut self.tasks[task]
            && future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            self.tasks[task] = None;
        }
        true
    }

    /// Goes to the time of the next sleeper.
    fn jump(&mut self) -> bool {
        let mut shared = self.sim.shared.lock();
        let next = shared.timers.keys().next().map(|(due, _)| *due);
        if let Some(next) = next {
            shared.now = shared.now.max(next);
        }
        next.is_some()
    }
}
