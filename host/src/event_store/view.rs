//! View(n): what the segments below n add up to, as far as appends and readers need it: heads of aggregates, events
//! not yet in the index, and where the log ends. Pure; folds every commit, so it is never behind this process's own
//! (I2, I3).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use uuid::Uuid;

use crate::codec::segment::Segment;
use crate::domain::{Aggregate, EventKind, Position, SegmentNumber, Sequence};
use crate::port::index::{EventRow, Head, SegmentRows, Watermark};

/// A committed segment with the heads it leaves behind.
#[derive(Debug)]
pub(super) struct Folded {
    pub segment: Arc<Segment>,
    /// Heads after it of every aggregate it touches.
    pub heads: Vec<(Aggregate, Head)>,
}

/// An event that is still in memory.
#[derive(Debug, Clone)]
pub(super) struct EventAt {
    pub segment: Arc<Segment>,
    pub index: usize,
}

/// Events of one aggregate that the index may not have yet, and its head.
#[derive(Debug, Default)]
struct Touched {
    head: Head,
    events: VecDeque<EventAt>,
}

/// How an index's watermark relates to a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// Between the view's base and its end: index and overlay together are the whole.
    Within,
    /// Another process folded segments this view does not know.
    Ahead,
    /// It went back: somebody emptied it.
    Behind,
    /// It belongs to another history.
    Differs,
}

#[derive(Debug)]
pub(super) struct View {
    /// What the index is known to have reached.
    base: Watermark,
    /// Where the log ends.
    end: Watermark,
    /// Segments from base to end.
    overlay: VecDeque<Arc<Folded>>,
    unindexed_bytes: usize,
    unindexed_events: usize,
    touched: HashMap<Aggregate, Touched>,
    /// Events of the overlay and of the recent segments.
    ids: HashMap<Uuid, EventAt>,
    heads: Heads,
    /// The last segments, for readers of the tail; reaches back beyond the base.
    recent: VecDeque<Arc<Segment>>,
    recent_bytes: usize,
    recent_bytes_max: usize,
}

/// The watermark after a segment.
pub(super) fn after(segment: &Segment) -> Watermark {
    Watermark {
        segments: SegmentNumber(segment.header.segment.0 + 1),
        next_position: segment.next_position(),
        digest: segment.digest,
    }
}

/// Moves a head over the next event. A domain event counts as an outcome of its stream's commands exactly when it names
/// its command.
pub(super) fn advance(head: &mut Head, kind: EventKind, command_id: Option<Uuid>, sequence: Sequence) {
    head.last = sequence;
    match kind {
        EventKind::Command => head.last_command = sequence,
        EventKind::Domain => {
            head.last_domain = sequence;
            if command_id.is_none() {
                head.last_foreign = sequence;
            }
        }
    }
}

/// Folds a segment over the heads before it; the aggregate whose numbers have a gap is the error.
pub(super) fn fold_heads(
    segment: &Segment,
    before: impl Fn(&Aggregate) -> Head,
) -> Result<Vec<(Aggregate, Head)>, Aggregate> {
    let mut places: HashMap<&Aggregate, usize> = HashMap::new();
    let mut heads: Vec<(Aggregate, Head)> = Vec::new();
    for event in &segment.events {
        let place = *places.entry(&event.aggregate).or_insert_with(|| {
            heads.push((event.aggregate.clone(), before(&event.aggregate)));
            heads.len() - 1
        });
        let head = &mut heads[place].1;
        if event.sequence.0 != head.last.0 + 1 {
            return Err(event.aggregate.clone());
        }
        advance(head, event.kind, event.command_id, event.sequence);
    }
    Ok(heads)
}

/// A segment as the index takes it.
pub(super) fn rows(folded: &Folded) -> SegmentRows {
    let segment = &folded.segment;
    let header = &segment.header;
    let events = segment.events.iter().enumerate().map(|(index, event)| EventRow {
        event_id: event.event_id,
        partition: header.partition,
        segment: header.segment,
        position: Position(header.first_position.0 + index as u64),
        aggregate: event.aggregate.clone(),
        sequence: event.sequence,
        kind: event.kind,
        event_type: event.event_type.clone(),
        command_id: event.command_id,
        fingerprint: event.fingerprint,
    });
    SegmentRows {
        segment: header.segment,
        digest: segment.digest,
        first_position: header.first_position,
        recorded_at: header.recorded_at,
        events: events.collect(),
        heads: folded.heads.clone(),
    }
}

