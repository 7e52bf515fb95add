//! The conformance suites on SQLite, and what only a file can do.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, Ordering};

use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use sqlx::Row as _;
use uuid::Uuid;

use super::connection::Arguments;
use super::*;
use crate::domain::{Aggregate, Digest, EventKind, Partition, Position, SegmentNumber, Sequence, Timestamp};
use crate::error::{Classified as _, Kind};
use crate::port::index::{Applied, EventRow, Head, SegmentRows, Watermark};
use crate::port::read_model::{Batch, Change, DocumentKey, EventChanges, Node};
use crate::port::registry::{Claim, ClaimFilter, Claimed, Finished, Owner};
use crate::port::{index, read_model, registry};

mod claims;

const T0: Timestamp = Timestamp(1_765_929_600_000);
const P0: Partition = Partition(0);

/// Fresh databases in a folder that goes when this goes.
struct Folder {
    folder: tempfile::TempDir,
    count: AtomicU32,
}

impl Folder {
    fn new() -> Folder {
        Folder { folder: tempfile::tempdir().unwrap(), count: AtomicU32::new(0) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(format!("{}-{FILE_NAME}", self.count.fetch_add(1, Ordering::Relaxed)))
    }

    async fn empty(&self) -> Database {
        Database::open(&self.path()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_an_index() {
    let folder = Folder::new();
    index::conformance::all(async || folder.empty().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_registry() {
    let folder = Folder::new();
    registry::conformance::all(async || folder.empty().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_dead_letters() {
    let folder = Folder::new();
    registry::conformance::dead_letters(&folder.empty().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_read_model() {
    let folder = Folder::new();
    let empty = async || {
        let database = folder.empty().await;
        (database.clone(), database)
    };
    read_model::conformance::all(empty).await;
}

fn me() -> Owner {
    Owner { name: "host:a".into(), run: 1 }
}

fn aggregate(id: u64) -> Aggregate {
    Aggregate::parse("Account", &format!("a-{id:06}")).unwrap()
}

fn zero() -> Watermark {
    Watermark { segments: SegmentNumber(0), next_position: Position(0), digest: Digest([0; 32]) }
}

/// Segment `n`: a command and its outcome for each of `count` new aggregates.
fn segment(n: u64, count: u64) -> SegmentRows {
    let mut rows = SegmentRows {
        segment: SegmentNumber(n),
        digest: Digest::of(&n.to_be_bytes()),
        first_position: Position(n * count * 2),
        recorded_at: T0,
        events: Vec::new(),
        heads: Vec::new(),
    };
    for number in n * count..(n + 1) * count {
        let command = EventRow {
            event_id: Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("c{number}").as_bytes()),
            partition: P0,
            segment: rows.segment,
            position: Position(number * 2),
            aggregate: aggregate(number),
            sequence: Sequence(1),
            kind: EventKind::Command,
            event_type: "OPEN_ACCOUNT_REQUESTED".into(),
            command_id: None,
            fingerprint: Some(Digest::of(b"content")),
        };
        let outcome = EventRow {
            event_id: Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("d{number}").as_bytes()),
            position: Position(number * 2 + 1),
            sequence: Sequence(2),
            kind: EventKind::Domain,
            event_type: if number % 2 == 0 { "ACCOUNT_OPENED".into() } else { "COMMAND_FAILED".into() },
            command_id: Some(command.event_id),
            fingerprint: None,
            ..command.clone()
        };
        let head =
            Head { last: Sequence(2), last_command: Sequence(1), last_domain: Sequence(2), last_foreign: Sequence(0) };
        rows.heads.push((command.aggregate.clone(), head));
        rows.events.extend([command, outcome]);
    }
    rows
}

fn claims(segment: &SegmentRows, kind: EventKind) -> Vec<Claim> {
    let wanted = segment.events.iter().filter(|event| event.kind == kind);
    wanted
        .map(|event| Claim {
            event_id: event.event_id,
            aggregate_id: event.aggregate.id.as_str().into(),
            sequence: event.sequence,
        })
        .collect()
}

fn finished(claims: &[Claim]) -> Vec<Finished> {
    claims
        .iter()
        .map(|claim| Finished {
            event_id: claim.event_id,
            aggregate_id: claim.aggregate_id.clone(),
            sequence: claim.sequence,
            attempt: 1,
        })
        .collect()
}

/// What a projection of these events writes: a document, a node and an edge each.
fn changes(segment: &SegmentRows, bytes: usize) -> Vec<EventChanges> {
    let body = serde_json::json!({"data": {"name": "n".repeat(bytes), "owned_by": "Customer/1"}}).to_string();
    let body: Arc<RawValue> = RawValue::from_string(body).unwrap().into();
    let domain = segment.events.iter().filter(|event| event.kind == EventKind::Domain);
    domain
        .map(|event| {
            let id = event.aggregate.id.as_str().to_owned();
            let node = Node { kind: "Account".into(), id: id.clone() };
            let target = Node { kind: "Customer".into(), id: "1".into() };
            EventChanges {
                event_id: event.event_id,
                owner: event.aggregate.clone(),
                version: event.sequence.0,
                changes: vec![
                    Change::Put { key: DocumentKey { collection: "accounts".into(), id }, body: Arc::clone(&body) },
                    Change::PutNode { node: node.clone() },
                    Change::SetEdges { source: node, predicate: "owned_by".into(), targets: vec![target] },
                ],
            }
        })
        .collect()
}

const PROJECTION: &str = "projection_worker:account_events";

fn batch<'a>(owner: &'a Owner, segment: &SegmentRows) -> Batch<'a> {
    Batch {
        consumer: PROJECTION,
        build: "live",
        begun: None,
        owner,
        events: changes(segment, 20),
        finished: finished(&claims(segment, EventKind::Domain)),
        checkpoint: Some((P0, Position(segment.first_position.0 + segment.events.len() as u64))),
        now: T0,
    }
}

async fn count(database: &Database, sql: &'static str) -> i64 {
    let rows = database.inner.readers.run(sql, Arguments::default()).await.unwrap();
    rows[0].get_unchecked(0)
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let folder = Folder::new();
    let file = folder.path();
    let database = Database::open(&file).await.unwrap();
    database.apply_segment(0).await;
    database.close().await;
    let again = Database::open(&file).await.unwrap();
    assert_eq!(again.index().watermark(P0).await.unwrap().segments, SegmentNumber(1));
}

impl Database {
    async fn apply_segment(&self, n: u64) {
        let from = self.index().watermark(P0).await.unwrap();
        assert_eq!(self.index().apply(P0, &from, &[segment(n, 2)]).await.unwrap(), Applied::Done);
    }
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_begun_anew() {
    let folder = Folder::new();
    for damage in ["not a database at all, but long enough for a header ".repeat(40), String::from("short")] {
        let file = folder.path();
        std::fs::write(&file, &damage).unwrap();
        let database = Database::open(&file).await.unwrap();
        assert_eq!(database.index().watermark(P0).await.unwrap(), zero());
        let kept = file.with_file_name(format!("{}.damaged-1", file.file_name().unwrap().to_str().unwrap()));
        assert_eq!(std::fs::read_to_string(kept).unwrap(), damage);
    }
}

#[tokio::test]
async fn damage_found_later_is_told_with_the_way_out() {
    let folder = Folder::new();
    let path = folder.path();
    let database = Database::open(&path).await.unwrap();
    for n in 0..30 {
        database.apply_segment(n).await;
    }
    database.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    let mut damaged = 0;
    for page in bytes.chunks_exact_mut(4096) {
        if page.windows(8).any(|text| text == b"a-000003") {
            page[..200].fill(0xAA);
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    std::fs::write(&path, bytes).unwrap();
    let database = Database::open(&path).await.unwrap();
    let error = database.index().streams(&[(aggregate(3), Sequence(0))], 10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("delete the file carryall.db"), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_with_the_way_out() {
    let folder = Folder::new();
    let file = folder.path();
    let database = Database::open(&file).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations VALUES (9999, 'of tomorrow', CURRENT_TIMESTAMP, 1, x'00', 0)";
    database.inner.writer.run(newer, Arguments::default()).await.unwrap();
    database.close().await;
    let error = Database::open(&file).await.unwrap_err();
    assert_eq!(error.code(), "part_refused");
    assert!(error.to_string().contains("delete the file"), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_leaves_nothing_half_done() {
    let folder = Folder::new();
    let database = folder.empty().await;
    database.apply_segment(0).await;
    assert!(count(&database, "PRAGMA page_count").await < 100);
    database.inner.writer.run("PRAGMA max_page_count = 100", Arguments::default()).await.unwrap();
    let mut n = 1;
    let error = loop {
        let from = database.index().watermark(P0).await.unwrap();
        match database.index().apply(P0, &from, &[segment(n, 2)]).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(n > 1);
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert_eq!(database.index().watermark(P0).await.unwrap().segments, SegmentNumber(n));
    database.inner.writer.run("PRAGMA max_page_count = 100000", Arguments::default()).await.unwrap();
    database.apply_segment(n).await;
}

/// A future polled a few times and dropped, at every depth that there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_dropped_half_way_is_done_whole_or_not_at_all() {
    let folder = Folder::new();
    let database = folder.empty().await;
    let (index, registry, model) = (database.index(), database.registry(), database.read_model());
    let owner = me();
    let (mut whole, mut nothing) = (0, 0);
    for n in 0..120 {
        let rows = segment(n, 2);
        let from = index.watermark(P0).await.unwrap();
        give_up(index.apply(P0, &from, std::slice::from_ref(&rows)), n).await;
        let found = index.lookup(P0, &[aggregate(n * 2)], &[rows.events[3].event_id]).await.unwrap();
        let done = found.watermark.segments.0 == n + 1;
        assert_eq!((found.heads[0].last.0 == 2, found.events[0].is_some()), (done, done));
        if !done {
            // What was given up may still run: it ends before the next call of the writer, which repeats it.
            let repeated = index.apply(P0, &from, std::slice::from_ref(&rows)).await.unwrap();
            assert!(repeated == Applied::Done || index.watermark(P0).await.unwrap().segments.0 == n + 1);
        }
        let wanted = claims(&rows, EventKind::Domain);
        let answers = registry.claim(PROJECTION, &owner, &wanted, 1000, T0).await.unwrap();
        assert_eq!(answers, [Claimed::Yes { attempt: 1 }, Claimed::Yes { attempt: 1 }]);
        give_up(model.apply(batch(&owner, &rows)), n).await;
        // The writer's next turn rolls back what is open.
        drop(database.inner.writer.turn().await.unwrap());
        let keys: Vec<_> = batch(&owner, &rows).events.iter().map(document_key).collect();
        let documents = model.documents(Some("live"), &keys).await.unwrap();
        let filter = ClaimFilter {
            event_ids: wanted.iter().map(|claim| claim.event_id).collect(),
            limit: 10,
            ..ClaimFilter::default()
        };
        let done = documents[0].is_some();
        assert!(documents.iter().all(|document| document.is_some() == done));
        let statuses = registry.rows(&filter).await.unwrap();
        let ended = statuses[0].status == "done";
        assert!(statuses.iter().all(|row| (row.status == "done") == ended) && (done || !ended));
        let position = rows.first_position.0 + 4;
        let checkpoints = model.checkpoints().await.unwrap();
        assert_eq!(checkpoints.first().is_some_and(|(_, _, at)| at.0 == position), done);
        whole += u32::from(done);
        nothing += u32::from(!done);
        if !ended {
            // Given up behind the commit, the claims are open still: what is repeated changes nothing.
            assert!(model.apply(batch(&owner, &rows)).await.unwrap().fenced.is_empty());
            assert_eq!(registry.rows(&filter).await.unwrap()[0].status, "done");
        }
    }
    assert!(nothing > 0, "{whole} whole, {nothing} not at all: nothing was given up half-way");
}

fn document_key(event: &EventChanges) -> DocumentKey {
    match &event.changes[0] {
        Change::Put { key, .. } => key.clone(),
        other => panic!("{other:?}"),
    }
}

async fn give_up<F: Future>(call: F, n: u64) {
    // Whether it was done is what the caller looks at.
    if n.is_multiple_of(3) {
        drop(call.now_or_never());
    } else {
        drop(tokio::time::timeout(Duration::from_micros(n % 40 * 15), call).await);
    }
}

#[tokio::test]
async fn operators_see_the_status_of_commands() {
    let folder = Folder::new();
    let database = folder.empty().await;
    database.apply_segment(0).await;
    let mut rows = segment(1, 5);
    rows.first_position = Position(4);
    rows.events.retain(|event| event.kind == EventKind::Command);
    for (position, event) in (4..).zip(&mut rows.events) {
        event.position = Position(position);
    }
    let from = database.index().watermark(P0).await.unwrap();
    database.index().apply(P0, &from, std::slice::from_ref(&rows)).await.unwrap();
    let (registry, owner) = (database.registry(), me());
    let wanted = claims(&rows, EventKind::Command);
    registry.claim("Account:worker", &owner, &wanted[..3], 1000, T0).await.unwrap();
    let attempts = finished(&wanted);
    let fail = async |n: usize, status| {
        assert!(registry.fail("Account:worker", &owner, &attempts[n..=n], status, "why", T0).await.unwrap().is_empty());
    };
    fail(1, registry::Status::Failed).await;
    fail(2, registry::Status::Parked).await;
    registry.rows(&ClaimFilter { limit: 1, ..ClaimFilter::default() }).await.unwrap();
    let sql = "SELECT command_id, command_type, status, last_error FROM command_status ORDER BY sequence_number, \
               aggregate_id";
    let found = database.inner.readers.run(sql, Arguments::default()).await.unwrap();
    let seen: Vec<(String, Option<String>)> =
        found.iter().map(|row| (row.get_unchecked(2), row.get_unchecked(3))).collect();
    let want = [
        ("COMPLETED", None),
        ("FAILED", None),
        ("PROCESSING", None),
        ("RETRYING", Some("why")),
        ("RETRYING", Some("why")),
        ("PENDING", None),
        ("PENDING", None),
    ];
    assert_eq!(seen, want.map(|(status, error)| (status.to_owned(), error.map(str::to_owned))));
    assert_eq!(found[2].get_unchecked::<String, _>(0), wanted[0].event_id.to_string());
    assert_eq!(found[2].get_unchecked::<String, _>(1), "OPEN_ACCOUNT");
}

/// A plan that walks a table, or all rows of a handler, is quick in a test and ruins a host.
#[tokio::test]
async fn derived_ids_are_found_whatever_their_age() {
    let folder = Folder::new();
    let database = folder.empty().await;
    let rows = segment(0, 10);
    let applied = database.index().apply(P0, &zero(), std::slice::from_ref(&rows)).await.unwrap();
    assert_eq!(applied, Applied::Done);
    // The later half, as if three million other events lay between.
    let apart = "UPDATE log_events SET place = place + 3000000 WHERE place >= 10;
                 UPDATE log_watermarks SET next_position = next_position + 3000000";
    database.inner.writer.run(apart, Arguments::default()).await.unwrap();
    let ids: Vec<Uuid> = rows.events.iter().map(|event| event.event_id).collect();
    let found = database.lookup(P0, &[], &ids).await.unwrap().events;
    assert!(found.iter().zip(&ids).all(|(row, id)| row.as_ref().is_some_and(|row| row.event_id == *id)));
}

#[tokio::test]
async fn statements_of_the_busy_path_seek_and_never_walk() {
    let folder = Folder::new();
    let database = folder.empty().await;
    let strings =
        [super::index::BUSY_SQL, super::registry::BUSY_SQL, super::read_model::BUSY_SQL, super::search::BUSY_SQL]
            .concat();
    let mut explained = 0;
    for statement in strings.iter().flat_map(|sql| sql.split(';')) {
        if ["BEGIN IMMEDIATE", "COMMIT", ""].contains(&statement.trim()) {
            continue;
        }
        // SQLite looks at the value of a bare one when it plans, hence parses the statement anew at every run.
        assert!(!statement.contains("LIMIT $"), "a limit that is a parameter is written `LIMIT +$1`:\n{statement}");
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let mut turn = database.inner.writer.turn().await.unwrap();
        for row in turn.explain(explain).await.unwrap() {
            let step: String = row.get_unchecked(3);
            let walks = step.starts_with("SCAN ")
                && ![
                    "VIRTUAL TABLE",
                    "CONSTANT ROW",
                    "documents_with_stale_text",
                    "(subquery",
                    "SCAN j",
                    "SCAN h",
                    "SCAN known",
                    "SCAN seen",
                    // One row for each 524,288 events, and one for each partition.
                    "SCAN ages",
                    "SCAN log_watermarks",
                    // One for each projection.
                    "projection_builds_live",
                ]
                .iter()
                .any(|harmless| step.contains(harmless));
            let whole_handler = step.ends_with("(handler=?)") && !step.contains("processed_events_unfinished");
            assert!(!walks && !whole_handler, "{step}\n{statement}");
        }
        explained += 1;
    }
    assert!(explained > 20, "{explained}");
}
