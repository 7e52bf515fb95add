//! The by-date index: objects that say which segments and event ids a day holds. Derived, written off the critical path,
//! one object for a run of segments; can be deleted at any time and is written again from where its progress says (I1).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Error;
use super::log::Log;
use crate::codec::segment::Segment;
use crate::domain::{Position, SegmentNumber};

/// Event ids that one object holds at most, unless a single segment has more.
const IDS_MAX: usize = 20_000;

/// What an object holds.
#[derive(Debug, Serialize)]
struct Day<'a> {
    partition: u16,
    segments: Vec<Entry<'a>>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    segment: SegmentNumber,
    first_position: Position,
    count: u32,
    digest: String,
    event_ids: Vec<&'a Uuid>,
}

/// How far a partition's objects reach.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    segments: u64,
}

fn progress_key(log: &Log) -> String {
    format!("indexes/by-date/progress/{:04}.json", log.partition.0)
}

/// Writes at intervals, and once more when the committer has ended.
pub(super) async fn run(log: Arc<Log>) -> Result<(), Error> {
    let mut committing = log.committing.subscribe();
    let interval = Duration::from_millis(log.shared.options.by_date_ms);
    loop {
        let clock = log.shared.clock.clone();
        // Both branches are cancel-safe; the channel cannot close, since `log` holds the sender.
        tokio::select! {
            () = clock.sleep(interval) => {}
            _ = committing.wait_for(|committing| !committing) => {}
        }
        let last = !*committing.borrow();
        match write(&log).await {
            Ok(()) => {}
            Err(Error::Port(error)) => {
                tracing::warn!(%error, "the by-date index could not be written; the next round goes on from here");
            }
            Err(error) => return Err(error),
        }
        if last {
            return Ok(());
        }
    }
}

/// Brings the objects up to the log's end.
async fn write(log: &Log) -> Result<(), Error> {
    let end = log.view.lock().end().segments.0;
    let key = progress_key(log);
    let stored = log.shared.objects.get(&key).await?;
    // Progress that cannot be read is no progress: everything here is derived.
    let mut progress: Progress = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    if progress.segments > end {
        progress = Progress::default();
    }
    while progress.segments < end {
        let run = next_run(log, progress.segments, end).await?;
        progress.segments += run.len() as u64;
        for (day, segments) in by_day(&run) {
            put(log, &day, &segments).await?;
        }
        let text = serde_json::to_vec(&progress).expect("a number always serialises");
        log.shared.objects.put(&key, Bytes::from(text)).await?;
    }
    Ok(())
}

async fn next_run(log: &Log, from: u64, end: u64) -> Result<Vec<Arc<Segment>>, Error> {
    let mut run = Vec::new();
    let mut ids = 0;
    for number in from..end {
        let segment = log.segment(SegmentNumber(number)).await?;
        ids += segment.events.len();
        if ids > IDS_MAX && !run.is_empty() {
            break;
        }
        run.push(segment);
    }
    Ok(run)
}

/// `yyyy/mm/dd` of when they were recorded.
fn by_day(run: &[Arc<Segment>]) -> BTreeMap<String, Vec<&Segment>> {
    let mut days: BTreeMap<String, Vec<&Segment>> = BTreeMap::new();
    for segment in run {
        let day = segment.header.recorded_at.to_string()[..10].replace('-', "/");
        days.entry(day).or_default().push(segment);
    }
    days
}

async fn put(log: &Log, day: &str, segments: &[&Segment]) -> Result<(), Error> {
    let Some(first) = segments.first() else { return Ok(()) };
    let partition = log.partition.0;
    let entries = segments.iter().map(|segment| Entry {
        segment: segment.header.segment,
        first_position: segment.header.first_position,
        count: segment.header.count,
        digest: segment.digest.to_string(),
        event_ids: segment.events.iter().map(|event| &event.event_id).collect(),
    });
    let text = serde_json::to_vec(&Day { partition, segments: entries.collect() });
    let text = text.expect("plain fields always serialise");
    let key = format!("indexes/by-date/{day}/{partition:04}-{:016}.json", first.header.segment.0);
    log.shared.objects.put(&key, Bytes::from(text)).await?;
    Ok(())
}