impl View {
    pub(super) fn new(at: Watermark, heads_max: usize, recent_bytes_max: usize) -> View {
        let heads = Heads::new(heads_max, at.segments == SegmentNumber(0));
        View {
            base: at.clone(),
            end: at,
            overlay: VecDeque::new(),
            unindexed_bytes: 0,
            unindexed_events: 0,
            touched: HashMap::new(),
            ids: HashMap::new(),
            heads,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_bytes_max,
        }
    }

    pub(super) fn end(&self) -> &Watermark {
        &self.end
    }

    pub(super) fn base(&self) -> &Watermark {
        &self.base
    }

    pub(super) fn unindexed_bytes(&self) -> usize {
        self.unindexed_bytes
    }

    pub(super) fn unindexed_events(&self) -> usize {
        self.unindexed_events
    }

    pub(super) fn relation(&self, watermark: &Watermark) -> Relation {
        let at = watermark.segments;
        if at > self.end.segments {
            return Relation::Ahead;
        }
        let Some(behind_base) = at.0.checked_sub(self.base.segments.0) else { return Relation::Behind };
        let digest = match usize::try_from(behind_base) {
            Ok(0) => self.base.digest,
            Ok(count) => self.overlay[count - 1].segment.digest,
            Err(_) => return Relation::Differs,
        };
        if digest == watermark.digest { Relation::Within } else { Relation::Differs }
    }

    /// Adds the segment that follows the end. Its place in the chain was checked by who built or decoded it.
    pub(super) fn fold(&mut self, folded: Folded) {
        let segment = folded.segment.clone();
        let header = &segment.header;
        assert_eq!(header.segment, self.end.segments, "segments are folded in order");
        assert_eq!(header.first_position, self.end.next_position, "positions have no gap");
        assert_eq!(header.prev_digest, self.end.digest, "the chain of digests is whole");
        for (index, event) in segment.events.iter().enumerate() {
            let at = EventAt { segment: segment.clone(), index };
            self.ids.insert(event.event_id, at.clone());
            self.touched.entry(event.aggregate.clone()).or_default().events.push_back(at);
        }
        for (aggregate, head) in &folded.heads {
            if let Some(touched) = self.touched.get_mut(aggregate) {
                touched.head = *head;
            }
        }
        self.end = after(&segment);
        self.unindexed_bytes += segment.bytes.len();
        self.unindexed_events += segment.events.len();
        self.overlay.push_back(Arc::new(folded));
        self.recent_bytes += segment.bytes.len();
        self.recent.push_back(segment);
        self.trim_recent();
    }

