//! Opening: which store this is, whether the index belongs to its log, and where the log ends. An index that is
//! missing, empty, of another store, ahead of the log or of another history is thrown away and folded again (I1).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::DefaultLifecycle;
use quick_cache::{DefaultHashBuilder, OptionsBuilder};
use tokio::sync::watch;

use super::indexer::{APPLY_EVENTS_MAX, broken};
use super::log::{ByBytes, Log, SegmentCache, Shared};
use super::view::{Folded, View, after, fold_heads, rows};
use super::{Error, OpenReport, Options, Rebuilt};
use crate::codec::segment::{NO_DIGEST, Segment};
use crate::codec::store::{self, PARTITIONS_MAX, StoreMeta};
use crate::domain::{Aggregate, Partition, Position, SegmentNumber};
use crate::failpoint;
use crate::port;
use crate::port::clock::Clock;
use crate::port::index::{Applied, Head, Index, Seen, Watermark};
use crate::port::object_store::{ObjectStore, PutNew};

/// Segments fetched at once while folding.
const FETCH_AHEAD: u64 = 16;
/// Attempts at creating the store when the answer is not clear.
const CREATE_ATTEMPTS: u32 = 20;
const CREATE_PAUSE_MS: u64 = 250;
/// Guess of a segment's size, for sizing the cache's tables.
const SEGMENT_BYTES_GUESS: usize = 16 * 1024;

/// A log ready to be served, and the number of this writer session.
pub(super) struct Opened {
    pub log: Arc<Log>,
    pub epoch: u64,
}

/// Reads or creates `meta/store.json`; whether it was created now.
async fn store_meta(
    options: &Options,
    objects: &dyn ObjectStore,
    clock: &dyn Clock,
) -> Result<(StoreMeta, bool), Error> {
    let object = |source| Error::Object { key: store::KEY.into(), source };
    let fresh = StoreMeta {
        format: store::FORMAT.into(),
        store: clock.random_id(),
        partitions: options.partitions.clamp(1, PARTITIONS_MAX),
        created_at: clock.now(),
    };
    for _ in 0..CREATE_ATTEMPTS {
        if let Some(bytes) = objects.get(store::KEY).await? {
            let meta = StoreMeta::decode(&bytes).map_err(object)?;
            let created = meta.store == fresh.store;
            return Ok((meta, created));
        }
        if objects.put_new(store::KEY, fresh.encode()).await? == PutNew::Created {
            return Ok((fresh, true));
        }
        clock.sleep(Duration::from_millis(CREATE_PAUSE_MS)).await;
    }
    let reason = "it does not say whether meta/store.json was written".to_owned();
    Err(Error::Port(port::Error::Unavailable { what: "the object store", reason }))
}

/// A cache in one piece: of several, none would have room for a segment of the greatest size.
fn segment_cache(bytes_max: usize) -> SegmentCache {
    let items = (bytes_max / SEGMENT_BYTES_GUESS).max(16);
    let options =
        OptionsBuilder::new().estimated_items_capacity(items).weight_capacity(bytes_max as u64).shards(1).build();
    let options = options.expect("capacities are given");
    SegmentCache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
}

/// Opens every partition.
pub(super) async fn open(
    options: Options,
    objects: Arc<dyn ObjectStore>,
    index: Arc<dyn Index>,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<Shared>, Vec<Opened>, OpenReport), Error> {
    let (meta, created) = store_meta(&options, objects.as_ref(), clock.as_ref()).await?;
    let cache = segment_cache(options.cache_bytes_max);
    let shared = Arc::new(Shared { store: meta.store, options, objects, index, clock, cache });
    let mut report = OpenReport { created, rebuilt: None, folded_events: 0 };
    // Each round that does not empty the database found that another process had done so: the rounds end.
    while let Some((why, seen)) = unfit(&shared, meta.partitions).await? {
        if shared.index.reset(meta.store, &seen).await? {
            report.rebuilt = why;
            break;
        }
    }
    let mut opened = Vec::with_capacity(usize::from(meta.partitions));
    for partition in (0..meta.partitions).map(Partition) {
        // A process that runs already takes what it commits into the index: then this one begins again from there.
        let (log, epoch, folded) = loop {
            let watermark = shared.index.watermark(partition).await?;
            let log = new_log(partition, shared.clone(), watermark);
            if let Some((epoch, folded)) = catch_up(&log).await? {
                break (log, epoch, folded);
            }
        };
        report.folded_events += folded;
        opened.push(Opened { log, epoch });
    }
    Ok((shared, opened, report))
}

fn new_log(partition: Partition, shared: Arc<Shared>, at: Watermark) -> Arc<Log> {
    let position = at.next_position;
    let view = View::new(at, shared.options.heads_max, shared.options.recent_bytes_max);
    Arc::new(Log {
        partition,
        shared,
        view: Mutex::new(view),
        ahead: Mutex::default(),
        packs_refused: Mutex::default(),
        packed_to: Default::default(),
        end: watch::Sender::new(position),
        indexed: watch::Sender::new(position),
        committing: watch::Sender::new(true),
        looks_wanted: watch::Sender::new(0),
        looks_made: watch::Sender::new(0),
        expecting: watch::Sender::new(0),
        queue: Mutex::new(None),
        queued_bytes: Default::default(),
        stopped: Mutex::new(None),
    })
}

