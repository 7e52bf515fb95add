//! The event log: appends, reads, and the view that appends are judged against (design §2). The only commit point is
//! one `put_new` of a segment. Keeps I1 to I5. Never holds a lock over I/O; spawns nothing (the app spawns its tasks).

mod by_date;
mod committer;
mod errors;
mod indexer;
mod judge;
mod log;
mod opening;
mod packer;
mod packs;
mod reader;
mod types;
pub mod verify;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

pub use errors::{AppendError, Error};
pub use types::{Append, Appended, Expected, Linger, OpenReport, Options, Rebuilt, Record, Selection, Task};

use crate::codec::segment::Event;
use crate::domain::{Aggregate, Digest, Partition, Position, SegmentNumber, Sequence, derived_id};
use crate::port::clock::Clock;
use crate::port::index::{Head, Index};
use crate::port::object_store::ObjectStore;
use committer::Committer;
use judge::{Answer, Group, Request};
use log::{Log, Shared};

/// The event log of one store, as one process sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    logs: Vec<Arc<Log>>,
    /// Tasks that have not ended.
    running: Arc<watch::Sender<usize>>,
}

/// Counts a task down when it ends, however it ends.
struct Running(Arc<watch::Sender<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl EventStore {
    /// Opens the log: creates `meta/store.json` if there is none, brings the index to the log's end (throws it away and
    /// folds again when it must), and gives the tasks to spawn: nothing is appended before they run.
    pub async fn open(
        options: Options,
        objects: Arc<dyn ObjectStore>,
        index: Arc<dyn Index>,
        clock: Arc<dyn Clock>,
    ) -> Result<(EventStore, Vec<Task>, OpenReport), Error> {
        let (shared, opened, report) = opening::open(options, objects, index, clock).await?;
        let running = Arc::new(watch::Sender::new(0));
        let mut tasks = Vec::new();
        let mut logs = Vec::new();
        for opening::Opened { log, epoch } in opened {
            let (sender, receiver) = mpsc::unbounded_channel();
            *log.queue.lock() = Some(sender);
            let committer = Committer::new(log.clone(), receiver, epoch);
            tasks.push(task("event log committer", &running, committer.run()));
            tasks.push(task("event log indexer", &running, indexer::run(log.clone())));
            tasks.push(task("event log by-date index", &running, by_date::run(log.clone())));
            logs.push(log);
        }
        Ok((EventStore { inner: Arc::new(Inner { shared, logs, running }) }, tasks, report))
    }

    /// Takes no more appends, finishes those taken, lets the tasks end. Returns when all is written and indexed, and
    /// every task has ended or was dropped.
    pub async fn close(&self) {
        for log in &self.inner.logs {
            log.queue.lock().take();
        }
        let mut running = self.inner.running.subscribe();
        // The sender lives in `self`: waiting cannot fail.
        let _ended = running.wait_for(|count| *count == 0).await;
    }

    /// Id of the store.
    pub fn store_id(&self) -> Uuid {
        self.inner.shared.store
    }

    /// The clock this log was opened with.
    pub fn clock(&self) -> &dyn Clock {
        self.inner.shared.clock.as_ref()
    }

    /// Number of partitions.
    pub fn partitions(&self) -> u16 {
        u16::try_from(self.inner.logs.len()).expect("the number of partitions comes from a u16")
    }

    /// Partition of an aggregate.
    pub fn partition_of(&self, aggregate: &Aggregate) -> Partition {
        Partition::of(aggregate, self.partitions())
    }

    fn log(&self, partition: Partition) -> Result<&Arc<Log>, Error> {
        self.inner.logs.get(usize::from(partition.0)).ok_or(Error::NoPartition(partition))
    }

    fn log_of(&self, aggregate: &Aggregate) -> &Arc<Log> {
        &self.inner.logs[usize::from(self.partition_of(aggregate).0)]
    }

    /// The logs that aggregates lie in, each with the places of its aggregates.
    fn by_log<'a>(&self, aggregates: impl Iterator<Item = &'a Aggregate>) -> Vec<(&Arc<Log>, Vec<usize>)> {
        let mut places: BTreeMap<Partition, Vec<usize>> = BTreeMap::new();
        for (place, aggregate) in aggregates.enumerate() {
            places.entry(self.partition_of(aggregate)).or_default().push(place);
        }
        places.into_iter().map(|(partition, places)| (&self.inner.logs[usize::from(partition.0)], places)).collect()
    }

    /// Writes events, or tells why not. Idempotent by event id. When dropped before it returns, the events may or may
    /// not be written: ask again with the same ids.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let mut answers = self.append_all(vec![append]).await;
        answers.pop().expect("one append has one answer")
    }

    /// Appends enqueued together, so that they share segments; each succeeds or fails for itself. Answers in the order
    /// given.
    pub async fn append_all(&self, appends: Vec<Append>) -> Vec<Result<Appended, AppendError>> {
        let mut waiting = self.enqueue(appends);
        let mut answers = Vec::with_capacity(waiting.len());
        for waiting in waiting.drain(..) {
            answers.push(match waiting {
                Waiting::Refused(error) => Err(error),
                Waiting::For { log, event_id, answer } => match answer.await {
                    Ok(answer) => finish(&log, answer).await,
                    // The committer was dropped with the request in hand.
                    Err(_) => Err(AppendError::Unknown { event_id }),
                },
            });
        }
        answers
    }

    /// Hands appends to the committers of their partitions.
    fn enqueue(&self, appends: Vec<Append>) -> Vec<Waiting> {
        let events_max = self.inner.shared.options.segment_events_max;
        let group = Arc::new(Group { written: appends.iter().map(|_| AtomicU64::new(0)).collect() });
        let mut last: HashMap<Aggregate, usize> = HashMap::new();
        let mut waiting = Vec::with_capacity(appends.len());
        let mut requests: Vec<Vec<Request>> = self.inner.logs.iter().map(|_| Vec::new()).collect();
        for (member, append) in appends.into_iter().enumerate() {
            let previous = last.insert(append.aggregate.clone(), member);
            if let Err(refused) = append.check(events_max) {
                waiting.push(Waiting::Refused(refused));
                continue;
            }
            let (reply, answer) = oneshot::channel();
            let log = self.log_of(&append.aggregate).clone();
            let event_id = append.drafts[0].event_id;
            let partition = usize::from(log.partition.0);
            requests[partition].push(Request { append, reply: Some(reply), group: group.clone(), member, previous });
            waiting.push(Waiting::For { log, event_id, answer });
        }
        for (log, requests) in self.inner.logs.iter().zip(requests) {
            if requests.is_empty() {
                continue;
            }
            if let Err((requests, error)) = log.enqueue(requests) {
                for mut request in requests {
                    request.refuse(error.again());
                }
            }
        }
        waiting
    }

    /// Head of an aggregate, up to the committed end.
    pub async fn head(&self, aggregate: &Aggregate) -> Result<Head, Error> {
        let heads = self.log_of(aggregate).heads(std::slice::from_ref(aggregate)).await?;
        Ok(heads[0])
    }

    /// Heads of aggregates, in the order given.
    pub async fn heads(&self, aggregates: &[Aggregate]) -> Result<Vec<Head>, Error> {
        let mut heads = vec![Head::default(); aggregates.len()];
        for (log, places) in self.by_log(aggregates.iter()) {
            let asked: Vec<Aggregate> = places.iter().map(|index| aggregates[*index].clone()).collect();
            for (index, head) in places.into_iter().zip(log.heads(&asked).await?) {
                heads[index] = head;
            }
        }
        Ok(heads)
    }

    /// Events of one aggregate with a sequence above `after`, oldest first, up to the committed end.
    pub async fn stream(&self, aggregate: &Aggregate, after: Sequence, limit: usize) -> Result<Vec<Record>, Error> {
        let found = self.log_of(aggregate).streams(&[(aggregate.clone(), after)], limit).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Events of several aggregates, of each the first `limit` above the sequence it is asked with, as
    /// [`EventStore::stream`] gives them; in the order asked.
    pub async fn streams(&self, asked: &[(Aggregate, Sequence)], limit: usize) -> Result<Vec<Vec<Record>>, Error> {
        let mut streams = vec![Vec::new(); asked.len()];
        for (log, places) in self.by_log(asked.iter().map(|(aggregate, _)| aggregate)) {
            let asked: Vec<_> = places.iter().map(|index| asked[*index].clone()).collect();
            for (index, records) in places.into_iter().zip(log.streams(&asked, limit).await?) {
                streams[index] = records;
            }
        }
        Ok(streams)
    }

    /// Events by id, over all partitions, in the order asked.
    pub async fn find(&self, ids: &[Uuid]) -> Result<Vec<Option<Record>>, Error> {
        let mut found = vec![None; ids.len()];
        for log in &self.inner.logs {
            log.find_in_memory(ids, &mut found);
        }
        let missing: Vec<usize> = (0..ids.len()).filter(|index| found[*index].is_none()).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        // The index knows ids over partitions, whichever is asked.
        let asked: Vec<Uuid> = missing.iter().map(|index| ids[*index]).collect();
        let looked = self.inner.shared.index.lookup(Partition(0), &[], &asked).await?;
        for (index, row) in missing.into_iter().zip(looked.events) {
            if let Some(row) = row {
                found[index] = Some(self.log(row.partition)?.record(&row).await?);
            }
        }
        Ok(found)
    }

    /// The log in order, from a position. Cheap at the tail. Empty at the end.
    pub async fn read(&self, partition: Partition, from: Position, limit: usize) -> Result<Vec<Record>, Error> {
        Ok(self.select(partition, from, limit, |_| true).await?.records)
    }

    /// The events among the next `limit` of the log that are wanted. Those that are not cost a comparison.
    pub async fn select(
        &self,
        partition: Partition,
        from: Position,
        limit: usize,
        wanted: impl FnMut(&Event) -> bool + Send,
    ) -> Result<Selection, Error> {
        self.log(partition)?.select(from, limit, wanted).await
    }

    /// The domain events that are the outcome of a command; empty while it is undecided.
    pub async fn outcome(&self, command_id: Uuid) -> Result<Vec<Record>, Error> {
        let id = derived_id::domain_event(command_id, 0);
        // An outcome is later than its command: while the command is in memory, so is its outcome, if there is one.
        let mut found = [None, None];
        for log in &self.inner.logs {
            log.find_in_memory(&[command_id, id], &mut found);
        }
        let first = match found {
            [_, Some(first)] => Some(first),
            [Some(_), None] => None,
            [None, None] => self.find(&[id]).await?.pop().flatten(),
        };
        match first {
            Some(first) => self.log(first.partition)?.decision(&first).await,
            None => Ok(Vec::new()),
        }
    }

    /// Position that the next event of a partition gets; 0 for a partition this store does not have.
    pub fn end(&self, partition: Partition) -> Position {
        self.log(partition).map_or(Position(0), |log| *log.end.borrow())
    }

    /// The ends of all partitions, in their order.
    pub fn ends(&self) -> Vec<Position> {
        self.inner.logs.iter().map(|log| *log.end.borrow()).collect()
    }

    /// Follows the end of a partition. Panics for a partition this store does not have.
    pub fn watch_end(&self, partition: Partition) -> watch::Receiver<Position> {
        self.inner.logs[usize::from(partition.0)].end.subscribe()
    }

    /// Whether other processes may write to this store.
    pub fn others_write(&self) -> bool {
        self.inner.shared.options.follow_ms.is_some()
    }

    /// Looks for what other writers have appended, soon. For whoever was told that there is something.
    pub fn look(&self, partition: Partition) {
        if let Ok(log) = self.log(partition) {
            log.want_look();
        }
    }

    /// Returns when everything is known that any writer had appended before this was called. Waits while the object
    /// store is away: the caller bounds it.
    pub async fn caught_up(&self, partition: Partition) -> Result<(), Error> {
        let log = self.log(partition)?;
        let mut made = log.looks_made.subscribe();
        let number = log.want_look();
        // The sender lives in `self`: waiting cannot fail.
        let _made = made.wait_for(|made| *made >= number).await.is_ok();
        Ok(())
    }

    /// Returns when the log holds a position, whoever writes it. Cancel-safe; the caller bounds the wait.
    pub async fn reaches(&self, partition: Partition, position: Position) {
        let Ok(log) = self.log(partition) else { return std::future::pending().await };
        let _expecting = self.expect_others();
        // The sender lives in `self`: waiting cannot fail.
        let mut end = log.end.subscribe();
        let _reached = end.wait_for(|end| *end > position).await.is_ok();
    }

    /// While the guard lives, segments of other writers are looked for often: somebody waits for what they write.
    pub fn expect_others(&self) -> Expecting {
        if !self.others_write() {
            return Expecting(None);
        }
        for log in &self.inner.logs {
            log.expecting.send_if_modified(|count| {
                *count += 1;
                *count == 1
            });
        }
        Expecting(Some(self.inner.clone()))
    }

    /// The segment that holds a position, or will hold it when it is the end.
    pub async fn segment_of(&self, partition: Partition, position: Position) -> Result<SegmentNumber, Error> {
        self.log(partition)?.segment_of(position).await
    }

    /// Digest of the history before a segment, and the position at which the segment begins; `None` beyond the end.
    pub async fn before_segment(
        &self,
        partition: Partition,
        segment: SegmentNumber,
    ) -> Result<Option<(Digest, Position)>, Error> {
        self.log(partition)?.before_segment(segment).await
    }

    /// First position that the index does not have yet.
    pub fn indexed_to(&self, partition: Partition) -> Position {
        self.log(partition).map_or(Position(0), |log| *log.indexed.borrow())
    }

    /// Follows [`EventStore::indexed_to`]. Panics for a partition this store does not have.
    pub fn watch_indexed(&self, partition: Partition) -> watch::Receiver<Position> {
        self.inner.logs[usize::from(partition.0)].indexed.subscribe()
    }

    /// Aggregates of a type with an id above `after`, in byte order of the id, up to the committed end.
    pub async fn aggregates(&self, kind: &str, after: Option<&str>, limit: usize) -> Result<Vec<Aggregate>, Error> {
        let mut found = BTreeSet::new();
        for log in &self.inner.logs {
            log.overlay_aggregates(kind, after, &mut found);
        }
        found.extend(self.inner.shared.index.aggregates(kind, after, limit).await?);
        Ok(found.into_iter().take(limit).collect())
    }
}

