//! The conformance suites on a real server, and what only a server can do.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Database;
use super::connection::Arguments;
use crate::adapter::system_clock::SystemClock;
use crate::domain::{Aggregate, Partition, Position, Sequence, Timestamp};
use crate::metrics::{Metrics, Sql};
use crate::port::clock::Clock as _;
use crate::port::index::{Index as _, Seen};
use crate::port::read_model::{Batch, Change, DocumentKey, EventChanges, Node, ReadModel};
use crate::port::registry::conformance::{claim, owner};
use crate::port::registry::{Claim, ClaimFilter, Claimed, Finished, Registry as _, Status};
use crate::port::{Error, index, read_model, registry};
use crate::tests::postgres::Postgres;

const T0: Timestamp = Timestamp(1_765_929_600_000);
const LEASE_MS: i64 = 1000;
const H: &str = "projection_worker:account_events";

async fn open(postgres: &Postgres) -> Database {
    let database = Database::at(&postgres.url(), &Metrics::new()).unwrap();
    while database.try_open().await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    database
}

/// Empties what there is.
async fn bind_anew(database: &Database) {
    let seen = Seen { store: database.store_id().await.unwrap(), watermark: None };
    assert!(database.reset(Uuid::nil(), &seen).await.unwrap());
}

/// The database with empty tables.
async fn empty(postgres: &Postgres) -> Database {
    let database = open(postgres).await;
    bind_anew(&database).await;
    database.forget().await.unwrap();
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_an_index() {
    let postgres = Postgres::create().await;
    index::conformance::all(async || empty(&postgres).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_registry() {
    let postgres = Postgres::create().await;
    registry::conformance::all(async || empty(&postgres).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_dead_letters() {
    let postgres = Postgres::create().await;
    registry::conformance::dead_letters(&empty(&postgres).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_read_model() {
    let postgres = Postgres::create().await;
    let empty = async || {
        let database = empty(&postgres).await;
        (database.clone(), database)
    };
    read_model::conformance::all(empty).await;
}

fn finished(claims: &[Claim], attempt: u32) -> Vec<Finished> {
    let end = |claim: &Claim| Finished {
        event_id: claim.event_id,
        aggregate_id: claim.aggregate_id.clone(),
        sequence: claim.sequence,
        attempt,
    };
    claims.iter().map(end).collect()
}

#[tokio::test]
async fn what_retention_deleted_is_never_handled_again() {
    let postgres = Postgres::create().await;
    let database = empty(&postgres).await;
    let me = owner("host:a", 1);
    let claims: Vec<Claim> = (1..=9).map(claim).collect();
    database.claim(H, &me, &claims, LEASE_MS, T0).await.unwrap();
    // Out of order, as retries make it: 7 is done, 6 failed, 8 and 9 are under way.
    let ended = finished(&claims, 1);
    database.done(H, &me, &ended[..5], T0).await.unwrap();
    database.done(H, &me, &ended[6..7], T0).await.unwrap();
    assert!(database.fail(H, &me, &ended[5..6], Status::Failed, "trap", T0).await.unwrap().is_empty());
    let far = T0.plus_ms(365 * 86_400_000);
    assert_eq!(database.retire(far, 1_000).await.unwrap(), 6);
    let replay = owner("host:b", 1);
    let answers = database.claim(H, &replay, &claims, i64::MAX / 4, far).await.unwrap();
    let again: Vec<u64> =
        (1..).zip(&answers).filter(|(_, a)| matches!(a, Claimed::Yes { .. })).map(|(n, _)| n).collect();
    // Only the one that failed, which never took effect.
    assert_eq!(again, [6], "{answers:?}");
    assert_eq!(answers[0], Claimed::Stale);
    // A row that `aggregate_versions` does not cover stays, whatever its age.
    postgres.execute("DELETE FROM spice_event_registry.aggregate_versions").await;
    let skipped = database.retire(far.plus_ms(1), 1_000).await.unwrap();
    assert_eq!(skipped, 0, "rows went whose events would run again");
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_taken_up_at_once() {
    let postgres = Postgres::create().await;
    let (database, other) = (empty(&postgres).await, open(&postgres).await);
    let me = owner("host:a", 1);
    let mut taken = 0;
    for n in 1..=12 {
        let wanted = [claim(n)];
        // Polled a few times and then given up: before it was sent, or while its answer is on the way.
        {
            let mut asking = std::pin::pin!(database.claim(H, &me, &wanted, LEASE_MS, T0));
            let mut answered = false;
            for _ in 0..n.div_ceil(3) {
                answered |= asking.as_mut().now_or_never().is_some();
                if answered {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if answered {
                continue;
            }
        }
        // What was given up may still run; somebody else never gets it. Until one has landed there is more patience.
        tokio::time::sleep(Duration::from_millis(if taken == 0 { 500 } else { 20 })).await;
        let row = ClaimFilter { event_ids: vec![wanted[0].event_id], limit: 1, ..ClaimFilter::default() };
        let landed = !database.rows(&row).await.unwrap().is_empty();
        if landed {
            taken += 1;
            let theirs = other.claim(H, &owner("host:b", 1), &wanted, LEASE_MS, T0).await.unwrap();
            assert_eq!(theirs, [Claimed::InProgress]);
        }
        // It may have landed since.
        let again = database.claim(H, &me, &wanted, LEASE_MS, T0).await.unwrap();
        assert!(matches!(again[..], [Claimed::Yes { attempt }] if attempt == 2 || (attempt == 1 && !landed)));
        assert_eq!(database.claim(H, &me, &wanted, LEASE_MS, T0).await.unwrap(), [Claimed::InProgress]);
    }
    assert!(taken > 0, "no claim was given up after it was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_want_the_same_rows_in_any_order_never_lock_each_other_out() {
    let postgres = Postgres::create().await;
    let database = empty(&postgres).await;
    let claims: Vec<Claim> = (1..=300)
        .map(|n| Claim {
            event_id: Uuid::new_v5(&Uuid::NAMESPACE_URL, &[n as u8, (n >> 8) as u8]),
            aggregate_id: format!("a{}", n % 40),
            sequence: Sequence(n),
        })
        .collect();
    let process = async |number: u64| {
        let (database, me) = (open(&postgres).await, owner(&format!("host:{number}"), 1));
        let mut won = 0;
        for round in 0..20 {
            let mut wanted = claims.clone();
            wanted.rotate_left(usize::try_from(number * 71 + round * 13).unwrap() % 300);
            if number.is_multiple_of(2) {
                wanted.reverse();
            }
            // An expired lease: everybody takes over from everybody, all the time.
            let now = T0.plus_ms(i64::try_from(round * 10).unwrap());
            let answers = database.claim(H, &me, &wanted, 0, now).await.unwrap();
            let mine: Vec<Finished> = wanted
                .iter()
                .zip(answers)
                .filter_map(|(claim, answer)| match answer {
                    Claimed::Yes { attempt } => Some(finished(std::slice::from_ref(claim), attempt).remove(0)),
                    _ => None,
                })
                .take(10)
                .collect();
            let lost = database.done(H, &me, &mine, now).await.unwrap();
            won += mine.len() - lost.len();
        }
        won
    };
    let won: usize = join_all((0..4).map(process)).await.into_iter().sum();
    let done = ClaimFilter { status: Some(Status::Done), limit: 1_000, ..ClaimFilter::default() };
    assert_eq!(database.rows(&done).await.unwrap().len(), won, "an event was done twice, or not at all");
    let deadlocks = "SELECT deadlocks::text FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(postgres.texts(deadlocks).await, ["0"]);
}

#[tokio::test]
async fn leases_are_held_by_the_clock_of_the_server() {
    let postgres = Postgres::create().await;
    let (database, clock) = (empty(&postgres).await, SystemClock::new());
    let (before, told, after) = (clock.now(), database.time(T0).await.unwrap(), clock.now());
    // The server runs on this machine.
    assert!(before.plus_ms(-1) <= told && told <= after.plus_ms(1), "{before} {told} {after}");
}

fn batch<'a>(me: &'a crate::port::registry::Owner, n: u64, ended: Vec<Finished>) -> Batch<'a> {
    let body = RawValue::from_string(format!("{{\"n\":{n}}}")).unwrap();
    let key = DocumentKey { collection: "accounts".into(), id: format!("d{n}") };
    let changes = vec![Change::Put { key, body: body.into() }];
    let owner = Aggregate::parse("Account", "a").unwrap();
    let event = EventChanges { event_id: ended[0].event_id, owner, version: n, changes };
    let checkpoint = Some((Partition(0), Position(n)));
    Batch {
        consumer: H,
        build: "live",
        begun: None,
        owner: me,
        events: vec![event],
        finished: ended,
        checkpoint,
        now: T0,
    }
}

/// What another transaction writes while a statement waits for it is not in what that statement sees.
#[tokio::test(flavor = "multi_thread")]
async fn edges_of_a_set_that_is_overwritten_meanwhile_do_not_stay() {
    let postgres = Postgres::create().await;
    let database = empty(&postgres).await;
    let (me, claims) = (owner("host:a", 1), [claim(7)]);
    database.claim(H, &me, &claims, LEASE_MS, T0).await.unwrap();
    let mut earlier = database.inner.pool.session().await.unwrap();
    for sql in [
        "BEGIN",
        "INSERT INTO graph_edge_sets VALUES ('live', 'Thing', 's', 'has', 'Account', 'a', 6)",
        "INSERT INTO graph_edges VALUES ('live', 'Thing', 's', 'has', 'Thing', 'x')",
    ] {
        earlier.run(sql, Arguments::default()).await.unwrap();
    }
    let node = |id: &str| Node { kind: "Thing".into(), id: id.into() };
    let mut later = batch(&me, 7, finished(&claims, 1));
    later.events[0].changes =
        vec![Change::SetEdges { source: node("s"), predicate: "has".into(), targets: vec![node("y")] }];
    let (applied, ()) = tokio::join!(ReadModel::apply(&database, later), async {
        let waiting = "SELECT pid::text FROM pg_locks WHERE NOT granted";
        while postgres.texts(waiting).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        earlier.run("COMMIT", Arguments::default()).await.unwrap();
    });
    assert!(applied.unwrap().foreign.is_empty());
    let edges = database.edges(Some("live"), &node("s"), true, None, 10).await.unwrap();
    assert_eq!(edges.into_iter().map(|edge| edge.target.id).collect::<Vec<_>>(), ["y"]);
}

/// A claim that waited for the deletion of a build judged by a version that is gone with it.
#[tokio::test]
async fn what_was_stale_by_a_version_that_is_deleted_is_claimed() {
    let postgres = Postgres::create().await;
    let database = empty(&postgres).await;
    let (me, claims) = (owner("host:a", 1), [claim(1)]);
    database.claim(H, &me, &claims, LEASE_MS, T0).await.unwrap();
    let stale = "UPDATE processed_events SET status = 'skipped_stale'";
    database.inner.pool.write(stale, Arguments::default()).await.unwrap();
    let answers = database.claim(H, &me, &claims, LEASE_MS, T0).await.unwrap();
    assert_eq!(answers, [Claimed::Yes { attempt: 2 }]);
}

/// A future polled a few times and dropped, at every depth that there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_dropped_half_way_is_done_whole_or_not_at_all() {
    let postgres = Postgres::create().await;
    let database = empty(&postgres).await;
    let me = owner("host:a", 1);
    let mut nothing = 0;
    for n in 1..=60 {
        let claims = [claim(n)];
        database.claim(H, &me, &claims, LEASE_MS, T0).await.unwrap();
        let ended = finished(&claims, 1);
        let applying = ReadModel::apply(&database, batch(&me, n, ended.clone()));
        if n.is_multiple_of(5) {
            drop(applying.now_or_never());
        } else {
            drop(tokio::time::timeout(Duration::from_micros(n % 30 * 100), applying).await);
        }
        // What was given up may still run, for a moment: it must not end between two of these looks.
        let key = DocumentKey { collection: "accounts".into(), id: format!("d{n}") };
        let row = ClaimFilter { event_ids: vec![claims[0].event_id], limit: 1, ..ClaimFilter::default() };
        let is_done = async || database.rows(&row).await.unwrap()[0].status == "done";
        let done = loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let before = is_done().await;
            let written = database.documents(Some("live"), std::slice::from_ref(&key)).await.unwrap()[0].is_some();
            let moved = database.checkpoints().await.unwrap().first().is_some_and(|(_, _, at)| at.0 == n);
            if is_done().await == before {
                assert_eq!((written, moved), (before, before), "batch {n}");
                break before;
            }
        };
        if !done {
            nothing += 1;
            // Unless it has landed since, which only its own claim allows.
            let fenced = ReadModel::apply(&database, batch(&me, n, ended)).await.unwrap().fenced;
            assert!(fenced.is_empty() || is_done().await, "batch {n}");
        }
    }
    assert!(nothing > 0, "nothing was given up half-way");
}

#[tokio::test]
async fn one_call_is_one_round_trip() {
    let postgres = Postgres::create().await;
    let metrics = Metrics::new();
    let database = Database::at(&postgres.url(), &metrics).unwrap();
    assert!(database.try_open().await.unwrap().is_some());
    let sent = || metrics.sql(Sql::Read).get() + metrics.sql(Sql::Write).get();
    let me = owner("host:a", 1);
    let claims: Vec<Claim> = (1..=200).map(claim).collect();
    let before = sent();
    database.claim(H, &me, &claims, LEASE_MS, T0).await.unwrap();
    assert_eq!(sent() - before, 1);
    ReadModel::apply(&database, batch(&me, 1, finished(&claims, 1))).await.unwrap();
    assert_eq!(sent() - before, 2);
}

#[tokio::test]
async fn statements_of_the_busy_path_seek_and_never_walk() {
    use sqlx::{AssertSqlSafe, Executor as _, Row as _};
    let postgres = Postgres::create().await;
    let database = open(&postgres).await;
    let mut connection = database.inner.pool.connect().await.unwrap();
    connection.execute("SET plan_cache_mode = force_generic_plan").await.unwrap();
    let busy =
        [super::index::BUSY_SQL, super::registry::BUSY_SQL, super::read_model::BUSY_SQL, super::search::BUSY_SQL]
            .concat();
    for sql in busy {
        let count = (1..100).rev().find(|n| sql.contains(&format!("${n}"))).unwrap();
        let nothing = vec!["NULL"; count].join(", ");
        connection.execute(AssertSqlSafe(format!("PREPARE busy AS {sql}"))).await.unwrap();
        let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE busy ({nothing})"));
        let plan = connection.fetch_all(explain).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        connection.execute("DEALLOCATE busy").await.unwrap();
        // Sought by the whole key: what all rows of a consumer or build have in common is no way to one of them.
        let walks = ["Seq Scan on", "Cond: (handler = ", "Cond: (build = "];
        // There are as many live builds as projections.
        let mut large = plan.iter().filter(|line| !line.contains("projection_builds"));
        let walks = large.any(|line| walks.iter().any(|walk| line.contains(walk)));
        assert!(!walks, "{sql}\n{}", plan.join("\n"));
    }
}

#[tokio::test]
async fn runs_are_counted_for_every_process_and_outlive_a_rebuild() {
    let postgres = Postgres::create().await;
    let (one, two) = (open(&postgres).await, open(&postgres).await);
    assert_eq!(one.next_run("host:a").await.unwrap(), 1);
    assert_eq!(two.next_run("host:a").await.unwrap(), 2);
    assert_eq!(two.next_run("host:b").await.unwrap(), 1);
    bind_anew(&one).await;
    assert_eq!(one.next_run("host:a").await.unwrap(), 3);
}

#[tokio::test]
async fn one_process_opens_at_a_time() {
    let postgres = Postgres::create().await;
    let (one, two) = (Database::at(&postgres.url(), &Metrics::new()), Database::at(&postgres.url(), &Metrics::new()));
    let (one, two) = (one.unwrap(), two.unwrap());
    let turn = one.try_open().await.unwrap().unwrap();
    assert!(two.try_open().await.unwrap().is_none());
    turn.done().await;
    while two.try_open().await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_told_at_once_and_a_wrong_password_for_good() {
    let postgres = Postgres::create().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let away = Database::at(&postgres.url_at(&nobody), &Metrics::new()).unwrap();
    assert!(matches!(away.store_id().await.unwrap_err(), Error::Unavailable { .. }));
    assert!(away.trouble().is_some());
    let stranger =
        postgres.url().replacen("postgres:svc@", "postgres:other@", 1).replacen("//postgres:", "//nobody:", 1);
    let refused = Database::at(&stranger, &Metrics::new()).unwrap().store_id().await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
}

#[tokio::test]
async fn a_server_with_another_history_is_refused_until_the_process_begins_anew() {
    let postgres = Postgres::create().await;
    let database = open(&postgres).await;
    let before = database.inner.pool.history_of_another_server();
    database.close().await;
    let refused = database.look_after().await.unwrap_err();
    assert!(matches!(&refused, Error::Refused { reason, .. } if reason.contains(&before)), "{refused}");
    open(&postgres).await.look_after().await.unwrap();
}

#[tokio::test]
async fn tables_that_went_are_told_with_the_way_out() {
    let postgres = Postgres::create().await;
    let database = empty(&postgres).await;
    postgres.execute("DROP SCHEMA spice_event_registry CASCADE").await;
    let error = database.store_id().await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable { reason, .. } if reason.contains("start this process again")),
        "{error}"
    );
    assert_eq!(open(&postgres).await.store_id().await.unwrap(), None);
}

#[tokio::test]
async fn a_schema_of_a_newer_version_is_refused_with_the_way_out() {
    let postgres = Postgres::create().await;
    open(&postgres).await.close().await;
    let newer = "INSERT INTO spice_event_registry._sqlx_migrations VALUES (9999, 'of tomorrow', now(), true, '', 0)";
    postgres.execute(newer).await;
    let database = Database::at(&postgres.url(), &Metrics::new()).unwrap();
    let error = database.try_open().await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason.contains("drop the schema")), "{error}");
}
