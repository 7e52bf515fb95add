//! Streams of aggregates, read from the log and kept in a bounded cache. A cached stream is a pure function of the log
//! up to its sequence and of the digests of handler and upcasters, so it is never invalid, only behind or made by other
//! code (I8).

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::{Error, Folded, Snapshots, Stream, Upcasters, call_guests};
use crate::codec::snapshot::{Folder, Snapshot};
use crate::domain::{Aggregate, Partition, Sequence, Timestamp};
use crate::event_store::{EventStore, Record};
use crate::sandbox::{ActiveHandler, Catalog};

/// Records read from the log at once when streams are loaded, and of each of many streams at least.
const LOAD_RECORDS_MAX: usize = 1_000;
const LOAD_RECORDS_MIN: usize = 16;
/// Snapshots looked for at once.
const OPENED_AT_ONCE: usize = 16;
/// The part of the cache for streams that were used more than once. What is new needs room too: an aggregate that was
/// created a while ago is likely to get its next command, and one that got many may be over.
const CACHE_HOT: f64 = 0.5;
/// Streams the cache expects to hold at its byte limit; sizes its tables only.
const STREAMS_ESTIMATED: usize = 16_384;

/// Where in history a state is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// After the event with this sequence.
    Sequence(u64),
    /// After the last event whose `occurred_at` is not later than this time.
    Time(Timestamp),
}

#[derive(Debug, Clone)]
pub(super) struct ByBytes;

impl Weighter<Aggregate, Stream> for ByBytes {
    fn weight(&self, _: &Aggregate, stream: &Stream) -> u64 {
        stream.weight() as u64
    }
}

type StreamCache = Cache<Aggregate, Stream, ByBytes>;

pub(super) fn stream_cache(bytes_max: usize) -> StreamCache {
    let options = OptionsBuilder::new()
        .estimated_items_capacity(STREAMS_ESTIMATED)
        .weight_capacity(bytes_max as u64)
        .hot_allocation(CACHE_HOT)
        .build()
        .expect("capacities are given");
    Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
}

/// A stream that is wanted.
#[derive(Debug)]
pub struct Asked {
    pub aggregate: Aggregate,
    pub active: Arc<ActiveHandler>,
    /// Consecutive records of it that the caller has read from the log.
    pub records: Vec<Record>,
}

/// Streams by aggregate. Cheap to clone.
#[derive(Debug, Clone)]
pub struct States {
    events: EventStore,
    catalog: Arc<Catalog>,
    cache: Arc<StreamCache>,
    snapshots: Option<Snapshots>,
}

impl States {
    /// A cache of at most `cache_bytes_max` over this log.
    pub fn new(events: EventStore, catalog: Arc<Catalog>, cache_bytes_max: usize) -> States {
        let cache = stream_cache(cache_bytes_max);
        States { events, catalog, cache: Arc::new(cache), snapshots: None }
    }

    /// Starts cold reads of long streams from snapshots, and makes them.
    #[must_use]
    pub fn with_snapshots(self, snapshots: Snapshots) -> States {
        States { snapshots: Some(snapshots), ..self }
    }

    /// The active handler that decides for an aggregate type.
    pub fn handler(&self, aggregate: &Aggregate) -> Result<Arc<ActiveHandler>, Error> {
        let kind = aggregate.kind.as_str();
        let active = self.catalog.active();
        active.command_handler(kind).cloned().ok_or_else(|| match active.lacks(kind) {
            true => Error::HandlerMissing { kind: kind.to_owned() },
            false => Error::NoHandler { kind: kind.to_owned() },
        })
    }

    /// The state of an aggregate as of the committed end of the log.
    pub async fn load(&self, aggregate: &Aggregate) -> Result<Folded, Error> {
        let active = self.handler(aggregate)?;
        let stream = self.stream(aggregate, &active).await?;
        self.fold(stream, active).await
    }

    /// The state of an aggregate in the past. `Sequence` beyond the end gives the state at the end.
    pub async fn load_at(&self, aggregate: &Aggregate, at: At) -> Result<Folded, Error> {
        let active = self.handler(aggregate)?;
        let last = match at {
            At::Sequence(sequence) => Sequence(sequence).min(self.events.head(aggregate).await?.last),
            At::Time(time) => self.last_by(aggregate, time).await?,
        };
        let mut stream = self.cold(aggregate, &active, self.upcasters(aggregate), last).await?;
        self.extend(&mut stream, last).await?;
        let (mut stream, folded) = call_guests(stream, move |stream| stream.fold(&active.handler)).await;
        let folded = folded?;
        self.offer(stream.take_snapshot());
        Ok(folded)
    }

