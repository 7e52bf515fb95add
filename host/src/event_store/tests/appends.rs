//! What one writer's appends give, and what readers then see.

use super::*;
use crate::domain::EventKind;

fn conflict(error: &AppendError) -> (Option<u64>, u64) {
    match error {
        AppendError::Conflict { expected, actual, .. } => (*expected, *actual),
        other => panic!("no conflict: {other}"),
    }
}

#[tokio::test]
async fn numbers_are_dense_and_lines_are_the_stored_bytes() {
    let (objects, process) = fresh().await;
    assert!(process.report.created && process.report.rebuilt.is_none());
    let (store, a, b) = (&process.store, account("a"), account("b"));
    let first = store.append(command(1, &a, Expected::Any)).await.unwrap();
    assert_eq!((numbers(&first), first.replayed), (vec![1], false));
    assert_eq!(numbers(&store.append(outcome(1, 1, &a, 2, Expected::LastDomain(Sequence(0)))).await.unwrap()), [2, 3]);
    store.append(command(2, &b, Expected::Client(0))).await.unwrap();
    let log = store.read(Partition(0), Position(0), 100).await.unwrap();
    assert_eq!(log.iter().map(|record| record.position.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(store.end(Partition(0)), Position(4));
    let envelope = log[1].envelope().unwrap();
    assert_eq!((envelope.sequence_number, envelope.event_id), (Sequence(2), log[1].event_id));
    let object = objects.get("events/0000/000000000000/0000000000000001.ndjson").await.unwrap().unwrap();
    let line = object.split(|b| *b == b'\n').nth(1).unwrap().to_vec();
    assert_eq!(line, log[1].line);
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_answered_reads_what_was_written() {
    let (_, process) = fresh().await;
    let (store, a) = (&process.store, account("a"));
    for n in 0..500 {
        let written = store.append(command(u128::from(n) + 1, &a, Expected::Any)).await.unwrap();
        assert_eq!(store.end(Partition(0)), Position(n + 1));
        let read = store.read(Partition(0), Position(n), 10).await.unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].event_id, written.records[0].event_id);
    }
    process.end().await;
}

#[tokio::test]
async fn the_same_command_again_gives_the_first_answer_and_other_content_is_refused() {
    let (_, process) = fresh().await;
    let (store, a) = (&process.store, account("a"));
    let first = store.append(command(1, &a, Expected::Client(0))).await.unwrap();
    store.append(command(2, &a, Expected::Any)).await.unwrap();
    for indexed in [false, true] {
        let again = store.append(command(1, &a, Expected::Missing)).await.unwrap();
        assert!(again.replayed);
        assert_eq!(again.records[0].line, first.records[0].line);
        let mut other = command(1, &a, Expected::Any);
        other.drafts = vec![command_draft(Uuid::from_u128(1), &a, r#"{"x":1}"#)];
        assert!(matches!(store.append(other).await, Err(AppendError::Mismatch { .. })));
        let elsewhere = store.append(command(1, &account("b"), Expected::Any)).await;
        assert!(matches!(elsewhere, Err(AppendError::Mismatch { .. })));
        if !indexed {
            let mut indexed = store.watch_indexed(Partition(0));
            indexed.wait_for(|position| *position == Position(2)).await.unwrap();
        }
    }
    process.end().await;
}

#[tokio::test]
async fn twins_in_one_batch_are_written_once() {
    let (_, process) = fresh().await;
    let (store, a) = (&process.store, account("a"));
    let mut other = command(1, &a, Expected::Any);
    other.drafts = vec![command_draft(Uuid::from_u128(1), &a, r#"{"x":1}"#)];
    let twins = vec![command(1, &a, Expected::Any), command(1, &a, Expected::Client(0)), other];
    let answers = store.append_all(twins).await;
    assert!(!answers[0].as_ref().unwrap().replayed);
    assert!(answers[1].as_ref().unwrap().replayed);
    assert!(matches!(answers[2], Err(AppendError::Mismatch { .. })));
    assert_eq!(store.end(Partition(0)), Position(1));
    process.end().await;
}

#[tokio::test]
async fn expected_seq_follows_the_rule_of_the_contract() {
    let (_, process) = fresh().await;
    let (store, a) = (&process.store, account("a"));
    assert_eq!(conflict(&store.append(command(9, &a, Expected::Missing)).await.unwrap_err()), (None, 0));
    assert_eq!(conflict(&store.append(command(9, &a, Expected::Client(1))).await.unwrap_err()), (Some(1), 0));
    store.append(command(1, &a, Expected::Client(0))).await.unwrap(); // 1
    store.append(command(2, &a, Expected::Client(1))).await.unwrap(); // 2, without waiting for an outcome
    store.append(outcome(1, 1, &a, 1, Expected::LastDomain(Sequence(0)))).await.unwrap(); // 3
    // 2 is the last command and only outcomes follow it; 3 is the last event; 1 is neither.
    assert_eq!(conflict(&store.append(command(9, &a, Expected::Client(1))).await.unwrap_err()), (Some(1), 3));
    assert_eq!(conflict(&store.append(command(9, &a, Expected::Client(0))).await.unwrap_err()), (Some(0), 3));
    store.append(command(3, &a, Expected::Client(2))).await.unwrap(); // 4
    store.append(outcome(2, 2, &a, 1, Expected::LastDomain(Sequence(3)))).await.unwrap(); // 5
    store.append(command(4, &a, Expected::Client(5))).await.unwrap(); // 6
    assert_eq!(store.head(&a).await.unwrap().last, Sequence(6));
    process.end().await;
}

#[tokio::test]
async fn an_outcome_is_written_once_whole_and_adopted_by_whoever_comes_later() {
    let (_, process) = fresh().await;
    let (store, a) = (&process.store, account("a"));
    store.append(command(1, &a, Expected::Any)).await.unwrap();
    assert!(store.outcome(Uuid::from_u128(1)).await.unwrap().is_empty());
    let stored = store.append(outcome(1, 1, &a, 3, Expected::LastDomain(Sequence(0)))).await.unwrap();
    // Another worker decided otherwise, with fewer events, on the view before: what is recorded holds.
    let late = store.append(outcome(1, 1, &a, 1, Expected::LastDomain(Sequence(0)))).await.unwrap();
    assert!(late.replayed);
    assert_eq!(numbers(&late), numbers(&stored));
    assert_eq!(store.outcome(Uuid::from_u128(1)).await.unwrap().len(), 3);
    // A second command's outcome on a view that lacks the first one's is fenced.
    store.append(command(2, &a, Expected::Any)).await.unwrap();
    let fenced = store.append(outcome(2, 5, &a, 1, Expected::LastDomain(Sequence(0)))).await.unwrap_err();
    assert_eq!(conflict(&fenced), (Some(0), 5));
    let unknown = store.append(outcome(9, 9, &a, 1, Expected::Any)).await.unwrap_err();
    assert!(matches!(unknown, AppendError::Malformed { .. }));
    process.end().await;
}

#[tokio::test]
async fn chained_outcomes_share_a_segment_and_fail_with_the_one_before() {
    let (_, process) = fresh().await;
    let (store, a) = (&process.store, account("a"));
    let commands = (1..=4).map(|n| command(n, &a, Expected::Any)).collect();
    assert!(store.append_all(commands).await.iter().all(Result::is_ok));
    let answers = store
        .append_all(vec![
            outcome(1, 1, &a, 2, Expected::LastDomain(Sequence(0))),
            outcome(2, 2, &a, 1, Expected::Chained),
        ])
        .await;
    let written: Vec<_> = answers.iter().map(|answer| answer.as_ref().unwrap()).collect();
    assert_eq!((numbers(written[0]), numbers(written[1])), (vec![5, 6], vec![7]));
    assert_eq!(written[0].records[0].segment, written[1].records[0].segment);
    // The first is replayed: what the second was decided on is not what was written now.
    let answers = store
        .append_all(vec![
            outcome(2, 2, &a, 1, Expected::LastDomain(Sequence(0))),
            outcome(3, 3, &a, 1, Expected::Chained),
        ])
        .await;
    assert!(answers[0].as_ref().unwrap().replayed);
    assert_eq!(conflict(answers[1].as_ref().unwrap_err()).1, 7);
    process.end().await;
}

#[tokio::test]
async fn an_append_over_the_limits_or_of_no_form_is_refused() {
    let (_, process) = fresh().await;
    let (store, a, b) = (&process.store, account("a"), account("b"));
    let none = Append { drafts: vec![], ..command(1, &a, Expected::Any) };
    let other = Append { aggregate: b, ..command(1, &a, Expected::Any) };
    let mut mixed = command(1, &a, Expected::Any);
    mixed.drafts.push(event_draft(Uuid::from_u128(1), 0, &a));
    for append in [none, other, mixed] {
        assert!(matches!(store.append(append).await, Err(AppendError::Malformed { .. })));
    }
    store.append(command(1, &a, Expected::Any)).await.unwrap();
    let large = store.append(outcome(1, 1, &a, 4097, Expected::Any)).await;
    assert!(matches!(large, Err(AppendError::TooLarge { events: 4097, .. })));
    process.end().await;
}

#[tokio::test]
async fn readers_see_the_same_from_memory_index_and_segments() {
    let (objects, process) = fresh().await;
    let (store, a) = (&process.store, account("a"));
    for n in 0..10u64 {
        store.append(command(u128::from(n) + 1, &a, Expected::Any)).await.unwrap();
        store.append(command(u128::from(n) + 100, &account(&format!("b{n}")), Expected::Any)).await.unwrap();
    }
    let ids: Vec<Uuid> = [1u128, 105, 999, 10].map(Uuid::from_u128).into();
    let read = async |store: &EventStore| {
        let stream = store.stream(&a, Sequence(3), 4).await.unwrap();
        assert_eq!(stream.iter().map(|r| r.sequence.0).collect::<Vec<_>>(), [4, 5, 6, 7]);
        assert!(store.stream(&a, Sequence(10), 4).await.unwrap().is_empty());
        let asked = [(a.clone(), 8), (account("nobody"), 0), (account("b3"), 0), (a.clone(), 0), (a.clone(), 10)];
        let several = store.streams(&asked.map(|(aggregate, after)| (aggregate, Sequence(after))), 3).await.unwrap();
        let numbers = several.iter().map(|records| records.iter().map(|r| r.sequence.0).collect());
        assert_eq!(numbers.collect::<Vec<Vec<_>>>(), [vec![9, 10], vec![], vec![1], vec![1, 2, 3], vec![]]);
        assert_eq!(several[2][0].aggregate, account("b3"));
        let found = store.find(&ids).await.unwrap();
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, true]);
        let tail = store.read(Partition(0), Position(5), 7).await.unwrap();
        assert_eq!(tail.iter().map(|r| r.position.0).collect::<Vec<_>>(), (5..12).collect::<Vec<_>>());
        assert_eq!(store.segment_of(Partition(0), Position(7)).await.unwrap(), tail[2].segment);
        assert_eq!(store.segment_of(Partition(0), Position(20)).await.unwrap().0, tail[6].segment.0 + 9);
        let names = store.aggregates("Account", Some("b2"), 3).await.unwrap();
        assert_eq!(names.iter().map(|a| a.id.as_str().to_owned()).collect::<Vec<_>>(), ["b3", "b4", "b5"]);
        assert!(tail.iter().all(|record| record.kind == EventKind::Command));
        stream.into_iter().chain(tail).map(|record| record.line).collect::<Vec<_>>()
    };
    let live = read(store).await;
    process.end().await;
    // A new process with the index, one without, and one that keeps nothing in memory.
    let index: Arc<dyn Index> = Arc::new(MemoryIndex::new());
    let small = Options { recent_bytes_max: 0, cache_bytes_max: 0, heads_max: 2, ..options() };
    for (index, options, rebuilt) in [
        (index.clone(), options(), Some(Rebuilt::Empty)),
        (index.clone(), options(), None),
        (index.clone(), small.clone(), None),
        (Arc::new(MemoryIndex::new()), small, Some(Rebuilt::Empty)),
    ] {
        let process = start(objects.clone(), index, options).await;
        assert_eq!(process.report.rebuilt, rebuilt);
        assert_eq!(process.report.folded_events, if rebuilt.is_some() { 20 } else { 0 });
        assert_eq!(read(&process.store).await, live);
        process.end().await;
    }
}

/// Segments a log holds.
async fn segments(objects: &MemoryStore) -> usize {
    objects.list("events/", None, 1_000).await.unwrap().keys.len()
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_busy_committer_waits_for_company_and_an_idle_one_does_not() {
    let objects = Arc::new(MemoryStore::new());
    let (clock, options) = (clock(1), Options { commit_linger: Some(Linger { ms: 12, requests_min: 8 }), ..options() });
    let process = start_with(objects.clone(), Arc::new(MemoryIndex::new()), options, clock.clone()).await;
    let one = |n: u128| process.store.append(command(n, &account(&n.to_string()), Expected::Any));
    one(1).await.unwrap();
    assert_eq!(segments(&objects).await, 1, "the first does not wait");
    let many: Vec<Append> = (2..12).map(|n| command(n, &account(&n.to_string()), Expected::Any)).collect();
    process.store.append_all(many).await.into_iter().for_each(|done| drop(done.unwrap()));
    assert_eq!(segments(&objects).await, 2, "nor does the first of many");
    let company = async {
        settle().await;
        assert_eq!(segments(&objects).await, 2, "after many, there may be more to come");
        let late = one(13);
        let pass = async {
            settle().await;
            clock.advance(std::time::Duration::from_millis(12));
        };
        let (late, ()) = tokio::join!(late, pass);
        late.unwrap();
    };
    let (first, ()) = tokio::join!(one(12), company);
    first.unwrap();
    assert_eq!(segments(&objects).await, 3, "both are in one segment");
    one(14).await.unwrap();
    assert_eq!(segments(&objects).await, 4, "two are not many");
    process.end().await;
}

#[tokio::test]
async fn a_write_is_a_look_for_what_others_wrote() {
    let objects = Arc::new(MemoryStore::new());
    let one = start(objects.clone(), Arc::new(MemoryIndex::new()), options()).await;
    let two = start(objects.clone(), Arc::new(MemoryIndex::new()), options()).await;
    for n in 1..4u128 {
        two.store.append(command(n, &account("theirs"), Expected::Any)).await.unwrap();
        let mine = account(&format!("mine-{n}"));
        let (written, seen) =
            tokio::join!(one.store.append(command(100 + n, &mine, Expected::Any)), one.store.caught_up(Partition(0)));
        written.unwrap();
        seen.unwrap();
        assert_eq!(one.store.head(&account("theirs")).await.unwrap().last.0, u64::try_from(n).unwrap());
        two.store.caught_up(Partition(0)).await.unwrap();
        assert_eq!(two.store.end(Partition(0)), one.store.end(Partition(0)));
    }
    one.end().await;
    two.end().await;
}

#[tokio::test]
async fn streams_that_share_a_segment_read_it_once_however_large_it_is() {
    let (objects, index) = (Arc::new(MemoryStore::new()), Arc::new(MemoryIndex::new()));
    let process = start(objects.clone(), index.clone(), options()).await;
    let payload = format!("{{\"note\":\"{}\"}}", "n".repeat(300_000));
    let accounts: Vec<Aggregate> = (0..10).map(|n| account(&format!("a{n}"))).collect();
    let appends = accounts.iter().zip(1..).map(|(account, id)| {
        let drafts = vec![command_draft(Uuid::from_u128(id), account, &payload)];
        Append { drafts, ..command(id, account, Expected::Any) }
    });
    let appended = process.store.append_all(appends.collect()).await;
    assert!(appended.iter().all(|appended| appended.as_ref().unwrap().records[0].segment == SegmentNumber(0)));
    process.end().await;
    let small = Options { recent_bytes_max: 0, cache_bytes_max: 4 << 20, ..options() };
    let process = start(objects.clone(), index, small).await;
    let first = process.store.stream(&accounts[0], Sequence(0), 10).await.unwrap();
    objects.delete(&crate::codec::segment::key(Partition(0), SegmentNumber(0))).await.unwrap();
    for account in &accounts {
        let records = process.store.stream(account, Sequence(0), 10).await.unwrap();
        assert_eq!((records.len(), records[0].line.len()), (1, first[0].line.len()));
    }
    process.end().await;
}
