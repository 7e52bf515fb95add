//! Reading many segments at once, for whoever goes through the log in order: out of a pack where there is one of this
//! history, else several requests at a time; decoded on all cores. A pack is a copy: what it holds is used only when
//! its chain of digests ends in the log's own segment, so it can be slow or missing, and never wrong (I1).

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::log::{Cached, Log};
use super::view::after;
use super::{Error, Record};
use crate::codec::pack::{self, Pack};
use crate::codec::segment::{self, Segment};
use crate::domain::SegmentNumber;
use crate::port::index::EventRow;

/// Bytes that are worth waking other threads for: a millisecond of checking.
const PARALLEL_BYTES_MIN: usize = 256 * 1024;
/// Threads that check segments at most: more than the machines this was measured on have cores.
const THREADS_MAX: usize = 8;
/// Segments a reader in order fetches at once where they are not packed.
const AHEAD: u64 = 8;
/// Segments beyond this are fetched one by one: a request is no longer what takes the time.
const AHEAD_BYTES_MAX: usize = 256 * 1024;
/// Requests under way at once for the records of one aggregate, and segments that are read together then.
const GETS_AT_ONCE: usize = 16;
const SOURCES_AT_ONCE: usize = 64;
/// Readers in order at different places that are served at once; what one of them left is dropped.
const WINDOWS_MAX: usize = 4;

/// Segments read ahead, for each reader in order what is next for it.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    windows: VecDeque<VecDeque<Arc<Segment>>>,
}

impl Ahead {
    /// Gives a segment away, and drops what its reader has passed.
    pub(super) fn take(&mut self, number: SegmentNumber) -> Option<Arc<Segment>> {
        let number_of = |segment: Option<&Arc<Segment>>| segment.map(|segment| segment.header.segment);
        let holds = |window: &VecDeque<Arc<Segment>>| {
            number_of(window.front()).is_some_and(|first| first <= number)
                && number_of(window.back()).is_some_and(|last| number <= last)
        };
        let place = self.windows.iter().position(holds)?;
        let window = &mut self.windows[place];
        while number_of(window.front()).is_some_and(|first| first < number) {
            window.pop_front();
        }
        let found = window.pop_front();
        if window.is_empty() {
            self.windows.remove(place);
        }
        found
    }

    fn put(&mut self, window: VecDeque<Arc<Segment>>) {
        if window.is_empty() {
            return;
        }
        if self.windows.len() == WINDOWS_MAX {
            self.windows.pop_front();
        }
        self.windows.push_back(window);
    }
}

impl Log {
    /// The segments from a number on, at most so many, up to the first free slot.
    pub(super) async fn fetch_run(&self, from: SegmentNumber, count: u64) -> Result<Vec<Segment>, Error> {
        let raw = raw_run(self, from, count).await?;
        self.decode_all(from, raw)
    }

    fn decode_all(&self, from: SegmentNumber, raw: Vec<Bytes>) -> Result<Vec<Segment>, Error> {
        let numbered: Vec<_> = (from.0..).map(SegmentNumber).zip(raw).collect();
        in_parallel(numbered, |(_, bytes)| bytes.len(), |(number, bytes)| self.decode(number, bytes))
            .into_iter()
            .collect()
    }