/// What makes the index unfit, and why it must be rebuilt: no reason when it is merely new, like the store.
async fn unfit(shared: &Arc<Shared>, partitions: u16) -> Result<Option<(Option<Rebuilt>, Seen)>, Error> {
    let store = shared.index.store_id().await?;
    let seen = |watermark| Seen { store, watermark };
    match store {
        Some(id) if id == shared.store => {}
        Some(_) => return Ok(Some((Some(Rebuilt::OtherStore), seen(None)))),
        None => {
            for partition in (0..partitions).map(Partition) {
                let log = new_log(partition, shared.clone(), start());
                if log.fetch(SegmentNumber(0)).await?.is_some() {
                    return Ok(Some((Some(Rebuilt::Empty), seen(None))));
                }
            }
            return Ok(Some((None, seen(None))));
        }
    }
    for partition in (0..partitions).map(Partition) {
        let watermark = shared.index.watermark(partition).await?;
        let Some(last) = watermark.segments.0.checked_sub(1) else { continue };
        let log = new_log(partition, shared.clone(), watermark.clone());
        let why = match log.fetch(SegmentNumber(last)).await? {
            None => Rebuilt::Ahead,
            Some(segment) if after(&segment) != watermark => Rebuilt::DigestDiffers,
            Some(_) => continue,
        };
        return Ok(Some((Some(why), seen(Some((partition, watermark))))));
    }
    Ok(None)
}

/// Where every log begins.
fn start() -> Watermark {
    Watermark { segments: SegmentNumber(0), next_position: Position(0), digest: NO_DIGEST }
}

/// Folds everything from the index's watermark to the log's end; gives the next epoch and how many events it folded.
/// `None` when another process moved the watermark: heads of different times do not go together.
async fn catch_up(log: &Arc<Log>) -> Result<Option<(u64, u64)>, Error> {
    let size = log.shared.options.pack_size;
    let begin = log.view.lock().end().segments;
    let mut epoch = 0;
    if let Some(last) = begin.0.checked_sub(1)
        && let Some(segment) = log.fetch(SegmentNumber(last)).await?
    {
        epoch = segment.header.epoch;
    }
    let mut folded = 0;
    // Mostly there is nothing: one request tells. When there is something, there may be much, and packed.
    let mut count = 1;
    loop {
        let next = log.view.lock().end().segments;
        let packed = match count {
            1 => None,
            // Behind the first of a pack, that one may have been fetched by itself.
            _ if next == size.first(next) || next.0 == begin.0 + 1 => log.packed(next).await,
            _ => None,
        };
        let (segments, ended) = match packed {
            Some(segments) => (segments, false),
            None => {
                let wanted = count.min(size.last(next).0 + 1 - next.0);
                let segments = log.fetch_run(next, wanted).await?;
                let ended = (segments.len() as u64) < wanted;
                (segments, ended)
            }
        };
        for segment in segments {
            epoch = segment.header.epoch;
            folded += segment.events.len() as u64;
            if !fold(log, segment).await? {
                return Ok(None);
            }
        }
        if ended {
            break;
        }
        count = FETCH_AHEAD;
    }
    if !apply(log).await? {
        return Ok(None);
    }
    log.announce();
    Ok(Some((epoch + 1, folded)))
}

/// Whether the index is where it was.
async fn fold(log: &Arc<Log>, segment: Segment) -> Result<bool, Error> {
    let waiting = log.view.lock().unindexed_events();
    if waiting >= APPLY_EVENTS_MAX && !apply(log).await? {
        return Ok(false);
    }
    let unknown: Vec<Aggregate> = {
        let view = log.view.lock();
        let end = view.end();
        if segment.header.prev_digest != end.digest || segment.header.first_position != end.next_position {
            let reason = "it does not follow the segment before it".to_owned();
            return Err(Error::Chain { key: segment.key(), reason });
        }
        let mut seen = HashSet::new();
        let aggregates = segment.events.iter().map(|event| &event.aggregate);
        aggregates.filter(|a| view.head(a).is_none() && seen.insert(*a)).cloned().collect()
    };
    let mut looked: HashMap<Aggregate, Head> = HashMap::new();
    if !unknown.is_empty() {
        let found = log.shared.index.lookup(log.partition, &unknown, &[]).await?;
        if found.watermark != *log.view.lock().base() {
            return Ok(false);
        }
        looked.extend(unknown.into_iter().zip(found.heads));
    }
    let mut view = log.view.lock();
    let before = |a: &Aggregate| view.head(a).or_else(|| looked.get(a).copied()).unwrap_or_default();
    let number = segment.header.segment;
    let heads = fold_heads(&segment, before).map_err(|aggregate| broken(log, number, &aggregate))?;
    view.fold(Folded { segment: Arc::new(segment), heads });
    Ok(true)
}

/// Takes what was folded into the index. Gives whether the index knows nothing beyond.
async fn apply(log: &Arc<Log>) -> Result<bool, Error> {
    loop {
        let (from, segments) = log.view.lock().unindexed(APPLY_EVENTS_MAX);
        let Some(last) = segments.last() else { return Ok(true) };
        let taken: Vec<_> = segments.iter().map(|folded| rows(folded)).collect();
        failpoint::pass("open.before_apply");
        match log.shared.index.apply(log.partition, &from, &taken).await? {
            Applied::Done => log.view.lock().indexed(&after(&last.segment)),
            // Another process folds the same: its work is ours.
            Applied::Moved(present) => {
                let mut view = log.view.lock();
                if present.segments <= from.segments {
                    return Err(Error::Index { reason: "it moves backwards while it is folded".into() });
                }
                if present.segments > view.end().segments {
                    return Ok(false);
                }
                view.indexed(&present);
            }
        }
    }
}
