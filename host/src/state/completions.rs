//! Wakes those who wait for the outcome of a command. Follows the end of the log; remembers nothing: whoever waits asks
//! the log first, and again when woken.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Error, FOLLOW_RETRY};
use crate::codec::segment::Event;
use crate::domain::{EventKind, Partition, Position};
use crate::error::{Classified as _, Kind};
use crate::event_store::EventStore;

/// Records read at once while following.
const FOLLOW_RECORDS_MAX: usize = 1_024;

type Waiters = Arc<Mutex<HashMap<Uuid, (usize, watch::Sender<bool>)>>>;

/// The waiters of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Completions {
    events: EventStore,
    waiters: Waiters,
    /// Ends of the partitions before anybody waited.
    from: Arc<[Position]>,
}

/// One waiter; gone when dropped.
struct Waiter {
    waiters: Waiters,
    command_id: Uuid,
    done: watch::Receiver<bool>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiters = self.waiters.lock();
        if let Some((count, _)) = waiters.get_mut(&self.command_id) {
            *count -= 1;
            if *count == 0 {
                waiters.remove(&self.command_id);
            }
        }
    }
}

impl Completions {
    /// For this log. Nobody is woken until [`Completions::follow`] runs.
    pub fn new(events: EventStore) -> Completions {
        Completions { from: events.ends().into(), events, waiters: Arc::default() }
    }

    /// Returns when the log holds an outcome of the command. Cancel-safe; the caller bounds the wait.
    pub async fn wait(&self, command_id: Uuid) -> Result<(), Error> {
        let mut waiter = self.register(command_id);
        if !self.events.outcome(command_id).await?.is_empty() {
            return Ok(());
        }
        let _expecting = self.events.expect_others();
        // The sender lives in the table as long as this waiter does, so this ends only when it is woken.
        let _ = waiter.done.wait_for(|done| *done).await;
        Ok(())
    }

    fn register(&self, command_id: Uuid) -> Waiter {
        let mut waiters = self.waiters.lock();
        let (count, sender) = waiters.entry(command_id).or_insert_with(|| (0, watch::Sender::new(false)));
        *count += 1;
        Waiter { waiters: self.waiters.clone(), command_id, done: sender.subscribe() }
    }

    /// Follows one partition until told to stop.
    pub async fn follow(self, partition: Partition, stop: CancellationToken) -> Result<(), Error> {
        let mut end = self.events.watch_end(partition);
        let mut next = self.from[usize::from(partition.0)];
        end.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = end.changed() => if changed.is_err() { return Ok(()) },
            }
            let target = *end.borrow_and_update();
            while next < target && !stop.is_cancelled() {
                match self.wake(partition, next).await {
                    Ok(woken) if woken > next => next = woken,
                    Ok(_) => break,
                    // Those who wait ask the log themselves; they are woken when it answers again.
                    Err(error) if error.kind() == Kind::Unavailable => {
                        tracing::warn!(%error, "following the outcomes of commands, trying again");
                        self.events.clock().sleep(FOLLOW_RETRY).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn wake(&self, partition: Partition, from: Position) -> Result<Position, Error> {
        let mut decided = Vec::new();
        let note = |event: &Event| {
            decided.extend(event.command_id.filter(|_| event.kind == EventKind::Domain));
            false
        };
        let next = self.events.select(partition, from, FOLLOW_RECORDS_MAX, note).await?.next;
        let waiters = self.waiters.lock();
        for (_, sender) in decided.iter().filter_map(|id| waiters.get(id)) {
            sender.send_replace(true);
        }
        Ok(next)
    }
}