    /// The segments from a number to the end of the pack that holds it; `None` when there is no such pack, or none that
    /// can be used.
    pub(super) async fn packed(&self, from: SegmentNumber) -> Option<Vec<Segment>> {
        let size = self.shared.options.pack_size;
        let key = size.key(self.partition, from);
        let bytes = match self.shared.objects.get(&key).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::debug!(key, %error, "a pack cannot be read; its segments are");
                return None;
            }
        };
        // The log's own last segment says whether the pack is of this history. What is wrong with that one is not the
        // pack's fault, and is found where it is read.
        let Ok(last) = self.fetch(size.last(from)).await else { return None };
        let decoded = pack::decode(bytes, size).map_err(|error| error.to_string());
        match decoded.and_then(|pack| self.open(&pack, from, last)) {
            Ok(segments) => {
                self.shared.options.metrics.packs("used").add(1);
                Some(segments)
            }
            Err(problem) => {
                tracing::warn!(key, problem, "a pack is ignored, and will be written again; its segments are read");
                self.shared.options.metrics.packs("refused").add(1);
                self.packs_refused.lock().insert(size.first(from));
                None
            }
        }
    }

    /// The segments of a pack from a number on, if they are what the log holds; else the words say why not.
    fn open(&self, pack: &Pack, from: SegmentNumber, last: Option<Segment>) -> Result<Vec<Segment>, String> {
        let first = self.shared.options.pack_size.first(from);
        if pack.store != self.shared.store || pack.partition != self.partition || pack.first != first {
            return Err("it is one of something else".into());
        }
        let last = last.filter(|last| last.digest == pack.digest).ok_or("it is of another history")?;
        // Copies: a slice would hold the pack as long as anything of it is in memory.
        let raw = (from.0..=last.header.segment.0).filter_map(|number| pack.segment(SegmentNumber(number)));
        let raw = raw.map(|bytes| Bytes::copy_from_slice(&bytes)).collect();
        let segments = self.decode_all(from, raw).map_err(|error| error.to_string())?;
        let chained = are_chained(&segments) && segments.last().is_some_and(|found| found.digest == last.digest);
        if chained { Ok(segments) } else { Err("its segments do not follow one another".into()) }
    }

    /// The segment for a reader that had the one before it, which was so large; what comes next is kept at hand.
    pub(super) async fn read_on(&self, number: SegmentNumber, bytes_before: usize) -> Result<Option<Segment>, Error> {
        let size = self.shared.options.pack_size;
        let end = self.view.lock().end().segments;
        let mut segments: VecDeque<Segment> = VecDeque::new();
        // Behind the first of a pack somebody may have fetched that one by itself.
        if number.0 <= size.first(number).0 + 1 && size.last(number) < end {
            segments.extend(self.packed(number).await.into_iter().flatten());
        }
        if segments.is_empty() {
            let room = end.0.min(size.last(number).0 + 1).saturating_sub(number.0);
            let count = if bytes_before > AHEAD_BYTES_MAX { 1 } else { AHEAD.min(room).max(1) };
            segments.extend(self.fetch_run(number, count).await?);
        }
        let first = segments.pop_front();
        self.ahead.lock().put(segments.into_iter().map(Arc::new).collect());
        Ok(first)
    }
}

impl Log {
    /// The records of rows, in their order. Their segments are fetched several at a time, and of each that is not in
    /// memory only what is asked for is read, once it is known to be what was written.
    pub(super) async fn records(&self, rows: Vec<EventRow>) -> Result<Vec<Record>, Error> {
        let mut records = Vec::with_capacity(rows.len());
        let mut together: Vec<Vec<EventRow>> = Vec::new();
        for row in rows {
            match together.last_mut() {
                Some(last) if last[0].segment == row.segment => last.push(row),
                _ => together.push(vec![row]),
            }
        }
        let sources = together.into_iter().map(|rows| async {
            let number = rows[0].segment;
            let in_memory = self.view.lock().segment(number);
            let cached = || self.shared.cache.get(&(self.partition, number));
            let source = match in_memory.map(Cached::Whole).or_else(cached) {
                Some(cached) => Source::Memory(cached),
                None => {
                    let key = segment::key(self.partition, number);
                    Source::Stored(self.shared.objects.get(&key).await?.ok_or_else(|| self.missing(number))?)
                }
            };
            Ok::<_, Error>((source, rows))
        });
        let mut fetched = stream::iter(sources).buffered(GETS_AT_ONCE).chunks(SOURCES_AT_ONCE);
        while let Some(some) = fetched.next().await {
            let some = some.into_iter().collect::<Result<Vec<_>, Error>>()?;
            let read = in_parallel(some, |(source, _)| source.weight(), |(source, rows)| self.read_rows(source, &rows));
            for found in read {
                records.extend(found?);
            }
        }
        Ok(records)
    }

