//! Keeps the database small and its full-text index fresh while nothing else needs it. Failures are logged and tried
//! again: nothing depends on this but time and space.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::adapter::sqlite::Database;
use crate::domain::{Partition, Position};
use crate::event_store::EventStore;
use crate::port;
use crate::port::clock::Clock;

/// How often it looks: a quiet host pays one small read each time.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long finished claims are kept for operators to look at. What was handled is known without them, from
/// `aggregate_versions`.
const CLAIMS_KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Looks between two removals of old claims: a minute.
const LOOKS_PER_RETIREMENT: u32 = 30;
/// Claims removed at once: some milliseconds of the database's one writer.
const RETIRED_AT_ONCE: usize = 1000;

/// Runs until told to stop.
pub async fn run(
    database: Database,
    events: EventStore,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> port::Result<()> {
    let ends: Vec<_> = (0..events.partitions()).map(|partition| events.watch_end(Partition(partition))).collect();
    let mut before: Vec<Position> = Vec::new();
    for look in 1u32.. {
        tokio::select! {
            () = stop.cancelled() => break,
            () = clock.sleep(INTERVAL) => {}
        }
        let now: Vec<Position> = ends.iter().map(|end| *end.borrow()).collect();
        // While events arrive, the writer has better things to do; a search brings its words up to date by itself.
        if now == before
            && let Err(error) = refresh(&database, &stop).await
        {
            tracing::warn!(%error, "bringing the full-text index up to date");
        }
        before = now;
        if look.is_multiple_of(LOOKS_PER_RETIREMENT)
            && let Err(error) = retire(&database, clock.as_ref(), &stop).await
        {
            tracing::warn!(%error, "removing old claims");
        }
    }
    Ok(())
}

async fn refresh(database: &Database, stop: &CancellationToken) -> port::Result<()> {
    while !stop.is_cancelled() && database.refresh_text().await? > 0 {}
    Ok(())
}

async fn retire(database: &Database, clock: &dyn Clock, stop: &CancellationToken) -> port::Result<()> {
    let registry = database.registry();
    let old = clock.now().plus_ms(-CLAIMS_KEPT_MS);
    while !stop.is_cancelled() && registry.retire(old, RETIRED_AT_ONCE).await? == RETIRED_AT_ONCE as u64 {}
    Ok(())
}
