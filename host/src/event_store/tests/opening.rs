//! Opening a log whose index another process moves meanwhile.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::port;
use crate::port::index::{Applied, EventRow, Lookup, Seen, SegmentRows, Watermark};

/// An index that something is done to before it is first asked for heads.
struct Raced {
    index: Arc<MemoryIndex>,
    race: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl std::fmt::Debug for Raced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raced").finish_non_exhaustive()
    }
}

#[async_trait]
impl Index for Raced {
    async fn store_id(&self) -> port::Result<Option<Uuid>> {
        self.index.store_id().await
    }

    async fn reset(&self, store_id: Uuid, seen: &Seen) -> port::Result<bool> {
        self.index.reset(store_id, seen).await
    }

    async fn watermark(&self, partition: Partition) -> port::Result<Watermark> {
        self.index.watermark(partition).await
    }

    async fn apply(&self, partition: Partition, from: &Watermark, segments: &[SegmentRows]) -> port::Result<Applied> {
        self.index.apply(partition, from, segments).await
    }

    async fn lookup(&self, partition: Partition, aggregates: &[Aggregate], ids: &[Uuid]) -> port::Result<Lookup> {
        let race = self.race.lock().take_if(|_| !aggregates.is_empty());
        if let Some(race) = race {
            race.await;
        }
        self.index.lookup(partition, aggregates, ids).await
    }

    async fn streams(&self, asked: &[(Aggregate, Sequence)], limit: usize) -> port::Result<Vec<Vec<EventRow>>> {
        self.index.streams(asked, limit).await
    }

    async fn locate(&self, partition: Partition, at: Position) -> port::Result<Option<(SegmentNumber, Position)>> {
        self.index.locate(partition, at).await
    }

    async fn aggregates(&self, kind: &str, after: Option<&str>, limit: usize) -> port::Result<Vec<Aggregate>> {
        self.index.aggregates(kind, after, limit).await
    }
}

/// Five commands of one account, and the process that wrote them gone.
async fn a_log_of_five() -> (Arc<MemoryStore>, Aggregate) {
    let (objects, writer) = fresh().await;
    let a = account("a");
    for id in 1..6 {
        writer.store.append(command(id, &a, Expected::Any)).await.unwrap();
    }
    writer.end().await;
    (objects, a)
}

#[tokio::test]
async fn an_index_that_another_process_moves_while_the_log_is_opened_is_followed() {
    let (objects, a) = a_log_of_five().await;
    let index = Arc::new(MemoryIndex::new());
    let (log, shared) = (objects.clone(), index.clone());
    let other = async move { start(log, shared, options()).await.end().await };
    let raced = Raced { index, race: Mutex::new(Some(Box::pin(other))) };
    let process = start(objects, Arc::new(raced), options()).await;
    assert_eq!(process.store.end(Partition(0)), Position(5));
    assert_eq!(numbers(&process.store.append(command(9, &a, Expected::Any)).await.unwrap()), [6]);
    process.end().await;
}

#[tokio::test]
async fn an_index_that_is_emptied_under_a_running_process_decides_nothing_until_it_is_whole_again() {
    let (objects, a) = a_log_of_five().await;
    let index = Arc::new(MemoryIndex::new());
    let process = start(objects.clone(), index.clone(), options()).await;
    let store = process.store.store_id();
    assert!(index.reset(store, &Seen { store: Some(store), watermark: None }).await.unwrap());
    // An empty index says that no id was ever used: without its watermark it would be believed.
    let refused = process.store.append(command(9, &a, Expected::Client(5))).await.unwrap_err();
    assert!(matches!(refused, AppendError::Unavailable(_)), "{refused}");
    start(objects, index, options()).await.end().await;
    assert_eq!(numbers(&process.store.append(command(9, &a, Expected::Client(5))).await.unwrap()), [6]);
    process.end().await;
}