    /// Sequence of the last event that had occurred by a time. Times need not grow from event to event: commands carry
    /// that of their acceptance, and clocks may be set back.
    async fn last_by(&self, aggregate: &Aggregate, time: Timestamp) -> Result<Sequence, Error> {
        let (mut seen, mut last) = (Sequence(0), Sequence(0));
        loop {
            let records = self.events.stream(aggregate, seen, LOAD_RECORDS_MAX).await?;
            for record in &records {
                let stored = |source| Error::Stored { aggregate: aggregate.clone(), source };
                if record.envelope().map_err(stored)?.occurred_at <= time {
                    last = record.sequence;
                }
                seen = record.sequence;
            }
            if records.len() < LOAD_RECORDS_MAX {
                return Ok(last);
            }
        }
    }

    /// The stream of an aggregate up to the committed end, not necessarily folded.
    async fn stream(&self, aggregate: &Aggregate, active: &Arc<ActiveHandler>) -> Result<Stream, Error> {
        let asked = Asked { aggregate: aggregate.clone(), active: active.clone(), records: Vec::new() };
        Ok(self.streams(&[asked]).await?.remove(0))
    }

    /// Streams up to the committed end, not necessarily folded, in the order asked. Reads the log only for what neither
    /// the cache nor the caller has, and then for all of them at once.
    pub async fn streams(&self, asked: &[Asked]) -> Result<Vec<Stream>, Error> {
        let aggregates: Vec<Aggregate> = asked.iter().map(|asked| asked.aggregate.clone()).collect();
        let ends: Vec<Sequence> = self.events.heads(&aggregates).await?.iter().map(|head| head.last).collect();
        let mut opening = Vec::with_capacity(asked.len());
        for (asked, end) in asked.iter().zip(&ends) {
            opening.push(self.open(&asked.aggregate, &asked.active, *end));
        }
        let mut streams: Vec<Stream> = stream::iter(opening).buffered(OPENED_AT_ONCE).try_collect().await?;
        for (stream, asked) in streams.iter_mut().zip(asked) {
            // Ends at a gap, which is filled from the log.
            let _ = asked.records.iter().all(|record| stream.push(record));
        }
        self.catch_up(streams.iter_mut().zip(ends).collect()).await?;
        Ok(streams)
    }

    /// Brings streams to the committed end, which was at these sequences.
    async fn catch_up(&self, streams: Vec<(&mut Stream, Sequence)>) -> Result<(), Error> {
        let mut behind: Vec<&mut Stream> =
            streams.into_iter().filter(|(stream, last)| *last > stream.sequence()).map(|(stream, _)| stream).collect();
        while !behind.is_empty() {
            let limit = (LOAD_RECORDS_MAX / behind.len()).max(LOAD_RECORDS_MIN);
            let asked: Vec<_> = behind.iter().map(|stream| (stream.aggregate().clone(), stream.sequence())).collect();
            let found = self.events.streams(&asked, limit).await?;
            for (stream, records) in behind.iter_mut().zip(&found) {
                for record in records {
                    stream.push(record);
                }
            }
            let mut full = found.iter().map(|records| records.len() == limit);
            behind.retain(|_| full.next().unwrap_or_default());
        }
        Ok(())
    }

    /// What the cache has, or what [`States::cold`] gives.
    async fn open(&self, aggregate: &Aggregate, active: &ActiveHandler, last: Sequence) -> Result<Stream, Error> {
        let upcasters = self.upcasters(aggregate);
        match self.cache.get(aggregate) {
            Some(stream) if stream.is_folded_by(&active.handler, &upcasters) => Ok(stream),
            _ => self.cold(aggregate, active, upcasters, last).await,
        }
    }

    /// The newest snapshot not after `last`, or a stream of which nothing was read. A snapshot serves only when the log
    /// has its event: one that outlived the log it was made from is another history's.
    async fn cold(
        &self,
        aggregate: &Aggregate,
        active: &ActiveHandler,
        upcasters: Upcasters,
        last: Sequence,
    ) -> Result<Stream, Error> {
        let Some(snapshots) = &self.snapshots else {
            return Ok(Stream::new(aggregate.clone(), &active.handler, upcasters));
        };
        let interval = snapshots.interval();
        let folder = Folder { handler: active.handler.digest(), upcasters: upcasters.digests().collect() };
        if let Some(snapshot) = snapshots.find(aggregate, &folder, last).await {
            let before = Sequence(snapshot.sequence.0.saturating_sub(1));
            let stored = self.events.stream(aggregate, before, 1).await?;
            if stored.first().is_some_and(|record| record.event_id == snapshot.event_id) {
                snapshots.served();
                return Ok(Stream::restored(snapshot, &active.handler, upcasters).snapshot_every(interval));
            }
            snapshots.refuse_stray(&snapshot).await;
        }
        Ok(Stream::new(aggregate.clone(), &active.handler, upcasters).snapshot_every(interval))
    }

