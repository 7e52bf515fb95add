//! The checker: walks the whole log and compares it with what must hold (I1 to I4), and the index with the fold of the
//! log. Reads only; trusts nothing; needs memory for every event id and every aggregate's head, nothing for contents.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Serialize;
use uuid::Uuid;

use super::Error;
use super::packs::in_parallel;
use super::view::{Folded, advance, after, fold_heads, rows};
use crate::codec::envelope::Envelope;
use crate::codec::json::Json;
use crate::codec::pack;
use crate::codec::segment::{self, Event, NO_DIGEST, Segment};
use crate::codec::store::{self, StoreMeta};
use crate::codec::{self, fingerprint};
use crate::domain::{Aggregate, EventKind, Partition, Position, SegmentNumber};
use crate::port::index::{Head, Index, Watermark};
use crate::port::object_store::ObjectStore;

/// Findings after which the checker only counts: a broken disk must not fill the memory.
const FINDINGS_MAX: usize = 1_000;
/// Aggregates compared with the index in one look-up.
const COMPARE_AT_ONCE: usize = 500;
/// Objects read at once.
const READ_AT_ONCE: u64 = 16;
/// Keys in one page of a listing.
const LIST_PAGE: usize = 1_000;

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Key of the object; of the index, `index/{partition}`.
    pub key: String,
    /// Stable name of the rule.
    pub code: &'static str,
    pub message: String,
}

/// What the checker saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub store: Option<Uuid>,
    pub partitions: u16,
    pub segments: u64,
    pub events: u64,
    pub commands: u64,
    /// Commands without an outcome: work that waits, no fault.
    pub undecided: u64,
    pub aggregates: u64,
    pub bytes: u64,
    /// Packs that were held against the segments they are copies of.
    pub packs: u64,
    /// Whether the index was compared.
    pub index_checked: bool,
    /// Segments of all partitions that the index had not taken in yet when it was compared. No fault: a host that runs
    /// takes them in, and so does the next start.
    pub index_behind: u64,
    /// The first 1,000.
    pub findings: Vec<Finding>,
    pub findings_count: u64,
}

impl Report {
    fn add(&mut self, key: impl Into<String>, code: &'static str, message: impl Into<String>) {
        self.findings_count += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { key: key.into(), code, message: message.into() });
        }
    }

    /// Nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings_count == 0
    }
}

/// Where an id was seen, as briefly as possible.
type Ids = HashMap<Uuid, (Partition, SegmentNumber)>;

/// Checks the log, its packs, and the index when one is given, as far as it is. `progress` is called after each
/// segment. An error is one of the ports: what is wrong with the data is a finding.
pub async fn verify(
    objects: &dyn ObjectStore,
    index: Option<&dyn Index>,
    pack_size: pack::Size,
    mut progress: impl FnMut(&Report) + Send,
) -> Result<Report, Error> {
    let mut report = Report { index_checked: index.is_some(), ..Report::default() };
    let meta = match objects.get(store::KEY).await?.map(|bytes| StoreMeta::decode(&bytes)) {
        Some(Ok(meta)) => meta,
        Some(Err(error)) => {
            report.add(store::KEY, "unreadable_store", error.to_string());
            return Ok(report);
        }
        None => {
            report.add(store::KEY, "no_store", "there is no store here");
            return Ok(report);
        }
    };
    (report.store, report.partitions) = (Some(meta.store), meta.partitions);
    let mut ids = Ids::new();
    let mut segments = Vec::new();
    for partition in (0..meta.partitions).map(Partition) {
        let indexed = match index {
            Some(index) => index.watermark(partition).await?.segments,
            None => SegmentNumber(0),
        };
        let walk = Walk::new(meta.store, partition, meta.partitions);
        let copies = Copies { size: pack_size, segments: Vec::new(), bytes: 0 };
        let mut tour = Tour { objects, index, indexed, walk, copies, ids, report, progress };
        if let Some(index) = index {
            tour.compare(index).await?;
        }
        let compared = tour.walk.at.segments;
        tour.walk_to(SegmentNumber(u64::MAX)).await?;
        if index.is_some() {
            tour.report.index_behind += tour.walk.at.segments.0 - compared.0;
        }
        tour.report.aggregates += tour.walk.heads.len() as u64;
        tour.report.undecided += tour.walk.open.len() as u64;
        segments.push(tour.walk.at.segments);
        Tour { ids, report, progress, .. } = tour;
    }
    strangers(objects, segments, &mut report).await?;
    if let Some(index) = index {
        let bound = index.store_id().await?;
        if bound != Some(meta.store) {
            report.add("index", "index_other_store", format!("the index belongs to {bound:?}"));
        }
    }
    Ok(report)
}

