//! What the registry keeps in memory, and what of it is in the file when the process dies.

use super::*;
use crate::port::read_model::ReadModel as _;
use crate::port::registry::{Registry as _, Status};

const WORKER: &str = "Account:worker";

fn claim(n: u64) -> Claim {
    Claim { event_id: Uuid::from_u128(n.into()), aggregate_id: "a".into(), sequence: Sequence(n) }
}

async fn claimed(database: &Database, consumer: &str, by: &Owner, n: u64) -> Claimed {
    database.claim(consumer, by, &[claim(n)], 1000, T0).await.unwrap().remove(0)
}

/// Opens the file as the next run finds it: nothing is written by this one any more.
async fn after_a_crash(file: &Path) -> Database {
    Database::open(file).await.unwrap()
}

async fn stored(database: &Database) -> Vec<(String, i64)> {
    let sql = "SELECT status, sequence_number FROM processed_events ORDER BY sequence_number";
    let rows = database.inner.readers.run(sql, Arguments::default()).await.unwrap();
    rows.iter().map(|row| (row.get_unchecked(0), row.get_unchecked(1))).collect()
}

async fn version(database: &Database, consumer: &str) -> Option<i64> {
    let sql = "SELECT last_sequence FROM aggregate_versions WHERE handler = $1 AND aggregate_id = 'a'";
    let rows = database.inner.readers.run(sql, Arguments::default().with(consumer.to_owned())).await.unwrap();
    rows.first().map(|row| row.get_unchecked(0))
}

#[tokio::test]
async fn a_claim_costs_no_row_and_its_end_is_written_with_the_checkpoint() {
    let (folder, me) = (Folder::new(), me());
    let file = folder.path();
    let database = Database::open(&file).await.unwrap();
    let claims = [claim(1), claim(2)];
    database.claim(WORKER, &me, &claims, 1000, T0).await.unwrap();
    assert!(database.done(WORKER, &me, &finished(&claims[..1]), T0).await.unwrap().is_empty());
    assert_eq!(version(&database, WORKER).await, None);
    database.set_checkpoint(WORKER, P0, Position(7), None).await.unwrap();
    assert_eq!((version(&database, WORKER).await, stored(&database).await), (Some(1), vec![]));
    let next = after_a_crash(&file).await;
    assert_eq!(next.checkpoints().await.unwrap(), [(WORKER.into(), P0, Position(7))]);
    assert_eq!(claimed(&next, WORKER, &me, 1).await, Claimed::Stale);
    // The open one is forgotten, with its attempt.
    assert_eq!(claimed(&next, WORKER, &me, 2).await, Claimed::Yes { attempt: 1 });
}

#[tokio::test]
async fn an_open_claim_that_is_passed_gets_a_row_and_is_not_taken_for_handled() {
    let (folder, me) = (Folder::new(), me());
    let file = folder.path();
    let database = Database::open(&file).await.unwrap();
    let claims = [claim(1), claim(3)];
    for consumer in [WORKER, PROJECTION] {
        database.claim(consumer, &me, &claims, 1000, T0).await.unwrap();
    }
    database.done(WORKER, &me, &finished(&claims[1..]), T0).await.unwrap();
    let passing = Batch { finished: finished(&claims[1..]), ..batch(&me, &segment(0, 1)) };
    assert!(database.read_model().apply(passing).await.unwrap().fenced.is_empty());
    database.settle().await.unwrap();
    let next = after_a_crash(&file).await;
    for consumer in [WORKER, PROJECTION] {
        // Its process is gone, whoever that was.
        let other = Owner { name: "host:b".into(), run: 1 };
        assert_eq!(claimed(&next, consumer, &other, 1).await, Claimed::Yes { attempt: 2 }, "{consumer}");
        assert_eq!(claimed(&next, consumer, &me, 2).await, Claimed::Stale);
    }
}

#[tokio::test]
async fn what_is_parked_has_a_row_before_a_batch_moves_the_checkpoint_past_it() {
    let (folder, me) = (Folder::new(), me());
    let file = folder.path();
    let database = Database::open(&file).await.unwrap();
    let claims = [claim(1), claim(3)];
    database.claim(PROJECTION, &me, &claims, 1000, T0).await.unwrap();
    let parked = finished(&claims[..1]);
    database.fail(PROJECTION, &me, &parked, Status::Parked, "no room", T0).await.unwrap();
    let passing = Batch { finished: finished(&claims[1..]), ..batch(&me, &segment(0, 1)) };
    assert!(database.read_model().apply(passing).await.unwrap().fenced.is_empty());
    let next = after_a_crash(&file).await;
    assert_eq!(next.checkpoints().await.unwrap().len(), 1);
    assert_eq!(stored(&next).await, [("parked".to_owned(), 1)]);
}

