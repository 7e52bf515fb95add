//! What every read model must do. Each function takes an empty one and the registry that keeps its claims.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{AppliedBatch, Batch, Change, DocumentKey, Edge, EventChanges, Filter, Node, Operator, Query, ReadModel};
use crate::domain::{Aggregate, Partition, Position, Sequence, Timestamp};
use crate::port::registry::{Claim, ClaimFilter, Claimed, Finished, Owner, Registry};

pub mod builds;

const CONSUMER: &str = "projection_worker:account_events";
const LIVE: &str = "live";
const T0: Timestamp = Timestamp(1_765_929_600_000);

/// Runs all of it.
pub async fn all<M: builds::Model, R: Registry>(empty: impl AsyncFn() -> (M, R)) {
    a_batch_is_applied_once_with_its_claims(&empty().await).await;
    a_stale_write_changes_nothing(&empty().await).await;
    the_last_write_of_an_event_counts(&empty().await).await;
    a_removed_document_stays_removed(&empty().await).await;
    any_order_of_events_leaves_what_the_right_order_leaves(&empty().await).await;
    a_lost_claim_applies_nothing_of_its_event(&empty().await).await;
    a_foreign_write_refuses_the_batch(&empty().await).await;
    an_event_found_foreign_claims_nothing(&empty().await).await;
    builds_are_apart(&empty().await).await;
    edges_are_replaced_as_sets_and_found_from_both_ends(&empty().await).await;
    checkpoints_only_move_forward(&empty().await).await;
    documents_are_searched_by_words(&empty().await).await;
    words_follow_every_change(&empty().await).await;
    documents_are_filtered_by_fields(&empty().await).await;
    searches_are_paged_in_byte_order(&empty().await).await;
    texts_are_kept_to_the_byte(&empty().await).await;
    builds::all(empty).await;
}

fn owner() -> Owner {
    Owner { name: "host:a".into(), run: 1 }
}

fn aggregate(id: &str) -> Aggregate {
    Aggregate::parse("Account", id).unwrap()
}

fn key(id: &str) -> DocumentKey {
    DocumentKey { collection: "accounts".into(), id: id.into() }
}

fn put(id: &str, body: &Value) -> Change {
    Change::Put { key: key(id), body: Arc::from(RawValue::from_string(body.to_string()).unwrap()) }
}

fn node(id: &str) -> Node {
    Node { kind: "Account".into(), id: id.into() }
}

fn event_id(aggregate: &str, version: u64) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("{aggregate}:{version}").as_bytes())
}

fn event(by: &str, version: u64, changes: Vec<Change>) -> EventChanges {
    EventChanges { event_id: event_id(by, version), owner: aggregate(by), version, changes }
}

fn batch<'a>(owner: &'a Owner, events: Vec<EventChanges>) -> Batch<'a> {
    Batch {
        consumer: CONSUMER,
        build: LIVE,
        begun: None,
        owner,
        events,
        finished: Vec::new(),
        checkpoint: None,
        now: T0,
    }
}

/// Applies events that carry no claims, as a rebuild does.
async fn apply(model: &impl ReadModel, events: Vec<EventChanges>) -> AppliedBatch {
    let owner = owner();
    model.apply(batch(&owner, events)).await.unwrap()
}

async fn applied(model: &impl ReadModel, events: Vec<EventChanges>) {
    let result = apply(model, events).await;
    assert!(result.fenced.is_empty() && result.foreign.is_empty(), "{result:?}");
}

async fn body(model: &impl ReadModel, id: &str) -> Option<Value> {
    let found = model.documents(Some(LIVE), &[key(id)]).await.unwrap().remove(0)?;
    Some(serde_json::from_str(found.body.get()).unwrap())
}

