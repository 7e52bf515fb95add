//! What waits while there is something better to do.
#![allow(clippy::unwrap_used)]

use serde_json::value::RawValue;
use uuid::Uuid;

use super::*;
use crate::adapter::sqlite;
use crate::domain::{Aggregate, Timestamp};
use crate::port::read_model::{Batch, Change, DocumentKey, EventChanges};
use crate::port::registry::Owner;

/// Writes a document whose words are not indexed yet.
async fn write(database: &sqlite::Database, number: u64) {
    let body: Arc<RawValue> = RawValue::from_string(r#"{"name":"widget"}"#.into()).unwrap().into();
    let key = DocumentKey { collection: "things".into(), id: number.to_string() };
    let event = EventChanges {
        event_id: Uuid::from_u64_pair(1, number),
        owner: Aggregate::parse("Thing", &number.to_string()).unwrap(),
        version: 1,
        changes: vec![Change::Put { key, body }],
    };
    let batch = Batch {
        consumer: "projection_worker:thing_events",
        build: "live",
        begun: None,
        owner: &Owner { name: "host:a".into(), run: 1 },
        events: vec![event],
        finished: Vec::new(),
        checkpoint: None,
        now: Timestamp(0),
    };
    database.read_model().apply(batch).await.unwrap();
}

#[tokio::test]
async fn the_full_text_index_gives_way_when_events_arrive() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = sqlite::Database::open(&folder.path().join(sqlite::FILE_NAME)).await.unwrap();
    write(&sqlite, 1).await;
    let database = Database::Sqlite(sqlite.clone());
    refresh(&database, || false).await.unwrap();
    assert_eq!(database.refresh_text().await.unwrap(), 1, "it was left for later");
    write(&sqlite, 2).await;
    refresh(&database, || true).await.unwrap();
    assert_eq!(database.refresh_text().await.unwrap(), 0, "it was done");
}
