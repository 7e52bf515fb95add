//! Writes packs: many committed segments in one object, for those who read the log from far behind. Derived, off the
//! path of commands, and the same bytes whoever writes them, so that several processes may; each is read back before it
//! counts (I1). Deletes nothing, under `events/` least of all.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::log::Log;
use super::packs::are_chained;
use super::{Error, EventStore};
use crate::codec::pack;
use crate::codec::segment::Segment;
use crate::domain::{Partition, SegmentNumber};
use crate::port;

/// Segments fetched at once, where they are not in memory.
const FETCH: u64 = 16;

/// How far a partition's packs reach: what is before is packed, or too large for it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Progress {
    segments: u64,
}

fn progress_key(log: &Log) -> String {
    format!("{}progress/{:04}.json", pack::FOLDER, log.partition.0)
}

impl EventStore {
    /// Writes the packs of a partition that are due, at most so many; gives how many runs of segments it looked at. To
    /// be called again and again by somebody who has time. Cancel-safe: a pack is whole or not there.
    pub async fn pack(&self, partition: Partition, at_most: usize) -> Result<usize, Error> {
        self.log(partition)?.pack(at_most).await
    }
}

impl Log {
    async fn pack(&self, at_most: usize) -> Result<usize, Error> {
        let size = self.shared.options.pack_size;
        let mut reached = self.packed_to.lock().await;
        let end = self.view.lock().end().segments;
        let mut looked = 0;
        while looked < at_most {
            let Some(first) = self.packs_refused.lock().first().copied() else { break };
            if size.last(first) < end {
                self.pack_run(first).await?;
            }
            self.packs_refused.lock().remove(&first);
            looked += 1;
        }
        let from = match *reached {
            Some(reached) => reached,
            None => self.stored_progress(end).await?,
        };
        let mut next = from;
        while looked < at_most && size.last(next) < end {
            self.pack_run(next).await?;
            next = SegmentNumber(next.0 + size.0);
            *reached = Some(next);
            looked += 1;
        }
        *reached = Some(next);
        if next > from {
            let text = serde_json::to_vec(&Progress { segments: next.0 }).expect("a number always serialises");
            self.shared.objects.put(&progress_key(self), Bytes::from(text)).await?;
        }
        Ok(looked)
    }

    /// Where an earlier run came to. What cannot be read, or belongs to a longer log, is no progress.
    async fn stored_progress(&self, end: SegmentNumber) -> Result<SegmentNumber, Error> {
        let stored = self.shared.objects.get(&progress_key(self)).await?;
        let progress: Progress = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let reached = SegmentNumber(progress.segments);
        Ok(if reached > end { SegmentNumber(0) } else { self.shared.options.pack_size.first(reached) })
    }

    /// Packs the segments that begin at a multiple of a pack's size. Those that are too large stay as they are; so does
    /// what cannot be read, which `verify` names.
    async fn pack_run(&self, first: SegmentNumber) -> Result<(), Error> {
        let segments = match self.small_run(first).await {
            Ok(Some(segments)) => segments,
            Ok(None) => return Ok(()),
            Err(Error::Port(error)) => return Err(Error::Port(error)),
            Err(error) => {
                tracing::warn!(%error, "segments are not packed");
                return Ok(());
            }
        };
        let Some(last) = segments.last() else { return Ok(()) };
        let digest = last.digest;
        let raw: Vec<Bytes> = segments.iter().map(|segment| segment.bytes.clone()).collect();
        let bytes = pack::encode(self.shared.store, self.partition, first, &raw, digest);
        let key = self.shared.options.pack_size.key(self.partition, first);
        let objects = &self.shared.objects;
        objects.put_new(&key, bytes.clone()).await?;
        // Whoever wrote it, and whatever the answer was: what counts is what is there.
        if objects.get(&key).await?.as_ref() != Some(&bytes) {
            objects.put(&key, bytes.clone()).await?;
            if objects.get(&key).await?.as_ref() != Some(&bytes) {
                let reason = format!("{key} does not hold what was written");
                return Err(Error::Port(port::Error::Unavailable { what: "the object store", reason }));
            }
        }
        self.shared.options.metrics.packs("written").add(1);
        Ok(())
    }

    /// The segments of a run, checked; `None` when they are too large to be packed.
    async fn small_run(&self, first: SegmentNumber) -> Result<Option<Vec<Arc<Segment>>>, Error> {
        let last = self.shared.options.pack_size.last(first);
        let (begin, end) = (self.one(first).await?, self.one(last).await?);
        let events = end.next_position().0.saturating_sub(begin.header.first_position.0);
        if events > pack::EVENTS_MAX {
            return Ok(None);
        }
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let mut bytes = 0;
        let mut next = first;
        while next <= last {
            let in_memory = self.view.lock().segment(next);
            let found = match in_memory {
                Some(segment) => vec![segment],
                None => {
                    let run = self.fetch_run(next, FETCH.min(last.0 + 1 - next.0)).await?;
                    run.into_iter().map(Arc::new).collect()
                }
            };
            if found.is_empty() {
                return Err(self.missing(next));
            }
            next.0 += found.len() as u64;
            bytes += found.iter().map(|segment| segment.bytes.len()).sum::<usize>();
            segments.extend(found);
            if bytes > pack::BYTES_MAX {
                return Ok(None);
            }
        }
        if are_chained(&segments) { Ok(Some(segments)) } else { Err(self.unchained(first)) }
    }

    async fn one(&self, number: SegmentNumber) -> Result<Arc<Segment>, Error> {
        let in_memory = self.view.lock().segment(number);
        match in_memory {
            Some(segment) => Ok(segment),
            None => self.fetch(number).await?.map(Arc::new).ok_or_else(|| self.missing(number)),
        }
    }

    fn unchained(&self, first: SegmentNumber) -> Error {
        let key = crate::codec::segment::key(self.partition, first);
        Error::Chain { key, reason: "the segments from it on do not follow one another".into() }
    }
}
