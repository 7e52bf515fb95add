//! One partition of the log as its tasks and readers share it: the view under a lock that is never held over I/O, and
//! the signals that move with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::Weighter;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::judge::Request;
use super::packs::Ahead;
use super::view::View;
use super::{AppendError, Error, Options};
use crate::codec::segment::{self, Frame, Header, Segment};
use crate::domain::{Partition, Position, SegmentNumber};
use crate::port::clock::Clock;
use crate::port::index::Index;
use crate::port::object_store::ObjectStore;

/// Pause between two looks for segments of other writers while they write, or somebody waits for them.
const LOOK_MS_MIN: u64 = 25;
/// How often that pause doubles while looks find nothing and yet somebody waits: to 200 ms. Mostly it is this process
/// that writes what is waited for, and a look would be a request for nothing.
const EXPECTING_DOUBLINGS_MAX: u32 = 3;

/// What all partitions share.
#[derive(Debug)]
pub(super) struct Shared {
    pub store: Uuid,
    pub options: Options,
    pub objects: Arc<dyn ObjectStore>,
    pub index: Arc<dyn Index>,
    pub clock: Arc<dyn Clock>,
    pub cache: SegmentCache,
}

/// Older segments that readers asked for.
pub(super) type SegmentCache = quick_cache::sync::Cache<(Partition, SegmentNumber), Cached, ByBytes>;

/// A segment in memory, known to be what was written.
#[derive(Debug, Clone)]
pub(super) enum Cached {
    Whole(Arc<Segment>),
    /// Of which single events are read: those of a stream lie beside those of others.
    Frame(Arc<Frame>),
}

impl Cached {
    pub fn bytes(&self) -> &Bytes {
        match self {
            Cached::Whole(segment) => &segment.bytes,
            Cached::Frame(frame) => &frame.bytes,
        }
    }
}

/// Segments weigh their bytes.
#[derive(Debug, Clone)]
pub(super) struct ByBytes;

impl Weighter<(Partition, SegmentNumber), Cached> for ByBytes {
    fn weight(&self, _: &(Partition, SegmentNumber), segment: &Cached) -> u64 {
        segment.bytes().len() as u64
    }
}

/// One partition.
#[derive(Debug)]
pub(super) struct Log {
    pub partition: Partition,
    pub shared: Arc<Shared>,
    pub view: Mutex<View>,
    /// What readers that go through the log in order will ask for next.
    pub ahead: Mutex<Ahead>,
    /// First segments of packs that were found damaged, to be written again.
    pub packs_refused: Mutex<BTreeSet<SegmentNumber>>,
    /// Up to where packs are written; not known before it was looked for.
    pub packed_to: tokio::sync::Mutex<Option<SegmentNumber>>,
    /// Position that the next event gets.
    pub end: watch::Sender<Position>,
    /// First position that the index does not have.
    pub indexed: watch::Sender<Position>,
    /// Whether the committer still runs: the indexer ends after it.
    pub committing: watch::Sender<bool>,
    /// Looks for segments of other writers that were asked for, and those that were made, by number.
    pub looks_wanted: watch::Sender<u64>,
    pub looks_made: watch::Sender<u64>,
    /// How many wait for what other writers may write.
    pub expecting: watch::Sender<usize>,
    /// `None` once the store is closed.
    pub queue: Mutex<Option<mpsc::UnboundedSender<Vec<Request>>>>,
    /// Bytes of requests taken and not yet answered.
    pub queued_bytes: AtomicUsize,
    /// Why the committer stopped, if it did.
    pub stopped: Mutex<Option<String>>,
}

