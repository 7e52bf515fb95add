//! A clock that a test owns: time moves when it is told to, ids are drawn from a seed, so that a run repeats exactly.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use super::Clock;
use crate::domain::{Digest, Timestamp};

/// A clock for tests. Clones share their time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<Mutex<State>>,
    elapsed: Arc<watch::Sender<Duration>>,
}

#[derive(Debug)]
struct State {
    start: Timestamp,
    seed: u64,
    drawn: u64,
}

impl ManualClock {
    /// Starts at a time, with ids that follow from the seed.
    pub fn new(start: Timestamp, seed: u64) -> ManualClock {
        let state = State { start, seed, drawn: 0 };
        ManualClock { state: Arc::new(Mutex::new(state)), elapsed: Arc::new(watch::Sender::new(Duration::ZERO)) }
    }

    /// Moves time forward and wakes the sleepers whose time has come.
    pub fn advance(&self, by: Duration) {
        self.elapsed.send_modify(|elapsed| *elapsed += by);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.monotonic().as_millis()).unwrap_or(i64::MAX);
        self.state.lock().start.plus_ms(ms)
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed.borrow()
    }

    fn random_id(&self) -> Uuid {
        let mut state = self.state.lock();
        state.drawn += 1;
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&Digest::of(format!("{}/{}", state.seed, state.drawn).as_bytes()).0[..16]);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.monotonic() + duration;
        let mut elapsed = self.elapsed.subscribe();
        // The sender lives as long as `self`: waiting ends only when the time has come.
        if elapsed.wait_for(|elapsed| *elapsed >= until).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
