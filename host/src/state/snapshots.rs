//! Where folded states of long streams are kept, so that a cold read folds the tail only. Derived: what is missing,
//! damaged, of another history or cannot be had is ignored, and the log is folded instead. Written off the path of
//! commands by one task, at a bounded rate; what it has no time for is not written.
//!
//! Snapshots lie at sequences that are multiples of an interval: reader and writer name the same keys without a
//! listing, and writing one twice writes the same bytes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::codec::snapshot::{Folder, Snapshot, key};
use crate::domain::{Aggregate, Sequence};
use crate::failpoint;
use crate::metrics::{Counter, Metrics};
use crate::port::clock::Clock;
use crate::port::object_store::ObjectStore;

/// Snapshots that wait for the writer. Each may have the size of a state.
const QUEUE_MAX: usize = 32;
/// Least time from one write to the next: 50 a second spare 25,000 events and cost little beside them.
const PAUSE: Duration = Duration::from_millis(20);
/// Keys asked for before the log is folded from its beginning: the newest may not be written yet, or never was.
const TRIES_MAX: u64 = 3;

/// What snapshots are kept in, and how often they are made.
#[derive(Debug)]
pub struct Options {
    pub store: Uuid,
    pub objects: Arc<dyn ObjectStore>,
    /// Events from one to the next, at least 1.
    pub interval: u64,
    pub metrics: Metrics,
}

/// Reads snapshots, and hands new ones to the writer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Uuid,
    objects: Arc<dyn ObjectStore>,
    interval: u64,
    queue: mpsc::Sender<Snapshot>,
    used: Counter,
    refused: Counter,
    dropped: Counter,
}

/// Writes what is handed over. The app runs it; without it nothing is written.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<Snapshot>,
    objects: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    written: Counter,
    dropped: Counter,
}

impl Snapshots {
    /// The two ends.
    pub fn new(options: Options, clock: Arc<dyn Clock>) -> (Snapshots, Writer) {
        let Options { store, objects, interval, metrics } = options;
        assert!(interval > 0, "there is an event from one snapshot to the next");
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let writer = Writer {
            queue,
            objects: objects.clone(),
            clock,
            written: metrics.snapshots("written"),
            dropped: metrics.snapshots("dropped"),
        };
        let inner = Inner {
            store,
            objects,
            interval,
            queue: sender,
            used: metrics.snapshots("used"),
            refused: metrics.snapshots("refused"),
            dropped: metrics.snapshots("dropped"),
        };
        (Snapshots(Arc::new(inner)), writer)
    }

    /// Events from one snapshot to the next.
    pub fn interval(&self) -> u64 {
        self.0.interval
    }

    /// The newest one of an aggregate by this folder that is not after `last`, if it can be had. Whether its event is
    /// the one that the log has at that place, the caller checks.
    pub async fn find(&self, aggregate: &Aggregate, folder: &Folder, last: Sequence) -> Option<Snapshot> {
        let newest = last.0 / self.0.interval;
        for number in (newest.saturating_sub(TRIES_MAX - 1).max(1)..=newest).rev() {
            let sequence = Sequence(number * self.0.interval);
            let key = key(aggregate, sequence, folder);
            let bytes = match self.0.objects.get(&key).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!(key, %error, "a snapshot cannot be read; the log is folded");
                    return None;
                }
            };
            let problem = match Snapshot::decode(&bytes) {
                Ok(snapshot) if self.is(&snapshot, aggregate, sequence, folder) => return Some(snapshot),
                Ok(_) => "it is one of something else".to_owned(),
                Err(error) => error.to_string(),
            };
            self.refuse(&key, &problem).await;
        }
        None
    }

    fn is(&self, snapshot: &Snapshot, aggregate: &Aggregate, sequence: Sequence, folder: &Folder) -> bool {
        snapshot.store == self.0.store
            && snapshot.aggregate == *aggregate
            && snapshot.sequence == sequence
            && snapshot.folder == *folder
    }

    /// Counts a snapshot that served.
    pub fn served(&self) {
        self.0.used.add(1);
    }

    /// Deletes a snapshot whose event is not in the log.
    pub async fn refuse_stray(&self, snapshot: &Snapshot) {
        let key = key(&snapshot.aggregate, snapshot.sequence, &snapshot.folder);
        self.refuse(&key, "the log has another event there").await;
    }

    /// Deletes what nobody must use.
    async fn refuse(&self, key: &str, problem: &str) {
        self.0.refused.add(1);
        tracing::warn!(key, problem, "a snapshot is ignored and deleted; the log is folded");
        if let Err(error) = self.0.objects.delete(key).await {
            tracing::debug!(key, %error, "it could not be deleted");
        }
    }

    /// Hands a snapshot to the writer, unless that has too many already.
    pub fn offer(&self, snapshot: Snapshot) {
        if self.0.queue.try_send(Snapshot { store: self.0.store, ..snapshot }).is_err() {
            self.0.dropped.add(1);
        }
    }
}

impl Writer {
    /// Writes until told to stop. What waits then is lost, and made again when it is missed.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            let snapshot = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                snapshot = self.queue.recv() => match snapshot {
                    Some(snapshot) => snapshot,
                    None => return Ok(()),
                },
            };
            self.write(snapshot).await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.clock.sleep(PAUSE) => {}
            }
        }
    }

    /// Writes what waits now. For tests that run no task.
    #[cfg(test)]
    pub async fn write_waiting(&mut self) {
        while let Ok(snapshot) = self.queue.try_recv() {
            self.write(snapshot).await;
        }
    }

    async fn write(&self, snapshot: Snapshot) {
        let key = key(&snapshot.aggregate, snapshot.sequence, &snapshot.folder);
        failpoint::pass("snapshot.before_write");
        match self.objects.put(&key, snapshot.encode()).await {
            Ok(()) => {
                failpoint::pass("snapshot.after_write");
                self.written.add(1);
            }
            Err(error) => {
                self.dropped.add(1);
                tracing::debug!(key, %error, "a snapshot could not be written");
            }
        }
    }
}
