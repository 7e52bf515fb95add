//! The by-date index: objects that say which segments and event ids a day holds. Derived, written off the critical
//! path, one object for a run of segments; can be deleted at any time and is written again from where its progress
//! says (I1).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Error;
use super::log::Log;
use crate::codec::segment::Segment;
use crate::domain::{Digest, Position, SegmentNumber};

/// Event ids that gather before objects are written, whatever the interval: about 1 MB of them.
const IDS_MAX: usize = 20_000;

/// What an object holds.
#[derive(Debug, Serialize)]
struct Day<'a> {
    partition: u16,
    segments: &'a [&'a Entry],
}

#[derive(Debug, Serialize)]
struct Entry {
    segment: SegmentNumber,
    first_position: Position,
    count: u32,
    digest: Digest,
    event_ids: Vec<Uuid>,
}

/// How far a partition's objects reach.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    segments: u64,
}

fn progress_key(log: &Log) -> String {
    format!("indexes/by-date/progress/{:04}.json", log.partition.0)
}

/// A segment that is to be written.
#[derive(Debug)]
struct Waiting {
    day: String,
    entry: Entry,
}

/// Takes the ids of segments while they are in memory, writes at intervals, and once more when the committer has ended.
pub(super) async fn run(log: Arc<Log>) -> Result<(), Error> {
    let mut writer = Writer { log: log.clone(), taken: None, ids: 0, waiting: Vec::new() };
    let interval = Duration::from_millis(log.shared.options.by_date_ms);
    let mut committing = log.committing.subscribe();
    let mut end = log.end.subscribe();
    let mut next_write = log.shared.clock.monotonic() + interval;
    loop {
        let last = !*committing.borrow_and_update();
        end.mark_unchanged();
        let due = last || log.shared.clock.monotonic() >= next_write;
        match writer.step(due).await {
            Ok(()) => {}
            Err(Error::Port(error)) => {
                tracing::warn!(%error, "the by-date index could not be written; the next round goes on from here");
            }
            Err(error) => return Err(error),
        }
        if last {
            return Ok(());
        }
        if due {
            next_write = log.shared.clock.monotonic() + interval;
        }
        let pause = next_write.saturating_sub(log.shared.clock.monotonic());
        // All branches are cancel-safe; the channels cannot close, since `log` holds the senders.
        tokio::select! {
            biased;
            () = log.shared.clock.sleep(pause) => {}
            _ = end.changed() => {}
            _ = committing.changed() => {}
        }
    }
}

struct Writer {
    log: Arc<Log>,
    /// Number of the next segment to take; unknown until the stored progress was read.
    taken: Option<u64>,
    ids: usize,
    waiting: Vec<Waiting>,
}

impl Writer {
    /// Takes what was committed; writes when it is time, or much has gathered.
    async fn step(&mut self, due: bool) -> Result<(), Error> {
        let end = self.log.view.lock().end().segments.0;
        let from = match self.taken {
            Some(taken) => taken,
            None => self.progress(end).await?,
        };
        for number in from..end {
            let segment = self.log.segment(SegmentNumber(number)).await?;
            self.ids += segment.events.len();
            self.waiting.push(Waiting { day: day(&segment), entry: Entry::of(&segment) });
            self.taken = Some(number + 1);
            if self.ids >= IDS_MAX {
                self.write().await?;
            }
        }
        self.taken = Some(end.max(from));
        if due { self.write().await } else { Ok(()) }
    }

    /// How far the objects reach. Progress that cannot be read is no progress: everything here is derived.
    async fn progress(&self, end: u64) -> Result<u64, Error> {
        let stored = self.log.shared.objects.get(&progress_key(&self.log)).await?;
        let progress: Progress = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(if progress.segments > end { 0 } else { progress.segments })
    }

    async fn write(&mut self) -> Result<(), Error> {
        let Some(last) = self.waiting.last() else { return Ok(()) };
        let progress = Progress { segments: last.entry.segment.0 + 1 };
        let mut days: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
        for waiting in &self.waiting {
            days.entry(&waiting.day).or_default().push(&waiting.entry);
        }
        for (day, segments) in days {
            put(&self.log, day, &segments).await?;
        }
        let text = serde_json::to_vec(&progress).expect("a number always serialises");
        self.log.shared.objects.put(&progress_key(&self.log), Bytes::from(text)).await?;
        self.waiting.clear();
        self.ids = 0;
        Ok(())
    }
}

/// `yyyy/mm/dd` of when a segment was recorded.
fn day(segment: &Segment) -> String {
    segment.header.recorded_at.to_string()[..10].replace('-', "/")
}

impl Entry {
    fn of(segment: &Segment) -> Entry {
        Entry {
            segment: segment.header.segment,
            first_position: segment.header.first_position,
            count: segment.header.count,
            digest: segment.digest,
            event_ids: segment.events.iter().map(|event| event.event_id).collect(),
        }
    }
}

async fn put(log: &Log, day: &str, segments: &[&Entry]) -> Result<(), Error> {
    let Some(first) = segments.first() else { return Ok(()) };
    let partition = log.partition.0;
    let text = serde_json::to_vec(&Day { partition, segments }).expect("plain fields always serialise");
    let key = format!("indexes/by-date/{day}/{partition:04}-{:016}.json", first.segment.0);
    log.shared.objects.put(&key, Bytes::from(text)).await?;
    Ok(())
}