    fn offer(&self, snapshot: Option<Snapshot>) {
        if let (Some(snapshots), Some(snapshot)) = (&self.snapshots, snapshot) {
            snapshots.offer(snapshot);
        }
    }

    fn upcasters(&self, aggregate: &Aggregate) -> Upcasters {
        Upcasters::of(&self.catalog.active(), std::slice::from_ref(&aggregate.kind))
    }

    /// Takes the records of the log up to this sequence.
    async fn extend(&self, stream: &mut Stream, last: Sequence) -> Result<(), Error> {
        loop {
            let left = usize::try_from(last.0.saturating_sub(stream.sequence().0)).unwrap_or(usize::MAX);
            let limit = left.min(LOAD_RECORDS_MAX);
            let records = self.events.stream(stream.aggregate(), stream.sequence(), limit).await?;
            for record in &records {
                stream.push(record);
            }
            if records.len() < limit || left == limit {
                return Ok(());
            }
        }
    }

    /// Keeps a stream for the next reader.
    pub fn keep(&self, mut stream: Stream) {
        self.offer(stream.take_snapshot());
        stream.shrink();
        self.cache.insert(stream.aggregate().clone(), stream);
    }

    /// Drops what is cached of an aggregate: the next reader reads the log.
    pub fn forget(&self, aggregate: &Aggregate) {
        self.cache.remove(aggregate);
    }

    /// The states of several aggregates as of the committed end; guests run in one go. What other processes appended to
    /// partitions other than `own` before this call is seen, since a client who was told of it may rely on it; in its
    /// own partition the caller has read further than what it decides.
    pub async fn load_many(
        &self,
        aggregates: Vec<Aggregate>,
        own: Partition,
    ) -> Vec<(Aggregate, Result<Folded, Error>)> {
        if self.events.others_write() {
            let others: BTreeSet<Partition> = aggregates.iter().map(|each| self.events.partition_of(each)).collect();
            let looks = others.into_iter().filter(|each| *each != own).map(|each| self.events.caught_up(each));
            for look in join_all(looks).await {
                look.expect("an aggregate lies in a partition of the store");
            }
        }
        let mut answers = Vec::with_capacity(aggregates.len());
        let mut asked = Vec::with_capacity(aggregates.len());
        for aggregate in aggregates {
            match self.handler(&aggregate) {
                Ok(active) => asked.push(Asked { aggregate, active, records: Vec::new() }),
                Err(error) => answers.push((aggregate, Err(error))),
            }
        }
        let mut read = Vec::with_capacity(asked.len());
        if let Ok(streams) = self.streams(&asked).await {
            read.extend(streams.into_iter().zip(asked).map(|(stream, asked)| (stream, asked.active)));
        } else {
            // One that cannot be read does not keep the others from being read.
            for Asked { aggregate, active, .. } in asked {
                match self.stream(&aggregate, &active).await {
                    Ok(stream) => read.push((stream, active)),
                    Err(error) => answers.push((aggregate, Err(error))),
                }
            }
        }
        if read.iter().any(|(stream, _)| !stream.is_folded()) {
            let fold = |read: &mut Vec<(Stream, Arc<ActiveHandler>)>| {
                read.iter_mut().map(|(stream, active)| stream.fold(&active.handler)).collect::<Vec<_>>()
            };
            let (read, folded) = call_guests(read, fold).await;
            for ((stream, _), folded) in read.into_iter().zip(folded) {
                let aggregate = stream.aggregate().clone();
                if folded.is_ok() {
                    self.keep(stream);
                }
                answers.push((aggregate, folded));
            }
        } else {
            answers.extend(read.into_iter().map(|(stream, _)| (stream.aggregate().clone(), Ok(stream.folded()))));
        }
        answers
    }

    async fn fold(&self, stream: Stream, active: Arc<ActiveHandler>) -> Result<Folded, Error> {
        let (stream, folded) = call_guests(stream, move |stream| stream.fold(&active.handler)).await;
        let folded = folded?;
        self.keep(stream);
        Ok(folded)
    }
}
