//! Follows the log for deployments made by other processes. Cancel-safe: what was read is folded before the next wait,
//! and folding again changes nothing.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::record;
use super::service::Deployments;
use crate::codec::segment::Event;
use crate::domain::{Partition, Position};
use crate::error::{Classified, Kind};

/// Records looked at in one read. Nearly all are of other aggregates and cost a comparison.
const FOLLOW_RECORDS_MAX: usize = 1_024;
/// How long deployments of other processes may go unnoticed: looking after every commit would cost a wake-up each.
const PAUSE_MS: u64 = 100;
/// How often a handler that does not serve is tried again, and the wait after a read that failed.
const RETRY_MS: u64 = 5_000;

impl Deployments {
    /// Lets the catalog follow the deployments in one partition of the log until told to stop. Run one for each
    /// partition. Ends early only with an error that waiting does not heal.
    pub async fn follow(self, partition: Partition, stop: CancellationToken) -> Result<(), Error> {
        let mut end = self.inner.events.watch_end(partition);
        let mut next = self.inner.folded_to[usize::from(partition.0)];
        loop {
            let target = *end.borrow_and_update();
            if next < target {
                match self.follow_to(partition, next, target).await {
                    Ok(position) => {
                        next = position;
                        tokio::select! {
                            biased;
                            () = stop.cancelled() => return Ok(()),
                            () = self.inner.components.clock.sleep(Duration::from_millis(PAUSE_MS)) => continue,
                        }
                    }
                    Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Unknown) => {
                        tracing::warn!(%error, partition = partition.0, "following deployments, trying again");
                    }
                    Err(error) => return Err(error),
                }
            }
            let waits = next < target || !self.trouble().is_empty();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = end.changed(), if next >= target => if changed.is_err() { return Ok(()) },
                () = self.inner.components.clock.sleep(Duration::from_millis(RETRY_MS)), if waits => {
                    if !self.trouble().is_empty() {
                        self.retry().await;
                    }
                }
            }
        }
    }

    /// Reads up to a position, and gives the one after what was read.
    async fn follow_to(&self, partition: Partition, from: Position, to: Position) -> Result<Position, Error> {
        let mut next = from;
        let mut deployed = false;
        while next < to {
            let mut look = |event: &Event| {
                deployed |= event.aggregate.kind.as_str() == record::AGGREGATE_TYPE;
                false
            };
            let read = self.inner.events.select(partition, next, FOLLOW_RECORDS_MAX, &mut look).await?;
            if read.next == next {
                break;
            }
            next = read.next;
        }
        if deployed {
            self.catch_up().await?;
        }
        Ok(next)
    }

    /// Tries the handlers that do not serve again: their component may have been repaired, or the store be back.
    async fn retry(&self) {
        if let Err(error) = self.catch_up().await {
            tracing::warn!(%error, "trying handlers that do not serve");
        }
    }
}
