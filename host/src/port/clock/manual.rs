//! A clock that a test owns: time moves when it is told to, ids are drawn from a seed, so that a run repeats exactly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Clock;
use crate::domain::{Digest, Timestamp};

/// A clock for tests. Clones share their time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    start: Timestamp,
    elapsed: Duration,
    seed: u64,
    drawn: u64,
    /// By when they wake, then by who came first: the order of waking is part of what repeats.
    sleepers: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
    slept: u64,
}

impl ManualClock {
    /// Starts at a time, with ids that follow from the seed.
    pub fn new(start: Timestamp, seed: u64) -> ManualClock {
        let (elapsed, sleepers) = (Duration::ZERO, BTreeMap::new());
        ManualClock { state: Arc::new(Mutex::new(State { start, elapsed, seed, drawn: 0, sleepers, slept: 0 })) }
    }

    /// Moves time forward and wakes the sleepers whose time has come.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock();
        state.elapsed += by;
        let now = (state.elapsed, u64::MAX);
        let later = state.sleepers.split_off(&now);
        let due = std::mem::replace(&mut state.sleepers, later);
        drop(state);
        for sleeper in due.into_values() {
            // One that was cancelled is not there to hear it.
            let _cancelled = sleeper.send(());
        }
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.monotonic().as_millis()).unwrap_or(i64::MAX);
        self.state.lock().start.plus_ms(ms)
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().elapsed
    }

    fn random_id(&self) -> Uuid {
        let mut state = self.state.lock();
        state.drawn += 1;
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&Digest::of(format!("{}/{}", state.seed, state.drawn).as_bytes()).0[..16]);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    async fn sleep(&self, duration: Duration) {
        let woken = {
            let mut state = self.state.lock();
            let (sleeper, woken) = oneshot::channel();
            state.slept += 1;
            let key = (state.elapsed + duration, state.slept);
            if duration.is_zero() {
                return;
            }
            state.sleepers.insert(key, sleeper);
            woken
        };
        // The clock keeps the sender until it sends: waiting ends when the time has come.
        if woken.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
