//! How far consumers are, for consistency tokens, readiness and lag: those of this process as they go, those of others
//! as they store it. In memory only; the durable checkpoints are in the database and move with the effects (I7).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::domain::{Partition, Position, Timestamp};
use crate::port::read_model::builds;

/// What a consumer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerState {
    /// Reads what was appended while it was away.
    CatchingUp,
    /// Follows the log's end.
    Running,
    /// Waits with back-off, since a part it needs is away.
    Paused,
    /// Ended.
    Stopped,
    /// Runs in another process, if anywhere: what is known is its stored checkpoint.
    Elsewhere,
}

/// One consumer on one partition, as operators see it.
#[derive(Debug, Clone)]
pub struct ConsumerProgress {
    /// For those whose build readers see, the plain name, whichever build that is.
    pub name: String,
    /// As its claims and dead letters have it.
    pub consumer: String,
    pub partition: Partition,
    /// Everything below has had its effect (or is parked).
    pub position: Position,
    pub state: ConsumerState,
    pub last_error: Option<String>,
    /// When the last handled event was recorded.
    pub last_event_at: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<(String, Partition), ConsumerProgress>,
    /// By plain name, the consumer that writes what readers see, where that is not the one of the name.
    live: HashMap<String, String>,
}

impl Table {
    fn live<'a>(&'a self, name: &'a str) -> &'a str {
        self.live.get(name).map_or(name, String::as_str)
    }

    /// A row by the name that readers and operators know.
    fn shown(&self, row: &ConsumerProgress) -> ConsumerProgress {
        let name = builds::plain(&row.consumer);
        let name = match self.live(name) == row.consumer {
            true => name.to_owned(),
            false => builds::shown(&row.consumer),
        };
        ConsumerProgress { name, ..row.clone() }
    }

    fn row(&mut self, consumer: &str, partition: Partition, state: ConsumerState) -> &mut ConsumerProgress {
        self.rows.entry((consumer.to_owned(), partition)).or_insert_with(|| ConsumerProgress {
            name: consumer.to_owned(),
            consumer: consumer.to_owned(),
            partition,
            position: Position(0),
            state,
            last_error: None,
            last_event_at: None,
        })
    }
}

/// Progress of every consumer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Progress {
    table: Arc<RwLock<Table>>,
    moved: watch::Sender<u64>,
    /// How many wait for some position of a consumer that runs in another process.
    waiting: watch::Sender<usize>,
}

/// Somebody waits for a position that only a stored checkpoint tells.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress { table: Arc::default(), moved: watch::Sender::new(0), waiting: watch::Sender::new(0) }
    }
}

impl Progress {
    /// Adds a consumer of this process with the position it starts from, or changes nothing when it is known.
    pub fn register(&self, consumer: &str, partition: Partition, position: Position) {
        {
            let mut table = self.table.write();
            let row = table.row(consumer, partition, ConsumerState::CatchingUp);
            if row.state == ConsumerState::Elsewhere {
                row.state = ConsumerState::CatchingUp;
            }
            row.position = row.position.max(position);
        }
        self.wake();
    }

    /// Notes the stored checkpoint of a consumer, unless it runs in this process and is known better.
    pub fn note_stored(&self, consumer: &str, partition: Partition, position: Position) {
        let moved = {
            let mut table = self.table.write();
            let row = table.row(consumer, partition, ConsumerState::Elsewhere);
            let moves = row.state == ConsumerState::Elsewhere && row.position < position;
            row.position = if moves { position } else { row.position };
            moves
        };
        if moved {
            self.wake();
        }
    }

    /// Notes that a consumer ended here, and goes on in another process.
    pub fn leave(&self, consumer: &str, partition: Partition) {
        self.change(consumer, partition, |row| {
            row.state = ConsumerState::Elsewhere;
            false
        });
    }

    /// Whether somebody waits for a position of a consumer that runs in another process.
    pub fn is_awaited(&self) -> bool {
        *self.waiting.borrow() > 0
    }