async fn claim(registry: &impl Registry, by: &Owner, aggregate: &str, versions: &[u64]) -> Vec<Finished> {
    let claims: Vec<_> = versions
        .iter()
        .map(|version| Claim {
            event_id: event_id(aggregate, *version),
            aggregate_id: aggregate.into(),
            sequence: Sequence(*version),
        })
        .collect();
    let answers = registry.claim(CONSUMER, by, &claims, 1000, T0).await.unwrap();
    let finished = |(claim, answer): (Claim, Claimed)| {
        let Claimed::Yes { attempt } = answer else { panic!("{answer:?}") };
        Finished { event_id: claim.event_id, aggregate_id: claim.aggregate_id, sequence: claim.sequence, attempt }
    };
    claims.into_iter().zip(answers).map(finished).collect()
}

async fn statuses(registry: &impl Registry) -> Vec<(u64, String)> {
    let rows = registry.rows(&ClaimFilter { limit: 100, ..ClaimFilter::default() }).await.unwrap();
    let mut found: Vec<_> = rows.into_iter().map(|row| (row.sequence_number, row.status)).collect();
    found.sort();
    found
}

type Both<M, R> = (M, R);

async fn a_batch_is_applied_once_with_its_claims((model, registry): &Both<impl ReadModel, impl Registry>) {
    let me = owner();
    let finished = claim(registry, &me, "a", &[1, 2]).await;
    let events = vec![
        event("a", 1, vec![put("a", &json!({"n": 1}))]),
        event("a", 2, vec![put("a", &json!({"n": 2})), put("a2", &json!({"n": 2}))]),
    ];
    let whole = Batch {
        finished: finished.clone(),
        checkpoint: Some((Partition(0), Position(7))),
        ..batch(&me, events.clone())
    };
    let result = model.apply(whole.clone()).await.unwrap();
    assert!(result.fenced.is_empty() && result.foreign.is_empty());
    assert_eq!(body(model, "a").await, Some(json!({"n": 2})));
    let found = model.documents(Some(LIVE), &[key("none"), key("a2"), key("a2")]).await.unwrap();
    assert!(found[0].is_none());
    let document = found[2].as_ref().unwrap();
    assert_eq!((&document.owner, document.version, &document.key), (&aggregate("a"), 2, &key("a2")));
    assert_eq!(statuses(registry).await, [(1, "done".into()), (2, "done".into())]);
    assert_eq!(model.checkpoints().await.unwrap(), [(CONSUMER.into(), Partition(0), Position(7))]);
    // The claims advanced the aggregate's version.
    let late = Claim { event_id: Uuid::nil(), aggregate_id: "a".into(), sequence: Sequence(2) };
    assert_eq!(registry.claim(CONSUMER, &me, &[late], 1000, T0).await.unwrap(), [Claimed::Stale]);
    // Repeated after an answer that was lost: nothing is ours any more, nothing changes.
    let again = model.apply(whole).await.unwrap();
    assert_eq!(again.fenced, finished.iter().map(|f| f.event_id).collect::<Vec<_>>());
    assert_eq!(body(model, "a").await, Some(json!({"n": 2})));
}

async fn a_stale_write_changes_nothing((model, _): &Both<impl ReadModel, impl Registry>) {
    let edges = |to: &str| Change::SetEdges { source: node("a"), predicate: "owns".into(), targets: vec![node(to)] };
    applied(model, vec![event("a", 5, vec![put("a", &json!(5)), edges("five")])]).await;
    applied(model, vec![event("a", 5, vec![put("a", &json!("other")), edges("other")])]).await;
    applied(model, vec![event("a", 4, vec![put("a", &json!(4)), Change::Remove { key: key("a") }, edges("four")])])
        .await;
    assert_eq!(body(model, "a").await, Some(json!(5)));
    let found = model.edges(Some(LIVE), &node("a"), true, None, 10).await.unwrap();
    assert_eq!(found.iter().map(|edge| edge.target.id.as_str()).collect::<Vec<_>>(), ["five"]);
    // Out of order within one batch.
    applied(model, vec![event("a", 7, vec![put("a", &json!(7))]), event("a", 6, vec![put("a", &json!(6))])]).await;
    assert_eq!(body(model, "a").await, Some(json!(7)));
    // A first version of 0, as a position may be.
    applied(model, vec![event("p", 0, vec![put("p", &json!(0))])]).await;
    assert_eq!(body(model, "p").await, Some(json!(0)));
}

