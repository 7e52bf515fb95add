//! The committer of a partition: takes what has queued while the write before was under way, judges it, writes one
//! segment, answers (design §2). Rejections wait, like successes, until the segment they were judged against is known
//! to be the last; a write whose outcome is unknown is repeated, same bytes to the same key, until the slot is
//! occupied (I1, I3, I5). Not cancel-safe: drop it only to end the process.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::judge::{Answer, Facts, Judged, Known, Request, Verdict, judge};
use super::log::Log;
use super::view::{Folded, Relation, after, fold_heads};
use super::{AppendError, Error, Linger, Record};
use crate::codec::segment::{self, Header, Segment};
use crate::domain::{Aggregate, Digest, SegmentNumber};
use crate::failpoint;
use crate::port;
use crate::port::index::{Head, Lookup, Watermark};
use crate::port::object_store::PutNew;

/// Pauses between attempts at an unresolved write: the first, and the longest.
const RETRY_FIRST_MS: u64 = 20;
const RETRY_MAX_MS: u64 = 1_000;

pub(super) struct Committer {
    log: Arc<Log>,
    queue: mpsc::UnboundedReceiver<Vec<Request>>,
    pending: VecDeque<Request>,
    /// Requests of the last batch, and when it was answered.
    last: (usize, Duration),
    /// Of this session, for segment headers.
    epoch: u64,
    looks_wanted: watch::Receiver<u64>,
    /// Whether the batch at hand was judged against the log's end, as the store told it.
    end_seen: bool,
    /// How many wait for what other writers may write.
    expecting: watch::Receiver<usize>,
    /// When the log's end was last seen, and looks in a row that found no segment of another writer.
    looked_at: Duration,
    looks_in_vain: u32,
}

/// What became of a segment.
enum Written {
    Mine,
    /// Somebody else's bytes are in the slot.
    Lost(Bytes),
    /// Certainly not written.
    Not(port::Error),
}

/// What the index said.
enum Looked {
    At(Lookup),
    /// It knew segments that the view did not; the view has moved.
    Moved,
}

impl Committer {
    pub(super) fn new(log: Arc<Log>, queue: mpsc::UnboundedReceiver<Vec<Request>>, epoch: u64) -> Committer {
        let looks_wanted = log.looks_wanted.subscribe();
        let last = (0, Duration::ZERO);
        Committer {
            queue,
            pending: VecDeque::new(),
            last,
            epoch,
            looks_wanted,
            end_seen: false,
            expecting: log.expecting.subscribe(),
            looked_at: log.shared.clock.monotonic(),
            looks_in_vain: 0,
            log,
        }
    }

