//! The clock of one simulated process: virtual time, and a wall clock that is wrong in its own way.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use uuid::Uuid;

use super::executor::Sim;
use crate::domain::Timestamp;
use crate::port::clock::Clock;

/// Wall time when a run begins.
const START: Timestamp = Timestamp(1_765_929_600_000);

/// How far a wall clock is off, in milliseconds: somebody may set it.
pub type Skew = Arc<Mutex<i64>>;

#[derive(Debug, Clone)]
pub struct SimClock {
    pub sim: Sim,
    pub skew: Skew,
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.sim.now().as_millis()).expect("a run is short");
        START.plus_ms(ms + *self.skew.lock())
    }

    fn monotonic(&self) -> Duration {
        self.sim.now()
    }

    fn random_id(&self) -> Uuid {
        let (high, low) = self.sim.draw(|random| (random.word(), random.word()));
        uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes()).into_uuid()
    }

    async fn sleep(&self, duration: Duration) {
        self.sim.sleep(duration).await;
    }
}