    fn read_rows(&self, source: Source, rows: &[EventRow]) -> Result<Vec<Record>, Error> {
        let wrong = |row: &EventRow| Error::Index {
            reason: format!("segment {} does not hold event {}", row.segment, row.event_id),
        };
        let frame = match source {
            Source::Memory(Cached::Whole(segment)) => {
                let record = |row: &EventRow| {
                    let index = row.position.0.checked_sub(segment.header.first_position.0)?;
                    Record::of(&segment, usize::try_from(index).ok()?)
                };
                let found = rows
                    .iter()
                    .map(|row| record(row).filter(|record| record.event_id == row.event_id).ok_or_else(|| wrong(row)));
                return found.collect();
            }
            Source::Memory(Cached::Frame(frame)) => frame,
            Source::Stored(bytes) => {
                let number = rows[0].segment;
                let frame = Arc::new(self.frame(number, bytes)?);
                // Streams next to this one lie in the same segments.
                self.shared.cache.insert((self.partition, number), Cached::Frame(frame.clone()));
                frame
            }
        };
        let record = |row: &EventRow| {
            let index = row.position.0.checked_sub(frame.header.first_position.0);
            let index = index.and_then(|index| usize::try_from(index).ok()).ok_or_else(|| wrong(row))?;
            let broken = |source| Error::Object { key: segment::key(self.partition, row.segment), source };
            let event = frame.event(index).map_err(broken)?.filter(|event| event.event_id == row.event_id);
            Ok(Record::new(&frame.header, index, &event.ok_or_else(|| wrong(row))?))
        };
        rows.iter().map(record).collect()
    }
}

/// Where the records of one segment are read from.
enum Source {
    Memory(Cached),
    Stored(Bytes),
}

impl Source {
    fn weight(&self) -> usize {
        match self {
            Source::Memory(_) => 0,
            Source::Stored(bytes) => bytes.len(),
        }
    }
}

/// The objects of the segments from a number on, at most so many, up to the first free slot.
async fn raw_run(log: &Log, from: SegmentNumber, count: u64) -> Result<Vec<Bytes>, Error> {
    let keys: Vec<String> =
        (from.0..from.0 + count).map(|number| segment::key(log.partition, SegmentNumber(number))).collect();
    let mut raw = Vec::with_capacity(keys.len());
    for bytes in join_all(keys.iter().map(|key| log.shared.objects.get(key))).await {
        match bytes? {
            Some(bytes) => raw.push(bytes),
            None => break,
        }
    }
    Ok(raw)
}

/// Whether each segment follows the one before it.
pub(super) fn are_chained(segments: &[impl Borrow<Segment>]) -> bool {
    segments.windows(2).all(|pair| {
        let (before, header) = (after(pair[0].borrow()), &pair[1].borrow().header);
        header.segment == before.segments
            && header.prev_digest == before.digest
            && header.first_position == before.next_position
    })
}

/// Does the work for each item, in their order: on all cores when the items are heavy enough and this runtime has
/// several threads, else right here, so that a simulation repeats exactly.
pub(super) fn in_parallel<T: Send, R: Send>(
    items: Vec<T>,
    weight: impl Fn(&T) -> usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let multi = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if !multi || items.len() < 2 || items.iter().map(weight).sum::<usize>() < PARALLEL_BYTES_MIN {
        return items.into_iter().map(work).collect();
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(items.len());
    let share = items.len().div_ceil(threads);
    let mut items = items.into_iter();
    let shares: Vec<Vec<T>> = (0..threads).map(|_| items.by_ref().take(share).collect()).collect();
    let work = &work;
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let running: Vec<_> = shares
                .into_iter()
                .map(|share| scope.spawn(move || share.into_iter().map(work).collect::<Vec<R>>()))
                .collect();
            running.into_iter().flat_map(|one| one.join().expect("checking bytes does not panic")).collect()
        })
    })
}
