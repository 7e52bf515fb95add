//! Time, random ids and sleep, as a port, so that a simulation owns all three.

pub mod manual;

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::Timestamp;

/// Where time and randomness come from. Two calls of `now` may go backwards; nothing's safety depends on it.
#[async_trait]
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall time.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment of this process; never goes backwards.
    fn monotonic(&self) -> Duration;
    /// A fresh random UUID (version 4).
    fn random_id(&self) -> Uuid;
    /// Returns after the duration. Cancel-safe.
    async fn sleep(&self, duration: Duration);
}