    fn trim_recent(&mut self) {
        while self.recent_bytes > self.recent_bytes_max
            && self.recent.len() > 1
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.bytes.len();
            self.forget(&oldest);
        }
    }

    /// Drops the ids of a segment that is neither in the overlay nor among the recent ones any more.
    fn forget(&mut self, segment: &Segment) {
        let number = segment.header.segment;
        let recent = self.recent.front().is_some_and(|first| first.header.segment <= number);
        if recent || number >= self.base.segments {
            return;
        }
        for event in &segment.events {
            self.ids.remove(&event.event_id);
        }
    }

    /// The index has come to a watermark within this view: what it holds need not be kept here.
    pub(super) fn indexed(&mut self, watermark: &Watermark) {
        while self.base.segments < watermark.segments
            && let Some(folded) = self.overlay.pop_front()
        {
            self.base = after(&folded.segment);
            self.unindexed_bytes -= folded.segment.bytes.len();
            self.unindexed_events -= folded.segment.events.len();
            self.forget(&folded.segment);
            for event in &folded.segment.events {
                let Some(touched) = self.touched.get_mut(&event.aggregate) else { continue };
                touched.events.pop_front();
                if touched.events.is_empty()
                    && let Some((aggregate, touched)) = self.touched.remove_entry(&event.aggregate)
                {
                    self.heads.insert(aggregate, touched.head);
                }
            }
        }
    }

    /// Another process's index is ahead of this view: go there. What was known of heads may be out of date.
    pub(super) fn jump(&mut self, to: Watermark) {
        let bytes_max = self.recent_bytes_max;
        let heads_max = self.heads.max;
        *self = View { heads: Heads::new(heads_max, false), ..View::new(to, heads_max, bytes_max) };
    }

    /// Segments that the index does not have, oldest first, as many as fit `events_max` but at least one.
    pub(super) fn unindexed(&self, events_max: usize) -> (Watermark, Vec<Arc<Folded>>) {
        let mut events = 0;
        let fits = |folded: &&Arc<Folded>| {
            let first = events == 0;
            events += folded.segment.events.len();
            first || events <= events_max
        };
        (self.base.clone(), self.overlay.iter().take_while(fits).cloned().collect())
    }

    /// Head at the end, if it is known without the index.
    pub(super) fn head(&self, aggregate: &Aggregate) -> Option<Head> {
        match self.touched.get(aggregate) {
            Some(touched) => Some(touched.head),
            None => self.heads.get(aggregate),
        }
    }

    /// Keeps a head that the index gave at a watermark, if it is still the head at the end.
    pub(super) fn learn(&mut self, aggregate: &Aggregate, head: Head, at: &Watermark) {
        if self.relation(at) == Relation::Within && !self.touched.contains_key(aggregate) {
            self.heads.insert(aggregate.clone(), head);
        }
    }

    /// An event in memory: of the overlay, or of a recent segment. When an event is, every later one is as well.
    pub(super) fn event(&self, id: &Uuid) -> Option<&EventAt> {
        self.ids.get(id)
    }

    /// Events of an aggregate that are in the overlay, oldest first.
    pub(super) fn stream(&self, aggregate: &Aggregate) -> Vec<EventAt> {
        self.touched.get(aggregate).map_or_else(Vec::new, |touched| touched.events.iter().cloned().collect())
    }

    /// Aggregates of a type in the overlay.
    pub(super) fn touched<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Aggregate> {
        self.touched.keys().filter(move |aggregate| aggregate.kind.as_str() == kind)
    }

    /// A segment in memory, by number.
    pub(super) fn segment(&self, number: SegmentNumber) -> Option<Arc<Segment>> {
        let pick = |first: SegmentNumber| usize::try_from(number.0.checked_sub(first.0)?).ok();
        if let Some(folded) = pick(self.base.segments).and_then(|index| self.overlay.get(index)) {
            return Some(folded.segment.clone());
        }
        let first = self.recent.front()?.header.segment;
        pick(first).and_then(|index| self.recent.get(index)).cloned()
    }

    /// A segment in memory that holds a position.
    pub(super) fn holding(&self, position: Position) -> Option<Arc<Segment>> {
        let holds = |segment: &Segment| position >= segment.header.first_position && position < segment.next_position();
        let index = self.overlay.partition_point(|folded| folded.segment.next_position() <= position);
        if let Some(folded) = self.overlay.get(index).filter(|folded| holds(&folded.segment)) {
            return Some(folded.segment.clone());
        }
        let index = self.recent.partition_point(|segment| segment.next_position() <= position);
        self.recent.get(index).filter(|segment| holds(segment)).cloned()
    }
}

/// Heads of aggregates outside the overlay, bounded by two generations: when the young one is full it becomes the old
/// one, and what nobody asks for is forgotten.
#[derive(Debug)]
struct Heads {
    young: HashMap<Aggregate, Head>,
    old: HashMap<Aggregate, Head>,
    max: usize,
    /// Nothing was ever forgotten: an aggregate that is not here does not exist.
    complete: bool,
}

impl Heads {
    fn new(max: usize, complete: bool) -> Heads {
        Heads { young: HashMap::new(), old: HashMap::new(), max, complete }
    }

    fn get(&self, aggregate: &Aggregate) -> Option<Head> {
        let found = self.young.get(aggregate).or_else(|| self.old.get(aggregate)).copied();
        if self.complete { Some(found.unwrap_or_default()) } else { found }
    }

    fn insert(&mut self, aggregate: Aggregate, head: Head) {
        self.young.insert(aggregate, head);
        if self.young.len() > self.max / 2 {
            self.complete &= self.old.is_empty();
            self.old = std::mem::take(&mut self.young);
        }
    }
}