impl Log {
    /// Fetches and checks a segment of this store; `None` when its slot is free.
    pub(super) async fn fetch(&self, number: SegmentNumber) -> Result<Option<Segment>, Error> {
        let key = segment::key(self.partition, number);
        match self.shared.objects.get(&key).await? {
            Some(bytes) => self.decode(number, bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Checks that bytes are the segment of this store with this number.
    pub(super) fn decode(&self, number: SegmentNumber, bytes: Bytes) -> Result<Segment, Error> {
        let key = segment::key(self.partition, number);
        let segment = segment::decode(bytes).map_err(|source| Error::Object { key: key.clone(), source })?;
        self.check_place(key, number, &segment.header)?;
        Ok(segment)
    }

    /// [`Log::decode`], but for the events.
    pub(super) fn frame(&self, number: SegmentNumber, bytes: Bytes) -> Result<Frame, Error> {
        let key = segment::key(self.partition, number);
        let frame = segment::frame(bytes).map_err(|source| Error::Object { key: key.clone(), source })?;
        self.check_place(key, number, &frame.header)?;
        Ok(frame)
    }

    fn check_place(&self, key: String, number: SegmentNumber, header: &Header) -> Result<(), Error> {
        if header.store != self.shared.store {
            return Err(Error::Chain { key, reason: format!("it belongs to store {}", header.store) });
        }
        if header.partition != self.partition || header.segment != number {
            let reason = format!("it is segment {} of partition {}", header.segment, header.partition);
            return Err(Error::Chain { key, reason });
        }
        Ok(())
    }

    /// A segment for a reader: from memory when it is there.
    pub(super) async fn segment(&self, number: SegmentNumber) -> Result<Arc<Segment>, Error> {
        let in_memory = self.view.lock().segment(number);
        if let Some(segment) = in_memory {
            return Ok(segment);
        }
        let cache = &self.shared.cache;
        let cached = cache.get(&(self.partition, number));
        if let Some(Cached::Whole(segment)) = cached {
            return Ok(segment);
        }
        let ahead = self.ahead.lock().take(number);
        let segment = match (ahead, cached) {
            (Some(segment), _) => segment,
            (None, Some(frame)) => Arc::new(self.decode(number, frame.bytes().clone())?),
            (None, None) => {
                let before = number.0.checked_sub(1).map(|before| (self.partition, SegmentNumber(before)));
                // Who asks for one segment after another will ask for the next ones as well.
                let fetched = match before.and_then(|before| cache.peek(&before)) {
                    Some(Cached::Whole(before)) => self.read_on(number, before.bytes.len()).await?,
                    _ => self.fetch(number).await?,
                };
                Arc::new(fetched.ok_or_else(|| self.missing(number))?)
            }
        };
        cache.insert((self.partition, number), Cached::Whole(segment.clone()));
        Ok(segment)
    }

    pub(super) fn missing(&self, number: SegmentNumber) -> Error {
        let key = segment::key(self.partition, number);
        Error::Chain { key, reason: "a committed segment is missing".into() }
    }

    /// Asks the committer to look for segments of other writers now; gives the number of that look.
    pub(super) fn want_look(&self) -> u64 {
        let mut number = 0;
        self.looks_wanted.send_modify(|wanted| {
            *wanted += 1;
            number = *wanted;
        });
        number
    }

    /// Pause before the next look for segments of other writers, after so many that found none; `None`: there are no
    /// other writers. Looks cost requests, so they become rarer while nothing is found, and most while nobody waits.
    pub(super) fn look_pause(&self, in_vain: u32) -> Option<Duration> {
        let follow_ms = self.shared.options.follow_ms?;
        let doublings = in_vain.min(if *self.expecting.borrow() > 0 { EXPECTING_DOUBLINGS_MAX } else { 16 });
        Some(Duration::from_millis(LOOK_MS_MIN.saturating_mul(1 << doublings).min(follow_ms)))
    }

    /// Tells everybody how far log and index are.
    pub(super) fn announce(&self) {
        let (end, indexed) = {
            let view = self.view.lock();
            (view.end().next_position, view.base().next_position)
        };
        let moves = |to: Position| move |at: &mut Position| std::mem::replace(at, to) != to;
        self.end.send_if_modified(moves(end));
        self.indexed.send_if_modified(moves(indexed));
    }

    /// Hands requests to the committer, all or none.
    pub(super) fn enqueue(&self, requests: Vec<Request>) -> Result<(), (Vec<Request>, AppendError)> {
        if let Some(reason) = self.stopped.lock().clone() {
            return Err((requests, AppendError::Stopped { reason }));
        }
        let options = &self.shared.options;
        let bytes: usize = requests.iter().map(|request| request.append.bytes()).sum();
        let before = self.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let full = before > 0 && before + bytes > options.queue_bytes_max;
        let behind = self.view.lock().unindexed_bytes() > options.unindexed_bytes_max;
        let refused = if full || behind {
            Some((requests, AppendError::Busy))
        } else {
            match self.queue.lock().as_ref() {
                Some(queue) => queue.send(requests).err().map(|back| (back.0, AppendError::Closed)),
                None => Some((requests, AppendError::Closed)),
            }
        };
        match refused {
            None => Ok(()),
            Some(refused) => {
                self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
                Err(refused)
            }
        }
    }
}
