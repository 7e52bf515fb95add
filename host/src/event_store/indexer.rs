//! The indexer of a partition: takes committed segments into the index, several in one transaction when it is behind.
//! The index is derived and moves by compare-and-set, so that several processes may do this at once (I1, I7).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Error;
use super::log::Log;
use super::view::{Folded, Relation, after, fold_heads, rows};
use crate::domain::{Aggregate, SegmentNumber};
use crate::failpoint;
use crate::port;
use crate::port::index::{Applied, SegmentRows, Watermark};

/// Events that one transaction takes: enough to be cheap, since rows share pages, and few enough not to hold the
/// database for long. So many are worth a transaction of their own; fewer wait for company.
pub(super) const APPLY_EVENTS_MAX: usize = 8_192;
/// Pauses after a failure: the first, and the longest.
const RETRY_FIRST_MS: u64 = 50;
const RETRY_MAX_MS: u64 = 5_000;

/// Runs until the committer has ended and everything it wrote is indexed.
pub(super) async fn run(log: Arc<Log>) -> Result<(), Error> {
    let mut end = log.end.subscribe();
    let mut committing = log.committing.subscribe();
    let mut pause_ms = RETRY_FIRST_MS;
    loop {
        end.mark_unchanged();
        let (_, segments) = log.view.lock().unindexed(APPLY_EVENTS_MAX);
        if segments.is_empty() {
            if !*committing.borrow_and_update() {
                return Ok(());
            }
            // Both branches are cancel-safe; a closed channel cannot be, since `log` holds the senders.
            tokio::select! {
                biased;
                _ = end.changed() => {}
                _ = committing.changed() => {}
            }
            continue;
        }
        // What waited through a pause has waited long enough.
        if pause_ms == RETRY_FIRST_MS {
            linger(&log, &segments, &mut committing).await;
        }
        let (from, segments) = log.view.lock().unindexed(APPLY_EVENTS_MAX);
        match apply(&log, &from, &segments).await {
            Ok(()) => pause_ms = RETRY_FIRST_MS,
            // The next start folds what is missing; a process told to stop does not wait for its database.
            Err(Error::Port(error)) if !*committing.borrow() => {
                tracing::warn!(%error, partition = log.partition.0, "the index is behind the event log at the end");
                return Ok(());
            }
            Err(Error::Port(error)) => {
                tracing::warn!(%error, partition = log.partition.0, "cannot index the event log; trying again");
                tokio::select! {
                    biased;
                    () = log.shared.clock.sleep(Duration::from_millis(pause_ms)) => {}
                    _ = committing.changed() => {}
                }
                pause_ms = (pause_ms * 2).min(RETRY_MAX_MS);
            }
            Err(error) => {
                *log.stopped.lock() = Some(error.to_string());
                return Err(error);
            }
        }
    }
}

/// Waits for more segments to share a transaction: readers find what is not indexed in memory, so nobody is kept
/// waiting.
async fn linger(log: &Log, segments: &[Arc<Folded>], committing: &mut watch::Receiver<bool>) {
    let events: usize = segments.iter().map(|folded| folded.segment.events.len()).sum();
    let linger_ms = log.shared.options.index_linger_ms;
    if linger_ms == 0 || events >= APPLY_EVENTS_MAX || !*committing.borrow_and_update() {
        return;
    }
    tokio::select! {
        biased;
        () = log.shared.clock.sleep(Duration::from_millis(linger_ms)) => {}
        _ = committing.changed() => {}
    }
}

async fn apply(log: &Log, from: &Watermark, segments: &[Arc<Folded>]) -> Result<(), Error> {
    let taken: Vec<SegmentRows> = segments.iter().map(|folded| rows(folded)).collect();
    port::fail_at("index.before_apply")?;
    let applied = log.shared.index.apply(log.partition, from, &taken).await?;
    failpoint::pass("index.after_apply");
    match applied {
        Applied::Done => {
            if let Some(last) = segments.last() {
                log.view.lock().indexed(&after(&last.segment));
            }
        }
        Applied::Moved(present) => {
            let relation = log.view.lock().relation(&present);
            match relation {
                Relation::Within => log.view.lock().indexed(&present),
                // All of ours is in; the committer finds the rest by itself.
                Relation::Ahead => {
                    let mut view = log.view.lock();
                    let end = view.end().clone();
                    view.indexed(&end);
                }
                Relation::Behind => refold(log, present).await?,
                Relation::Differs => return Err(Error::Index { reason: "it belongs to another history".into() }),
            }
        }
    }
    log.announce();
    Ok(())
}

/// Somebody emptied the index: brings it back to where this view's overlay begins.
async fn refold(log: &Log, from: Watermark) -> Result<(), Error> {
    tracing::warn!(partition = log.partition.0, "the index went back; folding it again");
    let target = log.view.lock().base().clone();
    let mut at = from;
    while at.segments < target.segments {
        let segment = log.segment(at.segments).await?;
        let mut aggregates: Vec<Aggregate> = segment.events.iter().map(|event| event.aggregate.clone()).collect();
        aggregates.sort_unstable();
        aggregates.dedup();
        let found = log.shared.index.lookup(log.partition, &aggregates, &[]).await?;
        if found.watermark != at || segment.header.prev_digest != at.digest {
            // It moves under us: look again.
            return Ok(());
        }
        let before = |aggregate: &Aggregate| match aggregates.binary_search(aggregate) {
            Ok(place) => found.heads[place],
            Err(_) => Default::default(),
        };
        let heads = fold_heads(&segment, before).map_err(|aggregate| broken(log, at.segments, &aggregate))?;
        let folded = Folded { segment, heads };
        match log.shared.index.apply(log.partition, &at, &[rows(&folded)]).await? {
            Applied::Done => at = after(&folded.segment),
            Applied::Moved(_) => return Ok(()),
        }
    }
    Ok(())
}

pub(super) fn broken(log: &Log, segment: SegmentNumber, aggregate: &Aggregate) -> Error {
    Error::Chain {
        key: crate::codec::segment::key(log.partition, segment),
        reason: format!("its numbers of {aggregate} do not follow"),
    }
}