#[tokio::test]
async fn an_effect_whose_version_a_crash_forgot_changes_nothing_when_it_comes_again() {
    let (folder, me) = (Folder::new(), me());
    let file = folder.path();
    let database = Database::open(&file).await.unwrap();
    let rows = segment(0, 1);
    let wanted = claims(&rows, EventKind::Domain);
    database.claim(PROJECTION, &me, &wanted, 1000, T0).await.unwrap();
    assert!(database.read_model().apply(batch(&me, &rows)).await.unwrap().fenced.is_empty());
    assert_eq!(database.claim(PROJECTION, &me, &wanted, 1000, T0).await.unwrap(), [Claimed::DuplicateDone]);
    let body = async |database: &Database| {
        let sql = "SELECT version, body FROM documents";
        let rows = database.inner.readers.run(sql, Arguments::default()).await.unwrap();
        rows.iter().map(|row| (row.get_unchecked(0), row.get_unchecked(1))).collect::<Vec<(i64, String)>>()
    };
    let before = body(&database).await;
    let next = after_a_crash(&file).await;
    assert_eq!(next.claim(PROJECTION, &me, &wanted, 1000, T0).await.unwrap(), [Claimed::Yes { attempt: 1 }]);
    assert!(next.read_model().apply(batch(&me, &rows)).await.unwrap().fenced.is_empty());
    assert_eq!((before.len(), body(&next).await), (1, before));
    next.settle().await.unwrap();
    let last = after_a_crash(&file).await;
    assert_eq!(last.claim(PROJECTION, &me, &wanted, 1000, T0).await.unwrap(), [Claimed::Stale]);
}

#[tokio::test]
async fn failed_and_parked_rows_are_found_again() {
    let (folder, me) = (Folder::new(), me());
    let file = folder.path();
    let database = Database::open(&file).await.unwrap();
    let claims = [claim(1), claim(2), claim(3)];
    database.claim(WORKER, &me, &claims, 1000, T0).await.unwrap();
    let ended = finished(&claims);
    for (events, status) in [(&ended[..1], Status::Failed), (&ended[1..], Status::Parked)] {
        assert!(database.fail(WORKER, &me, events, status, "why", T0).await.unwrap().is_empty());
    }
    database.settle().await.unwrap();
    let next = after_a_crash(&file).await;
    assert_eq!(claimed(&next, WORKER, &me, 1).await, Claimed::Yes { attempt: 2 });
    assert_eq!(claimed(&next, WORKER, &me, 2).await, Claimed::Parked);
    assert!(next.release(WORKER, claim(3).event_id, T0).await.unwrap());
    assert_eq!(claimed(&next, WORKER, &me, 3).await, Claimed::Yes { attempt: 2 });
    let filter = ClaimFilter { event_ids: vec![claim(1).event_id], limit: 1, ..ClaimFilter::default() };
    let row = next.rows(&filter).await.unwrap().remove(0);
    assert_eq!((row.status.as_str(), row.last_error.as_deref()), ("processing", Some("why")));
}

#[tokio::test]
async fn what_the_file_has_as_done_stays_done() {
    let (folder, me) = (Folder::new(), me());
    let database = folder.empty().await;
    let rows = segment(0, 1);
    let wanted = claims(&rows, EventKind::Domain);
    database.claim(PROJECTION, &me, &wanted, 1000, T0).await.unwrap();
    let failed = finished(&wanted).remove(0);
    assert!(
        database
            .fail(PROJECTION, &me, std::slice::from_ref(&failed), Status::Failed, "why", T0)
            .await
            .unwrap()
            .is_empty()
    );
    database.settle().await.unwrap();
    database.claim(PROJECTION, &me, &wanted, 1000, T0).await.unwrap();
    let again = Finished { attempt: 2, ..failed };
    database.read_model().apply(Batch { finished: vec![again], ..batch(&me, &rows) }).await.unwrap();
    assert_eq!(stored(&database).await[0].0, "done");
    // As if the answer had been lost: the claim is open in memory.
    database.inner.ledger.lock().claim(PROJECTION, &me, &wanted, 1000, T0, Default::default());
    let filter = ClaimFilter { event_ids: vec![wanted[0].event_id], limit: 1, ..ClaimFilter::default() };
    assert_eq!(database.rows(&filter).await.unwrap()[0].status, "done");
    assert_eq!(database.rows(&ClaimFilter { limit: 9, ..ClaimFilter::default() }).await.unwrap()[0].status, "done");
    assert_eq!(database.read_model().apply(batch(&me, &rows)).await.unwrap().fenced, [wanted[0].event_id]);
    let answers = database.claim(PROJECTION, &me, &wanted, 1000, T0).await.unwrap();
    assert_eq!(answers, [Claimed::DuplicateDone]);
}

#[tokio::test]
async fn whoever_looks_at_rows_sees_what_ended_since_the_last_checkpoint() {
    let (folder, me) = (Folder::new(), me());
    let database = folder.empty().await;
    let claims = [claim(1), claim(2)];
    database.claim(WORKER, &me, &claims, 1000, T0).await.unwrap();
    database.done(WORKER, &me, &finished(&claims[..1]), T0).await.unwrap();
    let all = ClaimFilter { limit: 9, ..ClaimFilter::default() };
    let statuses =
        async || -> Vec<String> { database.rows(&all).await.unwrap().into_iter().map(|row| row.status).collect() };
    assert_eq!(statuses().await, ["done", "processing"]);
    // What has a row keeps it.
    database.done(WORKER, &me, &finished(&claims[1..]), T0).await.unwrap();
    database.set_checkpoint(WORKER, P0, Position(7), None).await.unwrap();
    assert_eq!(statuses().await, ["done", "done"]);
}

#[tokio::test]
async fn many_ended_claims_do_not_wait_for_a_checkpoint() {
    let (folder, me) = (Folder::new(), me());
    let database = folder.empty().await;
    for first in [1, 5_001] {
        let claims: Vec<Claim> = (first..first + 5_000).map(claim).collect();
        database.claim(WORKER, &me, &claims, 1000, T0).await.unwrap();
        database.done(WORKER, &me, &finished(&claims), T0).await.unwrap();
    }
    assert_eq!(version(&database, WORKER).await, Some(5_000));
}