async fn the_last_write_of_an_event_counts((model, _): &Both<impl ReadModel, impl Registry>) {
    let changes = vec![
        put("a", &json!(1)),
        put("b", &json!(1)),
        Change::Remove { key: key("a") },
        Change::Remove { key: key("b") },
        put("b", &json!(2)),
    ];
    applied(model, vec![event("a", 1, changes)]).await;
    assert_eq!((body(model, "a").await, body(model, "b").await), (None, Some(json!(2))));
}

async fn a_removed_document_stays_removed((model, _): &Both<impl ReadModel, impl Registry>) {
    applied(model, vec![event("a", 3, vec![put("a", &json!({"t": "old"}))])]).await;
    applied(model, vec![event("a", 5, vec![Change::Remove { key: key("a") }, Change::Remove { key: key("b") }])]).await;
    applied(model, vec![event("a", 4, vec![put("a", &json!(4)), put("b", &json!(4))])]).await;
    assert_eq!((body(model, "a").await, body(model, "b").await), (None, None));
    assert!(model.search(&query()).await.unwrap().is_empty());
    applied(model, vec![event("a", 6, vec![put("a", &json!(6))])]).await;
    assert_eq!(body(model, "a").await, Some(json!(6)));
}

/// Every order of four events, each redelivered once: under ids of their own, so that one read model holds them all.
async fn any_order_of_events_leaves_what_the_right_order_leaves((model, _): &Both<impl ReadModel, impl Registry>) {
    for order in 0..4usize.pow(4) {
        let places: Vec<usize> = (0..4).map(|digit| order / 4usize.pow(digit) % 4).collect();
        if (0..4).any(|version| !places.contains(&version)) {
            continue;
        }
        let id = format!("a{order}");
        let edges =
            |to: &str| Change::SetEdges { source: node(&id), predicate: "owns".into(), targets: vec![node(to)] };
        let events = [
            event(&id, 1, vec![put(&id, &json!(1)), edges("one")]),
            event(&id, 2, vec![put(&id, &json!(2)), edges("two")]),
            event(&id, 3, vec![Change::Remove { key: key(&id) }]),
            event(&id, 4, vec![put(&id, &json!(4)), edges("four")]),
        ];
        for place in places.iter().chain(&places) {
            applied(model, vec![events[*place].clone()]).await;
        }
        assert_eq!(body(model, &id).await, Some(json!(4)), "{places:?}");
        let found = model.edges(Some(LIVE), &node(&id), true, None, 10).await.unwrap();
        assert_eq!(found.iter().map(|edge| edge.target.id.as_str()).collect::<Vec<_>>(), ["four"], "{places:?}");
    }
}

async fn a_lost_claim_applies_nothing_of_its_event((model, registry): &Both<impl ReadModel, impl Registry>) {
    let (me, heir) = (owner(), Owner { run: 2, ..owner() });
    let finished = claim(registry, &me, "a", &[1, 2]).await;
    claim(registry, &heir, "a", &[2]).await;
    let events = vec![
        event("a", 1, vec![put("one", &json!(1))]),
        event("a", 2, vec![put("two", &json!(2))]),
        event("b", 1, vec![put("unclaimed", &json!(3))]),
    ];
    let checkpoint = Some((Partition(0), Position(9)));
    let result = model.apply(Batch { finished, checkpoint, ..batch(&me, events) }).await.unwrap();
    assert_eq!(result.fenced, [event_id("a", 2)]);
    assert!(result.foreign.is_empty());
    assert_eq!(body(model, "one").await, Some(json!(1)));
    assert_eq!(body(model, "two").await, None);
    assert_eq!(body(model, "unclaimed").await, Some(json!(3)));
    assert_eq!(statuses(registry).await, [(1, "done".into()), (2, "processing".into())]);
    assert!(model.checkpoints().await.unwrap().is_empty());
}