/// Somebody waits for what other writers write.
#[derive(Debug)]
pub struct Expecting(Option<Arc<Inner>>);

impl Drop for Expecting {
    fn drop(&mut self) {
        for log in self.0.iter().flat_map(|inner| &inner.logs) {
            log.expecting.send_if_modified(|count| {
                *count -= 1;
                false
            });
        }
    }
}

/// An append on its way.
enum Waiting {
    Refused(AppendError),
    For { log: Arc<Log>, event_id: Uuid, answer: oneshot::Receiver<Answer> },
}

fn task<F>(name: &'static str, running: &Arc<watch::Sender<usize>>, future: F) -> Task
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    running.send_modify(|count| *count += 1);
    let running = Running(running.clone());
    let future = async move {
        let _running = running;
        future.await
    };
    Task { name, future: Box::pin(future) }
}

/// Turns the committer's word into the caller's: stored events are read here, off the committer's path.
async fn finish(log: &Log, answer: Answer) -> Result<Appended, AppendError> {
    match answer {
        Answer::Written(records) => Ok(Appended { records, replayed: false }),
        Answer::Same(records) => Ok(Appended { records, replayed: true }),
        Answer::Refused(error) => Err(error),
        Answer::Known(known) => {
            let stored = async { log.decision(&log.known(&known).await?).await };
            match stored.await {
                Ok(records) => Ok(Appended { records, replayed: true }),
                Err(Error::Port(error)) => Err(AppendError::Unavailable(error)),
                Err(error) => Err(AppendError::Stopped { reason: error.to_string() }),
            }
        }
    }
}
