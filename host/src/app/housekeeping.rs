//! Keeps the database small and its full-text index fresh while nothing else needs it, and packs small segments.
//! Failures are logged and tried again: nothing depends on this but time and space.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::database::Database;
use crate::domain::{Partition, Position};
use crate::event_store::EventStore;
use crate::port;
use crate::port::clock::Clock;

#[cfg(test)]
mod tests;

/// How often it looks: a quiet host pays one small read each time.
const INTERVAL: Duration = Duration::from_secs(2);
/// Packs written between two looks: five hundred segments a second, which one client on a fast disk makes.
const PACKS_A_LOOK: usize = 4;
/// Looks between two removals of old claims: ten minutes, since each walks through all of them.
const LOOKS_PER_RETIREMENT: u32 = 300;
/// Claims removed at once: some milliseconds of the database's one writer.
const RETIRED_AT_ONCE: usize = 1000;

/// Runs until told to stop.
pub async fn run(
    database: Database,
    events: EventStore,
    clock: Arc<dyn Clock>,
    claims_kept_ms: u64,
    stop: CancellationToken,
) -> port::Result<()> {
    let ends: Vec<_> = (0..events.partitions()).map(|partition| events.watch_end(Partition(partition))).collect();
    let mut before: Vec<Position> = Vec::new();
    for look in 1u32.. {
        tokio::select! {
            () = stop.cancelled() => break,
            () = clock.sleep(INTERVAL) => {}
        }
        database.look_after().await?;
        for partition in (0..events.partitions()).map(Partition) {
            if let Err(error) = events.pack(partition, PACKS_A_LOOK).await {
                tracing::warn!(%error, "packing segments; the next look goes on from here");
            }
        }
        let now = || -> Vec<Position> { ends.iter().map(|end| *end.borrow()).collect() };
        // While events arrive, the writer has better things to do; a search brings its words up to date by itself.
        let is_quiet = || now() == before && !stop.is_cancelled();
        if let Err(error) = refresh(&database, is_quiet).await {
            tracing::warn!(%error, "bringing the full-text index up to date");
        }
        before = now();
        if look.is_multiple_of(LOOKS_PER_RETIREMENT)
            && let Err(error) = retire(&database, clock.as_ref(), claims_kept_ms, &stop).await
        {
            tracing::warn!(%error, "removing old claims");
        }
    }
    Ok(())
}

async fn refresh(database: &Database, is_quiet: impl Fn() -> bool) -> port::Result<()> {
    while is_quiet() && database.refresh_text().await? > 0 {}
    Ok(())
}

/// Claims that ended longer ago go: what was handled is known without them, from `aggregate_versions`.
async fn retire(database: &Database, clock: &dyn Clock, kept_ms: u64, stop: &CancellationToken) -> port::Result<()> {
    let registry = database.registry();
    let old = clock.now().plus_ms(-i64::try_from(kept_ms).unwrap_or(i64::MAX));
    while !stop.is_cancelled() && registry.retire(old, RETIRED_AT_ONCE).await? == RETIRED_AT_ONCE as u64 {}
    Ok(())
}