async fn a_foreign_write_refuses_the_batch((model, registry): &Both<impl ReadModel, impl Registry>) {
    let me = owner();
    let edges = |to: &str| Change::SetEdges { source: node("n"), predicate: "p".into(), targets: vec![node(to)] };
    let own = vec![put("shared", &json!("a")), Change::PutNode { node: node("n") }, edges("x")];
    applied(model, vec![event("a", 5, own)]).await;
    let writes = [put("shared", &json!("b")), Change::RemoveNode { node: node("n") }, edges("y")];
    for (place, write) in writes.into_iter().enumerate() {
        let version = u64::try_from(place).unwrap() + 1;
        let finished = claim(registry, &me, "b", &[version]).await;
        let events = vec![
            event("c", version, vec![put("innocent", &json!(version))]),
            event("b", version, vec![put("own", &json!(1)), write]),
        ];
        let checkpoint = Some((Partition(0), Position(9)));
        let result = model.apply(Batch { finished, checkpoint, ..batch(&me, events) }).await.unwrap();
        assert_eq!(result.foreign.len(), 1, "{result:?}");
        assert_eq!(result.foreign[0].0, 1);
        assert!(result.foreign[0].1.ends_with("belongs to Account/a"), "{result:?}");
    }
    assert_eq!(body(model, "shared").await, Some(json!("a")));
    assert_eq!((body(model, "own").await, body(model, "innocent").await), (None, None));
    assert!(statuses(registry).await.iter().all(|(_, status)| status == "processing"));
    assert!(model.checkpoints().await.unwrap().is_empty());
    // A removed row has an owner still.
    applied(model, vec![event("a", 6, vec![Change::Remove { key: key("shared") }])]).await;
    assert_eq!(apply(model, vec![event("b", 9, vec![put("shared", &json!("b"))])]).await.foreign.len(), 1);
}

async fn an_event_found_foreign_claims_nothing((model, _): &Both<impl ReadModel, impl Registry>) {
    applied(model, vec![event("b", 1, vec![put("old", &json!("b"))])]).await;
    let events = vec![
        // Foreign to what is stored, so it does not own `new`, and the event after it is innocent.
        event("a", 1, vec![put("new", &json!("a")), put("old", &json!("a"))]),
        event("b", 2, vec![put("new", &json!("b"))]),
        // Foreign to the event before it.
        event("c", 1, vec![put("new", &json!("c"))]),
    ];
    let result = apply(model, events.clone()).await;
    assert_eq!(
        result.foreign,
        [
            (0, "document accounts/old belongs to Account/b".to_owned()),
            (2, "document accounts/new belongs to Account/b".to_owned())
        ]
    );
    assert_eq!(body(model, "new").await, None);
    applied(model, vec![events[1].clone()]).await;
    assert_eq!(body(model, "new").await, Some(json!("b")));
}

async fn builds_are_apart((model, _): &Both<impl ReadModel, impl Registry>) {
    let me = owner();
    applied(model, vec![event("a", 1, vec![put("a", &json!({"t": "live word"}))])]).await;
    let other = Batch {
        build: "accounts@0123456789ab",
        ..batch(&me, vec![event("b", 1, vec![put("a", &json!({"t": "other word"}))])])
    };
    assert!(model.apply(other).await.unwrap().foreign.is_empty());
    assert_eq!(body(model, "a").await, Some(json!({"t": "live word"})));
    let there = Query { build: Some("accounts@0123456789ab".into()), text: Some("word".into()), ..query() };
    let found = model.search(&there).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].owner, aggregate("b"));
}