    /// Runs until the store is closed and everything taken is answered.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let ended = self.serve().await;
        if let Err(error) = &ended {
            *self.log.stopped.lock() = Some(error.to_string());
            self.queue.close();
            self.take_queued();
            let pending: Vec<Request> = self.pending.drain(..).collect();
            self.refuse_all(pending, || AppendError::Stopped { reason: error.to_string() });
        }
        self.log.committing.send_replace(false);
        ended
    }

    async fn serve(&mut self) -> Result<(), Error> {
        loop {
            if self.pending.is_empty() {
                match self.wait().await? {
                    Some(group) => self.pending.extend(group),
                    None => return Ok(()),
                }
            }
            self.take_queued();
            self.linger().await;
            let mut batch = self.next_batch();
            // Whoever asked for a look before a write finds all there was by the write: it takes the first free slot.
            let wanted = *self.looks_wanted.borrow_and_update();
            self.end_seen = false;
            let done = self.process(&mut batch).await;
            self.last = (batch.len(), self.log.shared.clock.monotonic());
            let bytes: usize = batch.iter().map(|request| request.append.bytes()).sum();
            self.log.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
            if let Err(error) = done {
                self.refuse_unanswered(&mut batch, || AppendError::Stopped { reason: error.to_string() });
                return Err(error);
            }
            if self.end_seen {
                self.looked_at = self.log.shared.clock.monotonic();
                self.log.looks_made.send_replace(wanted);
            } else if *self.log.looks_made.borrow() < wanted {
                self.look().await?;
            }
        }
    }

    /// The next requests; meanwhile looks for segments of other writers, when there may be any.
    async fn wait(&mut self) -> Result<Option<Vec<Request>>, Error> {
        loop {
            let clock = self.log.shared.clock.clone();
            let due = self.log.look_pause(self.looks_in_vain).map(|pause| self.looked_at + pause);
            let rest = async {
                match due {
                    Some(due) => clock.sleep(due.saturating_sub(clock.monotonic())).await,
                    None => std::future::pending().await,
                }
            };
            // Every branch is cancel-safe: `recv` and `changed` lose nothing, sleeping has no effect.
            tokio::select! {
                biased;
                group = self.queue.recv() => return Ok(group),
                // The senders live in the log, hence as long as this.
                _ = self.looks_wanted.changed() => self.look().await?,
                // Somebody began to wait: the pause is a shorter one now.
                _ = self.expecting.changed() => {}
                () = rest => self.look().await?,
            }
        }
    }

    /// Looks for segments of other writers, and tells those who asked for it.
    async fn look(&mut self) -> Result<(), Error> {
        let wanted = *self.looks_wanted.borrow_and_update();
        let before = self.log.view.lock().end().segments;
        match self.follow().await {
            Ok(()) => {
                self.log.looks_made.send_replace(wanted);
            }
            Err(Error::Port(error)) => tracing::warn!(%error, "cannot look for new segments; trying again"),
            Err(error) => return Err(error),
        }
        self.looked_at = self.log.shared.clock.monotonic();
        let found = self.log.view.lock().end().segments != before;
        self.looks_in_vain = if found { 0 } else { self.looks_in_vain.saturating_add(1) };
        Ok(())
    }

    /// Folds what other writers have written.
    async fn follow(&mut self) -> Result<(), Error> {
        loop {
            let next = self.log.view.lock().end().segments;
            match self.log.fetch(next).await? {
                Some(segment) => self.fold_foreign(segment).await?,
                None => return Ok(()),
            }
        }
    }

    fn take_queued(&mut self) {
        while let Ok(group) = self.queue.try_recv() {
            self.pending.extend(group);
        }
    }

    /// Waits for company, where a write is dear, when the last batch shows that there is some: a client that is alone
    /// never waits, nor does the first after a pause.
    async fn linger(&mut self) {
        let options = &self.log.shared.options;
        let Some(Linger { ms, requests_min }) = options.commit_linger else { return };
        let (linger, events_max) = (Duration::from_millis(ms), options.segment_events_max);
        let clock = self.log.shared.clock.clone();
        let (requests, answered) = self.last;
        if requests < requests_min || clock.monotonic().saturating_sub(answered) >= linger {
            return;
        }
        let mut over = clock.sleep(linger);
        while self.pending.len() < events_max {
            // Both branches are cancel-safe: `recv` loses no message, `sleep` has no effect.
            tokio::select! {
                biased;
                group = self.queue.recv() => match group {
                    Some(group) => self.pending.extend(group),
                    None => return,
                },
                () = &mut over => return,
            }
        }
    }

    /// As many waiting requests as one segment takes, at least one.
    fn next_batch(&mut self) -> Vec<Request> {
        let options = &self.log.shared.options;
        let (mut bytes, mut events) = (0, 0);
        let mut count = 0;
        for request in &self.pending {
            bytes += request.append.bytes();
            events += request.append.drafts.len();
            if count > 0 && (bytes > options.segment_bytes_max || events > options.segment_events_max) {
                break;
            }
            count += 1;
        }
        self.pending.drain(..count).collect()
    }

    fn refuse_all(&self, requests: Vec<Request>, error: impl Fn() -> AppendError) {
        for mut request in requests {
            self.log.queued_bytes.fetch_sub(request.append.bytes(), Ordering::AcqRel);
            request.refuse(error());
        }
    }

    fn refuse_unanswered(&self, batch: &mut [Request], error: impl Fn() -> AppendError) {
        batch.iter_mut().for_each(|request| request.refuse(error()));
    }

    /// Brings a batch to its answers. An error is one that ends the committer.
    async fn process(&mut self, batch: &mut [Request]) -> Result<(), Error> {
        loop {
            let step = self.attempt(batch).await;
            match step {
                Ok(true) => return Ok(()),
                // Another writer was faster: judge again.
                Ok(false) => {}
                // Nothing of the batch is written: an unresolved write does not get here.
                Err(Error::Port(error)) => {
                    self.refuse_unanswered(batch, || AppendError::Unavailable(error.clone()));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Judges and writes once; `false` when the view had to move and the batch must be judged again.
    async fn attempt(&mut self, batch: &mut [Request]) -> Result<bool, Error> {
        let started = self.log.shared.clock.monotonic();
        let Some(facts) = self.facts(batch).await? else { return Ok(false) };
        let mut judged = judge(batch, &facts);
        for (request, verdict) in batch.iter_mut().zip(&judged.verdicts) {
            // What is in the log stays there: no need to wait.
            if let Verdict::Known(known) = verdict {
                request.answer(Answer::Known(known.clone()));
            }
        }
        if batch.iter().all(|request| request.reply.is_none()) && judged.events.is_empty() {
            return Ok(true);
        }
        if judged.events.is_empty() {
            let next = self.log.view.lock().end().segments;
            return match self.log.fetch(next).await? {
                None => {
                    self.end_seen = true;
                    answer(batch, &mut judged, None);
                    Ok(true)
                }
                Some(segment) => {
                    self.fold_foreign(segment).await?;
                    Ok(false)
                }
            };
        }
        let segment = self.encode(batch, &judged);
        failpoint::pass("append.before_put");
        let written = match self.write(&segment, batch, &judged).await {
            Ok(written) => written,
            // Whose segment is in the slot cannot be told: what was in this write may be in the log (I5).
            Err(error) => {
                self.give_word(batch, &judged);
                return Err(error);
            }
        };
        match written {
            Written::Mine => {
                failpoint::pass("append.after_put");
                let took = self.log.shared.clock.monotonic().saturating_sub(started);
                let metrics = self.log.shared.options.metrics.commit();
                metrics.observe(segment.events.len(), segment.bytes.len(), took);
                let segment = Arc::new(segment);
                let heads = std::mem::take(&mut judged.heads).into_iter().collect();
                self.log.view.lock().fold(Folded { segment: segment.clone(), heads });
                // Readers see the end move first: whoever is answered finds what was written.
                self.log.announce();
                self.end_seen = true;
                failpoint::pass("append.before_answer");
                answer(batch, &mut judged, Some(&segment));
                Ok(true)
            }
            Written::Lost(winner) => {
                self.log.shared.options.metrics.commit().collided();
                self.looks_in_vain = 0;
                let winner = self.log.decode(segment.header.segment, winner)?;
                self.fold_foreign(winner).await?;
                Ok(false)
            }
            Written::Not(error) => Err(Error::Port(error)),
        }
    }

    /// Heads and ids that judging needs: from memory, and the rest in one look-up. `None` when the view moved.
    async fn facts(&mut self, batch: &[Request]) -> Result<Option<Facts>, Error> {
        let mut facts = Facts::default();
        let mut aggregates: Vec<Aggregate> = Vec::new();
        let mut ids: Vec<Uuid> = Vec::new();
        {
            let view = self.log.view.lock();
            let mut asked: HashSet<&Aggregate> = HashSet::new();
            for request in batch {
                let aggregate = &request.append.aggregate;
                let head = view.head(aggregate);
                match head {
                    Some(head) => {
                        facts.heads.insert(aggregate.clone(), head);
                    }
                    None if asked.insert(aggregate) => aggregates.push(aggregate.clone()),
                    None => {}
                }
                if let Some(at) = view.event(&request.id()) {
                    facts.ids.insert(request.id(), Known::Memory(at.clone()));
                } else if request.may_exist(head) {
                    ids.push(request.id());
                }
            }
        }
        if aggregates.is_empty() && ids.is_empty() {
            return Ok(Some(facts));
        }
        let Looked::At(found) = self.look_up(&aggregates, &ids).await? else { return Ok(None) };
        let mut view = self.log.view.lock();
        for (aggregate, head) in aggregates.into_iter().zip(found.heads) {
            view.learn(&aggregate, head, &found.watermark);
            facts.heads.insert(aggregate, head);
        }
        let rows = ids.into_iter().zip(found.events).filter_map(|(id, row)| Some((id, Known::Row(row?))));
        facts.ids.extend(rows);
        Ok(Some(facts))
    }

    /// Reads the index, and sees to it that it is this log's index.
    async fn look_up(&mut self, aggregates: &[Aggregate], ids: &[Uuid]) -> Result<Looked, Error> {
        loop {
            let base = self.log.view.lock().base().segments;
            let found = self.log.shared.index.lookup(self.log.partition, aggregates, ids).await?;
            let relation = self.log.view.lock().relation(&found.watermark);
            match relation {
                Relation::Within => return Ok(Looked::At(found)),
                // The indexer moved on while this was read, and with it what the overlay still holds: read again. Each
                // round needs another segment indexed meanwhile, so the rounds end.
                Relation::Behind if found.watermark.segments >= base => {}
                Relation::Behind => {
                    let reason = "it was emptied and is being folded again".to_owned();
                    return Err(Error::Port(port::Error::Unavailable { what: "the index of the event log", reason }));
                }
                Relation::Differs => return Err(Error::Index { reason: "it belongs to another history".into() }),
                Relation::Ahead => {
                    self.jump(found.watermark).await?;
                    return Ok(Looked::Moved);
                }
            }
        }
    }

    /// Goes to where another process's indexer is, if the log bears it out.
    async fn jump(&mut self, to: Watermark) -> Result<(), Error> {
        let last = SegmentNumber(to.segments.0.saturating_sub(1));
        match self.log.fetch(last).await? {
            Some(segment) if after(&segment) == to => {
                self.log.view.lock().jump(to);
                self.log.announce();
                Ok(())
            }
            _ => Err(Error::Index { reason: format!("it is ahead of the log, at segment {}", to.segments) }),
        }
    }

    /// Folds the segment of another writer at the view's end.
    async fn fold_foreign(&mut self, segment: Segment) -> Result<(), Error> {
        let unknown: Vec<Aggregate> = {
            let view = self.log.view.lock();
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
            match self.look_up(&unknown, &[]).await? {
                Looked::At(found) => looked.extend(unknown.into_iter().zip(found.heads)),
                Looked::Moved => return Ok(()),
            }
        }
        {
            let mut view = self.log.view.lock();
            let before = |a: &Aggregate| view.head(a).or_else(|| looked.get(a).copied()).unwrap_or_default();
            let heads = fold_heads(&segment, before).map_err(|aggregate| Error::Chain {
                key: segment.key(),
                reason: format!("its numbers of {aggregate} do not follow"),
            })?;
            view.fold(Folded { segment: Arc::new(segment), heads });
        }
        self.log.announce();
        Ok(())
    }

    fn encode(&self, batch: &[Request], judged: &Judged) -> Segment {
        let shared = &self.log.shared;
        let (segment, first_position, prev_digest): (_, _, Digest) = {
            let view = self.log.view.lock();
            (view.end().segments, view.end().next_position, view.end().digest)
        };
        let header = Header {
            store: shared.store,
            partition: self.log.partition,
            segment,
            epoch: self.epoch,
            writer: shared.options.writer.clone(),
            put_id: shared.clock.random_id(),
            prev_digest,
            first_position,
            count: 0,
            recorded_at: shared.clock.now(),
        };
        let draft = |request: usize, place: usize| &batch[request].append.drafts[place];
        let events: Vec<_> =
            judged.events.iter().map(|(request, place, sequence)| (draft(*request, *place), *sequence)).collect();
        segment::encode(header, &events)
    }

    /// Writes until the slot is occupied, or certainly not written.
    async fn write(&mut self, segment: &Segment, batch: &mut [Request], judged: &Judged) -> Result<Written, Error> {
        let shared = self.log.shared.clone();
        let key = segment.key();
        let started = shared.clock.monotonic();
        let patience = Duration::from_millis(shared.options.unresolved_answer_after_ms);
        let mut unresolved = false;
        let mut pause_ms = RETRY_FIRST_MS;
        loop {
            match shared.objects.put_new(&key, segment.bytes.clone()).await {
                Ok(PutNew::Created) => return Ok(Written::Mine),
                Ok(PutNew::Exists) => {
                    unresolved = true;
                    match shared.objects.get(&key).await {
                        Ok(Some(found)) => return occupant(segment, found),
                        Ok(None) => tracing::warn!(key, "the store says that a segment exists, and that it does not"),
                        Err(error) => tracing::warn!(key, %error, "cannot read who wrote a segment; trying again"),
                    }
                }
                Ok(PutNew::Unknown) => unresolved = true,
                Err(error) if !unresolved => return Ok(Written::Not(error)),
                Err(error) => tracing::warn!(key, %error, "a write is still unresolved; trying again"),
            }
            if shared.clock.monotonic().saturating_sub(started) >= patience {
                self.give_word(batch, judged);
            }
            shared.clock.sleep(Duration::from_millis(pause_ms)).await;
            pause_ms = (pause_ms * 2).min(RETRY_MAX_MS);
        }
    }

    /// Nobody waits for an unresolved write without bound: those in it learn that it is unknown, those behind it that
    /// the store is away.
    fn give_word(&mut self, batch: &mut [Request], judged: &Judged) {
        let away = || {
            let reason = "a write to it is unresolved".to_owned();
            AppendError::Unavailable(port::Error::Unavailable { what: "the object store", reason })
        };
        let mut unknown: HashSet<Uuid> = HashSet::new();
        for (request, verdict) in batch.iter_mut().zip(&judged.verdicts) {
            let event_id = request.id();
            match verdict {
                Verdict::Write { .. } | Verdict::Twin(_) => {
                    unknown.insert(event_id);
                    request.refuse(AppendError::Unknown { event_id });
                }
                Verdict::Known(_) | Verdict::Refuse(_) => request.refuse(away()),
            }
        }
        self.take_queued();
        for mut request in std::mem::take(&mut self.pending) {
            let event_id = request.id();
            self.log.queued_bytes.fetch_sub(request.append.bytes(), Ordering::AcqRel);
            let known_unknown = unknown.contains(&event_id);
            request.refuse(if known_unknown { AppendError::Unknown { event_id } } else { away() });
        }
    }
}

/// Whose bytes are in the slot: the header's `put_id` tells.
fn occupant(mine: &Segment, found: Bytes) -> Result<Written, Error> {
    let key = mine.key();
    let header = segment::decode_header(&found).map_err(|source| Error::Object { key: key.clone(), source })?;
    if header.put_id != mine.header.put_id {
        return Ok(Written::Lost(found));
    }
    if found != mine.bytes {
        return Err(Error::Chain { key, reason: "it was written by this process and holds other bytes".into() });
    }
    Ok(Written::Mine)
}

/// Answers everything that waited for this moment: the segment is written, or there was none to write and the view is
/// known to be the last.
fn answer(batch: &mut [Request], judged: &mut Judged, segment: Option<&Segment>) {
    let records = |first: usize, count: usize| -> Vec<Record> {
        let segment = segment.expect("a batch with writes has a segment");
        (first..first + count).filter_map(|index| Record::of(segment, index)).collect()
    };
    let verdicts = std::mem::take(&mut judged.verdicts);
    let mut written: HashMap<usize, (usize, usize)> = HashMap::new();
    for (index, verdict) in verdicts.into_iter().enumerate() {
        match verdict {
            Verdict::Write { first, count } => {
                let (_, _, last) = judged.events[first + count - 1];
                let request = &mut batch[index];
                request.group.written[request.member].store(last.0, Ordering::Relaxed);
                request.answer(Answer::Written(records(first, count)));
                written.insert(index, (first, count));
            }
            Verdict::Twin(other) => {
                let (first, count) = written.get(&other).copied().expect("a twin follows its first");
                batch[index].answer(Answer::Same(records(first, count)));
            }
            Verdict::Known(known) => batch[index].answer(Answer::Known(known)),
            Verdict::Refuse(error) => batch[index].refuse(error),
        }
    }
}
