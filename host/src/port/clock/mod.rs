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
    /// A fresh UUID whose order is that of time (version 7): what was made together lies together in an index.
    fn ordered_id(&self) -> Uuid {
        let random = self.random_id().into_bytes();
        // All but the bytes in which version and variant are.
        let mut bytes = [0; 10];
        bytes[..6].copy_from_slice(&random[..6]);
        bytes[6..].copy_from_slice(&random[9..13]);
        let unix_ms = u64::try_from(self.now().0).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(unix_ms, &bytes).into_uuid()
    }
    /// Returns after the duration. Cancel-safe.
    async fn sleep(&self, duration: Duration);
}