async fn edges_are_replaced_as_sets_and_found_from_both_ends((model, _): &Both<impl ReadModel, impl Registry>) {
    let set = |source: &str, predicate: &str, targets: &[&str]| Change::SetEdges {
        source: node(source),
        predicate: predicate.into(),
        targets: targets.iter().map(|id| node(id)).collect(),
    };
    let edge = |source: &str, predicate: &str, target: &str| Edge {
        source: node(source),
        predicate: predicate.into(),
        target: node(target),
    };
    applied(
        model,
        vec![
            event("a", 1, vec![set("a", "owns", &["y", "x", "x"]), set("a", "knows", &["z"])]),
            event("b", 1, vec![set("b", "owns", &["x"])]),
        ],
    )
    .await;
    let from_a = [edge("a", "knows", "z"), edge("a", "owns", "x"), edge("a", "owns", "y")];
    assert_eq!(model.edges(Some(LIVE), &node("a"), true, None, 10).await.unwrap(), from_a);
    assert_eq!(model.edges(Some(LIVE), &node("a"), true, Some(&from_a[0]), 1).await.unwrap(), from_a[1..2]);
    let to_x = [edge("a", "owns", "x"), edge("b", "owns", "x")];
    assert_eq!(model.edges(Some(LIVE), &node("x"), false, None, 10).await.unwrap(), to_x);
    assert_eq!(model.edges(Some(LIVE), &node("x"), false, Some(&to_x[0]), 10).await.unwrap(), to_x[1..]);
    assert!(model.edges(Some("other"), &node("a"), true, None, 10).await.unwrap().is_empty());
    applied(model, vec![event("a", 2, vec![set("a", "owns", &["w"]), set("a", "knows", &[])])]).await;
    assert_eq!(model.edges(Some(LIVE), &node("a"), true, None, 10).await.unwrap(), [edge("a", "owns", "w")]);
    assert_eq!(model.edges(Some(LIVE), &node("x"), false, None, 10).await.unwrap(), to_x[1..]);
    // The emptied set remembers its version.
    applied(model, vec![event("a", 1, vec![set("a", "knows", &["z"])])]).await;
    assert!(model.edges(Some(LIVE), &node("z"), false, None, 10).await.unwrap().is_empty());
}

async fn checkpoints_only_move_forward((model, _): &Both<impl ReadModel, impl Registry>) {
    let me = owner();
    model.set_checkpoint(CONSUMER, Partition(0), Position(5), None).await.unwrap();
    model.set_checkpoint(CONSUMER, Partition(0), Position(3), None).await.unwrap();
    model.set_checkpoint(CONSUMER, Partition(1), Position(1), None).await.unwrap();
    model.set_checkpoint("another", Partition(0), Position(2), None).await.unwrap();
    let back = Batch { checkpoint: Some((Partition(0), Position(4))), ..batch(&me, Vec::new()) };
    model.apply(back).await.unwrap();
    let on = Batch { checkpoint: Some((Partition(1), Position(2))), ..batch(&me, Vec::new()) };
    model.apply(on).await.unwrap();
    let all = [
        ("another".to_owned(), Partition(0), Position(2)),
        (CONSUMER.to_owned(), Partition(0), Position(5)),
        (CONSUMER.to_owned(), Partition(1), Position(2)),
    ];
    assert_eq!(model.checkpoints().await.unwrap(), all);
}

fn query() -> Query {
    Query {
        build: Some(LIVE.into()),
        collection: "accounts".into(),
        id_prefix: String::new(),
        text: None,
        filters: Vec::new(),
        after: None,
        limit: 100,
    }
}

async fn ids(model: &impl ReadModel, query: Query) -> Vec<String> {
    model.search(&query).await.unwrap().into_iter().map(|document| document.key.id).collect()
}

async fn with_words(model: &impl ReadModel, text: &str) -> Vec<String> {
    ids(model, Query { text: Some(text.into()), ..query() }).await
}