/// The way through one partition.
struct Tour<'a, P> {
    objects: &'a dyn ObjectStore,
    index: Option<&'a dyn Index>,
    /// Segments that the index had when the walk began.
    indexed: SegmentNumber,
    walk: Walk,
    copies: Copies,
    ids: Ids,
    report: Report,
    progress: P,
}

impl<P: FnMut(&Report) + Send> Tour<'_, P> {
    /// Walks up to a segment, or to the first free slot before it.
    async fn walk_to(&mut self, end: SegmentNumber) -> Result<(), Error> {
        let partition = self.walk.partition;
        loop {
            let from = self.walk.at.segments;
            let to = SegmentNumber(end.0.min(from.0 + READ_AT_ONCE));
            let read = read(self.objects, partition, from, to).await?;
            let ended = (read.len() as u64) < READ_AT_ONCE;
            for (bytes, decoded) in read {
                self.report.bytes += bytes.len() as u64;
                let number = self.walk.at.segments;
                let segment = self.walk.take(decoded, &mut self.ids, &mut self.report);
                if let (Some(index), Some(segment)) = (self.index, segment)
                    && segment.header.segment < self.indexed
                {
                    compare_rows(index, segment, &mut self.report).await?;
                }
                self.copies.take(self.objects, partition, number, bytes, &mut self.report).await?;
                self.report.segments += 1;
                (self.progress)(&self.report);
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Walks to where the index is, and compares it with what the walk folded. It walks on when the index does: both
    /// are compared at one and the same segment, whoever writes meanwhile.
    async fn compare(&mut self, index: &dyn Index) -> Result<(), Error> {
        let partition = self.walk.partition;
        let key = format!("index/{partition}");
        self.walk_to(self.indexed).await?;
        let aggregates: Vec<Aggregate> = self.walk.heads.keys().cloned().collect();
        let mut chunks = aggregates.chunks(COMPARE_AT_ONCE);
        // Where nothing is written yet there is still a watermark to compare.
        let mut chunk = chunks.next().unwrap_or_default();
        loop {
            let found = index.lookup(partition, chunk, &[]).await?;
            self.walk_to(found.watermark.segments).await?;
            let (indexed, at) = (&found.watermark, &self.walk.at);
            if indexed != at {
                let message = format!(
                    "it is at segment {} (digest {}), the log at {} ({})",
                    indexed.segments, indexed.digest, at.segments, at.digest
                );
                self.report.add(&key, "index_watermark", message);
                return Ok(());
            }
            for (aggregate, head) in chunk.iter().zip(found.heads) {
                if self.walk.heads.get(aggregate) != Some(&head) {
                    self.report.add(&key, "index_head", format!("{aggregate} is {head:?}, the log says otherwise"));
                }
            }
            match chunks.next() {
                Some(next) => chunk = next,
                None => return Ok(()),
            }
        }
    }
}

/// The objects of a partition from a segment up to another or to the first free slot, and what they hold.
async fn read(
    objects: &dyn ObjectStore,
    partition: Partition,
    from: SegmentNumber,
    to: SegmentNumber,
) -> Result<Vec<(Bytes, Result<Segment, codec::Error>)>, Error> {
    let numbers = (from.0..to.0).map(SegmentNumber);
    let keys: Vec<String> = numbers.map(|number| segment::key(partition, number)).collect();
    let mut found = Vec::with_capacity(keys.len());
    for bytes in join_all(keys.iter().map(|key| objects.get(key))).await {
        match bytes? {
            Some(bytes) => found.push(bytes),
            None => break,
        }
    }
    Ok(in_parallel(found, Bytes::len, |bytes| (bytes.clone(), segment::decode(bytes))))
}

/// The segments of the pack under way, to be held against it. A pack is a copy: the log is the truth.
struct Copies {
    size: pack::Size,
    segments: Vec<Bytes>,
    bytes: usize,
}

impl Copies {
    async fn take(
        &mut self,
        objects: &dyn ObjectStore,
        partition: Partition,
        number: SegmentNumber,
        bytes: Bytes,
        report: &mut Report,
    ) -> Result<(), Error> {
        let first = self.size.first(number);
        if number == first {
            (self.segments, self.bytes) = (Vec::new(), 0);
        }
        self.bytes += bytes.len();
        // So much is never packed, and need not be kept.
        if self.bytes > pack::BYTES_MAX {
            self.segments = Vec::new();
            return Ok(());
        }
        self.segments.push(bytes);
        if number != self.size.last(number) {
            return Ok(());
        }
        let key = self.size.key(partition, number);
        let Some(packed) = objects.get(&key).await? else { return Ok(()) };
        report.packs += 1;
        match pack::decode(packed, self.size) {
            Err(error) => report.add(&key, "index_pack", error.to_string()),
            Ok(pack) => {
                let same = |(number, bytes): (u64, &Bytes)| pack.segment(SegmentNumber(number)).as_ref() == Some(bytes);
                if !(first.0..).zip(&self.segments).all(same) {
                    report.add(&key, "index_pack", "it holds other segments than the log");
                }
            }
        }
        Ok(())
    }
}

/// Objects under `events/` that are no segment of the walk, nor written since where it ended: behind a hole, or nothing
/// of ours.
async fn strangers(
    objects: &dyn ObjectStore,
    mut segments: Vec<SegmentNumber>,
    report: &mut Report,
) -> Result<(), Error> {
    let mut expected = segments.clone().into_iter().zip(0..).flat_map(|(end, partition)| {
        (0..end.0).map(move |number| segment::key(Partition(partition), SegmentNumber(number)))
    });
    let mut next = expected.next();
    let mut from: Option<String> = None;
    let mut is_new = |key: &str| {
        let free = |(end, partition): &(&mut SegmentNumber, u16)| segment::key(Partition(*partition), **end) == key;
        segments.iter_mut().zip(0..).find(free).map(|(end, _)| end.0 += 1).is_some()
    };
    loop {
        let page = objects.list("events/", from.as_deref(), LIST_PAGE).await?;
        for key in &page.keys {
            while next.as_ref().is_some_and(|next| next < key) {
                next = expected.next();
            }
            if next.as_ref() == Some(key) {
                next = expected.next();
            } else if !is_new(key) {
                report.add(key, "stray_object", "no segment before it leads here: one is missing, or it is not ours");
            }
        }
        from = page.keys.last().cloned();
        if !page.more {
            return Ok(());
        }
    }
}

/// Compares what the index says of a segment's events.
async fn compare_rows(index: &dyn Index, segment: Segment, report: &mut Report) -> Result<(), Error> {
    let partition = segment.header.partition;
    let folded = Folded { segment: Arc::new(segment), heads: Vec::new() };
    let expected = rows(&folded).events;
    let ids: Vec<Uuid> = expected.iter().map(|row| row.event_id).collect();
    let found = index.lookup(partition, &[], &ids).await?.events;
    for (expected, found) in expected.into_iter().zip(found) {
        if found.as_ref() != Some(&expected) {
            let message = format!("event {} is not where the log has it", expected.event_id);
            report.add(format!("index/{partition}"), "index_event", message);
        }
    }
    Ok(())
}

/// One partition's walk.
struct Walk {
    store: Uuid,
    partition: Partition,
    partitions: u16,
    at: Watermark,
    heads: HashMap<Aggregate, Head>,
    /// Commands of each stream that have no outcome yet.
    open: HashSet<Uuid>,
    /// The segment before could not be read: what it held is not known.
    broken: bool,
    /// There was such a segment: gaps in numbers after it are its fault.
    resumed: bool,
}

impl Walk {
    fn new(store: Uuid, partition: Partition, partitions: u16) -> Walk {
        let at = Watermark { segments: SegmentNumber(0), next_position: Position(0), digest: NO_DIGEST };
        Walk {
            store,
            partition,
            partitions,
            at,
            heads: HashMap::new(),
            open: HashSet::new(),
            broken: false,
            resumed: false,
        }
    }

    fn key(&self) -> String {
        segment::key(self.partition, self.at.segments)
    }

    /// Checks the next object; gives it when it can be read.
    fn take(&mut self, decoded: Result<Segment, codec::Error>, ids: &mut Ids, report: &mut Report) -> Option<Segment> {
        let key = self.key();
        let segment = match decoded {
            Ok(segment) => segment,
            Err(error) => {
                report.add(&key, "corrupt_segment", error.to_string());
                self.broken = true;
                self.at.segments.0 += 1;
                return None;
            }
        };
        self.place(&key, &segment, report);
        match fold_heads(&segment, |aggregate| self.heads.get(aggregate).copied().unwrap_or_default()) {
            Ok(heads) => self.heads.extend(heads),
            Err(aggregate) => {
                if !self.resumed {
                    report.add(&key, "sequence_gap", format!("the numbers of {aggregate} do not follow"));
                }
                // Go on from what is there, so that one gap is one finding.
                for event in &segment.events {
                    let head = self.heads.entry(event.aggregate.clone()).or_default();
                    advance(head, event.kind, event.command_id, event.sequence);
                }
            }
        }
        for event in &segment.events {
            self.event(&key, event, report);
            if let Some((partition, number)) = ids.insert(event.event_id, (self.partition, self.at.segments)) {
                let earlier = segment::key(partition, number);
                report.add(&key, "duplicate_event_id", format!("event {} is in {earlier} too", event.event_id));
            }
        }
        report.events += segment.events.len() as u64;
        // The slot counts, not what the header says, else a copy of an old segment would lead in a circle.
        self.at = Watermark { segments: SegmentNumber(self.at.segments.0 + 1), ..after(&segment) };
        Some(segment)
    }

    /// Whether the segment follows the one before it.
    fn place(&mut self, key: &str, segment: &Segment, report: &mut Report) {
        let header = &segment.header;
        if header.store != self.store || header.partition != self.partition || header.segment != self.at.segments {
            let message = format!(
                "its header says store {}, partition {}, segment {}",
                header.store, header.partition, header.segment
            );
            report.add(key, "wrong_place", message);
        }
        if std::mem::take(&mut self.broken) {
            self.resumed = true;
            return;
        }
        if header.prev_digest != self.at.digest {
            let message = format!("it follows {}, the segment before it is {}", header.prev_digest, self.at.digest);
            report.add(key, "broken_chain", message);
        }
        if header.first_position != self.at.next_position {
            let message = format!("it begins at {}, not at {}", header.first_position, self.at.next_position);
            report.add(key, "position_gap", message);
        }
    }

    /// What must hold of one event.
    fn event(&mut self, key: &str, event: &Event, report: &mut Report) {
        if Partition::of(&event.aggregate, self.partitions) != self.partition {
            report.add(key, "wrong_partition", format!("{} belongs to another partition", event.aggregate));
        }
        match event.kind {
            EventKind::Command => {
                report.commands += 1;
                self.open.insert(event.event_id);
                match content(event) {
                    Ok(found) if Some(found) == event.fingerprint => {}
                    Ok(found) => {
                        let message = format!("the content of command {} has fingerprint {found}", event.event_id);
                        report.add(key, "fingerprint_differs", message);
                    }
                    Err(error) => report.add(key, "unreadable_command", format!("{}: {error}", event.event_id)),
                }
            }
            EventKind::Domain => {
                if let Some(command) = event.command_id {
                    self.open.remove(&command);
                }
            }
        }
    }
}

/// The fingerprint of a stored command, computed again.
fn content(event: &Event) -> Result<crate::domain::Digest, codec::Error> {
    let envelope = Envelope::parse(&event.line)?;
    let command = envelope.command()?;
    let payload = Json::parse(command.payload.get().as_bytes())?;
    Ok(fingerprint::command(&command.command_type, &event.aggregate, command.expected_seq, &payload))
}