    /// Returns when somebody waits so. Cancel-safe.
    pub async fn awaited(&self) {
        // The sender lives in `self`: waiting cannot fail.
        let mut waiting = self.waiting.subscribe();
        let _awaited = waiting.wait_for(|count| *count > 0).await.is_ok();
    }

    /// Forgets a consumer that ended for good: nobody waits for it any more.
    pub fn remove(&self, consumer: &str) {
        self.table.write().rows.retain(|(name, _), _| name != consumer);
        self.wake();
    }

    /// Notes which consumer writes what readers see: it is asked for by its plain name.
    pub fn set_live(&self, consumer: &str) {
        let plain = builds::plain(consumer).to_owned();
        self.table.write().live.insert(plain, consumer.to_owned());
        self.wake();
    }

    /// Moves a consumer's position forward.
    pub fn publish(&self, consumer: &str, partition: Partition, position: Position, at: Option<Timestamp>) {
        self.change(consumer, partition, |row| {
            row.last_event_at = at.or(row.last_event_at);
            let moves = row.position < position;
            row.position = row.position.max(position);
            moves
        });
    }

    /// Tells what a consumer does, and the error it met.
    pub fn set_state(&self, consumer: &str, partition: Partition, state: ConsumerState, error: Option<String>) {
        self.change(consumer, partition, |row| {
            row.state = state;
            row.last_error = error.or_else(|| row.last_error.take());
            false
        });
    }

    /// Changes a row; those who wait are woken when its position moved.
    fn change(&self, consumer: &str, partition: Partition, change: impl FnOnce(&mut ConsumerProgress) -> bool) {
        let moved = self.table.write().rows.get_mut(&(consumer.to_owned(), partition)).is_some_and(change);
        if moved {
            self.wake();
        }
    }

    fn wake(&self) {
        self.moved.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Whether a consumer writes what readers see, or decides.
    pub fn is_live(&self, consumer: &str) -> bool {
        self.table.read().live(builds::plain(consumer)) == consumer
    }

    /// Position of the consumer that writes what readers see under a plain name, if it is known here.
    pub fn get(&self, name: &str, partition: Partition) -> Option<Position> {
        let table = self.table.read();
        table.rows.get(&(table.live(name).to_owned(), partition)).map(|row| row.position)
    }

    /// Every consumer, by name and partition.
    pub fn consumers(&self) -> Vec<ConsumerProgress> {
        let table = self.table.read();
        let mut shown: Vec<_> = table.rows.values().map(|row| table.shown(row)).collect();
        shown.sort_by(|one, other| (&one.name, one.partition).cmp(&(&other.name, other.partition)));
        shown
    }

    /// Every consumer that writes what readers see, or decides: all but those of builds on their way.
    pub fn settled(&self) -> Vec<ConsumerProgress> {
        let mut consumers = self.consumers();
        consumers.retain(|row| builds::plain(&row.name) == row.name);
        consumers
    }

    /// The smallest position of the consumers named, on a partition; `None` when one of them is not known here.
    pub fn least(&self, consumers: &[String], partition: Partition) -> Option<Position> {
        consumers.iter().map(|name| self.get(name, partition)).min().flatten()
    }

    /// Whether each consumer named runs in this process, which tells at once how far it is.
    fn are_here(&self, consumers: &[String], partition: Partition) -> bool {
        let table = self.table.read();
        let row = |name: &String| table.rows.get(&(table.live(name).to_owned(), partition));
        consumers.iter().all(|name| row(name).is_some_and(|row| row.state != ConsumerState::Elsewhere))
    }

    /// Returns when every consumer named has handled `position`. Cancel-safe; the caller bounds the wait.
    pub async fn wait_for(&self, consumers: &[String], partition: Partition, position: Position) {
        let mut moved = self.moved.subscribe();
        let mut waiting = None;
        loop {
            moved.borrow_and_update();
            if self.least(consumers, partition).is_some_and(|least| least > position) {
                return;
            }
            if waiting.is_none() && !self.are_here(consumers, partition) {
                self.waiting.send_modify(|count| *count += 1);
                waiting = Some(Waiting(&self.waiting));
            }
            if moved.changed().await.is_err() {
                return;
            }
        }
    }
}