async fn documents_are_searched_by_words((model, _): &Both<impl ReadModel, impl Registry>) {
    let elsewhere = Change::Put {
        key: DocumentKey { collection: "others".into(), id: "a".into() },
        body: Arc::from(RawValue::from_string("\"red apple\"".into()).unwrap()),
    };
    applied(
        model,
        vec![event(
            "a",
            1,
            vec![
                put("1", &json!({"title": "Red apple", "tags": ["fruit", {"deep": "Garden"}]})),
                put("2", &json!({"title": "green APPLE", "colour": "hardly red-ish", "n": 42})),
                put("3", &json!({"apple": "the key is no value", "year": "1984"})),
                elsewhere,
            ],
        )],
    )
    .await;
    assert_eq!(with_words(model, "apple").await, ["1", "2"]);
    assert_eq!(with_words(model, "APPLE red").await, ["1", "2"]);
    assert_eq!(with_words(model, "garden fruit").await, ["1"]);
    assert_eq!(with_words(model, "1984").await, ["3"]);
    // Words are whole, numbers are no text, and all words must occur.
    for nothing in ["appl", "42", "apple garden green"] {
        assert!(with_words(model, nothing).await.is_empty(), "{nothing}");
    }
    // Nothing that a user types is syntax.
    assert_eq!(with_words(model, "\"apple\" (red)*").await, ["1", "2"]);
    assert_eq!(with_words(model, "scope:apple").await, Vec::<String>::new());
    for syntax in ["apple OR nothing", "apple NOT red", "NEAR(apple red)", "^apple'); DROP", "title:apple"] {
        assert!(with_words(model, syntax).await.is_empty(), "{syntax}");
    }
    // Without a word nothing is asked.
    assert_eq!(with_words(model, " -*\" ").await.len(), 3);
}

async fn words_follow_every_change((model, _): &Both<impl ReadModel, impl Registry>) {
    applied(model, vec![event("a", 1, vec![put("a", &json!("first draft"))])]).await;
    assert_eq!(with_words(model, "draft").await, ["a"]);
    applied(model, vec![event("a", 2, vec![put("a", &json!("final draft"))])]).await;
    assert_eq!(with_words(model, "final").await, ["a"]);
    assert!(with_words(model, "first").await.is_empty());
    applied(model, vec![event("a", 3, vec![Change::Remove { key: key("a") }])]).await;
    assert!(with_words(model, "draft").await.is_empty());
    let many: Vec<_> = (0..700).map(|n| put(&format!("d{n:04}"), &json!(format!("many n{n}")))).collect();
    applied(model, vec![event("b", 1, many)]).await;
    let found = ids(model, Query { text: Some("many".into()), limit: 1000, ..query() }).await;
    assert_eq!(found.len(), 700);
    assert_eq!(with_words(model, "n699").await, ["d0699"]);
}

async fn documents_are_filtered_by_fields((model, _): &Both<impl ReadModel, impl Registry>) {
    applied(
        model,
        vec![event(
            "a",
            1,
            vec![
                put("1", &json!({"data": {"price": 10, "name": "ten", "ok": true, "tags": ["x", "y"]}})),
                put("2", &json!({"data": {"price": 9.5, "name": "10", "none": null}})),
                put("3", &json!({"data": {"price": "10", "a'b\"c": 1}, "other": {"list": {"0": "z"}}})),
                put("4", &json!({"data": {"price": -3}})),
            ],
        )],
    )
    .await;
    use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    for (path, operator, value, want) in [
        ("data.price", Equal, json!(10), vec!["1"]),
        ("data.price", Equal, json!(10.0), vec!["1"]),
        ("data.price", Equal, json!("10"), vec!["3"]),
        ("data.price", NotEqual, json!(10), vec!["2", "3", "4"]),
        ("data.price", Less, json!(10), vec!["2", "4"]),
        ("data.price", LessOrEqual, json!(9.5), vec!["2", "4"]),
        ("data.price", Greater, json!(9.5), vec!["1"]),
        ("data.price", GreaterOrEqual, json!("1"), vec!["3"]),
        ("data.name", Equal, json!("ten"), vec!["1"]),
        ("data.ok", Equal, json!(true), vec!["1"]),
        ("data.ok", Greater, json!(false), vec![]),
        ("data.none", Equal, json!(null), vec!["2"]),
        ("data.none", NotEqual, json!(null), vec!["1", "3", "4"]),
        ("data.tags.1", Equal, json!("y"), vec!["1"]),
        ("data.tags", Equal, json!(["x", "y"]), vec!["1"]),
        ("other.list.0", Equal, json!("z"), vec!["3"]),
        ("data.a'b\"c", Equal, json!(1), vec!["3"]),
        ("data.price.deeper", Equal, json!(1), vec![]),
        ("data.nothing", Equal, json!("x"), vec![]),
    ] {
        let filter = Filter { path: path.split('.').map(str::to_owned).collect(), operator, value };
        let found = ids(model, Query { filters: vec![filter.clone()], ..query() }).await;
        assert_eq!(found, want, "{filter:?}");
    }
    let filter =
        |path: &str, operator, value| Filter { path: path.split('.').map(str::to_owned).collect(), operator, value };
    let both = vec![filter("data.price", Less, json!(100)), filter("data.name", Equal, json!("10"))];
    let wanted = Query { filters: both, text: Some("10".into()), ..query() };
    assert_eq!(ids(model, wanted).await, ["2"]);
}

async fn searches_are_paged_in_byte_order((model, _): &Both<impl ReadModel, impl Registry>) {
    let names = ["a", "a:1", "a:2", "a:\u{10FFFF}", "a;", "b", "B", "é", "z%_"];
    let puts = names.iter().map(|id| put(id, &json!({"t": "same", "id": id}))).collect();
    applied(model, vec![event("a", 1, puts)]).await;
    let mut sorted = names;
    sorted.sort_unstable();
    assert_eq!(ids(model, query()).await, sorted);
    assert_eq!(ids(model, Query { id_prefix: "a:".into(), ..query() }).await, ["a:1", "a:2", "a:\u{10FFFF}"]);
    assert_eq!(ids(model, Query { id_prefix: "z%".into(), ..query() }).await, ["z%_"]);
    assert_eq!(ids(model, Query { id_prefix: "%".into(), ..query() }).await, Vec::<String>::new());
    let unlike = Filter { path: vec!["id".into()], operator: Operator::NotEqual, value: json!("b") };
    for (text, filters) in [(None, vec![]), (Some("same"), vec![]), (Some("same"), vec![unlike])] {
        let mut seen = Vec::new();
        loop {
            let after = seen.last().cloned();
            let text = text.map(str::to_owned);
            let page = ids(model, Query { text, filters: filters.clone(), after, limit: 2, ..query() }).await;
            assert!(page.len() <= 2);
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        let want: Vec<_> = sorted.iter().filter(|id| filters.is_empty() || **id != "b").collect();
        assert_eq!(seen.iter().collect::<Vec<_>>(), want);
    }
}

async fn texts_are_kept_to_the_byte((model, _): &Both<impl ReadModel, impl Registry>) {
    let raw = "{\"a\" : 1.0, \"big\":12345678901234567890,\"s\":\"\\u0000 \\ud83d\\ude00 \\\" ' \u{1F600}\"}";
    let id = "quote\" ' back\\slash \u{1F600}";
    let body = Arc::from(RawValue::from_string(raw.into()).unwrap());
    applied(model, vec![event("a", 1, vec![Change::Put { key: key(id), body }])]).await;
    let found = model.documents(Some(LIVE), &[key(id)]).await.unwrap().remove(0).unwrap();
    assert_eq!((found.body.get(), found.key.id.as_str()), (raw, id));
    assert_eq!(ids(model, query()).await, [id]);
}
