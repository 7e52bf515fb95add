//! What every read model must do about the builds of projections.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{LIVE, T0, aggregate, claim, event, key, node, owner, put, statuses};
use crate::domain::{Partition, Position};
use crate::port::read_model::builds::{Begun, Build, Builds, State, Wanted, consumer_of, later_build, plain, shown};
use crate::port::read_model::{Batch, Change, DocumentKey, EventChanges, Query, ReadModel};
use crate::port::registry::Registry;

const NEXT: &str = "accounts@0123456789ab";
/// Of every build that is begun once.
const ID: Uuid = Uuid::from_u128(7);
const P0: Partition = Partition(0);
const P1: Partition = Partition(1);

/// A read model with its builds.
pub trait Model: ReadModel + Builds {}
impl<M: ReadModel + Builds> Model for M {}

/// Runs all of it.
pub async fn all<M: Model, R: Registry>(empty: impl AsyncFn() -> (M, R)) {
    the_first_build_of_a_projection_is_live_at_once(&empty().await.0).await;
    one_build_is_on_its_way_at_a_time(&empty().await.0).await;
    a_build_takes_over_when_no_consumer_is_behind(&empty().await.0).await;
    readers_see_whole_builds(&empty().await.0).await;
    a_dropped_build_goes_in_steps_with_its_claims(&empty().await).await;
    what_nobody_sees_keeps_no_words(&empty().await.0).await;
    who_wrote_a_build_that_was_deleted_does_not_write_the_next_of_its_name(&empty().await).await;
}

fn wanted<'a>(name: &'a str, collections: &'a [String]) -> Wanted<'a> {
    Wanted { name, handler: "accounts", asked: 3, collections }
}

async fn begin(model: &impl Model, name: &str, collections: &[&str]) {
    let collections: Vec<String> = collections.iter().map(ToString::to_string).collect();
    model.begin(wanted(name, &collections), ID).await.unwrap();
}

async fn take_over(model: &impl Model, name: &str, collections: &[&str], successors: &[(&str, &str)]) -> bool {
    let collections: Vec<String> = collections.iter().map(ToString::to_string).collect();
    let owned = |(old, new): &(&str, &str)| ((*old).to_owned(), (*new).to_owned());
    let successors: Vec<_> = successors.iter().map(owned).collect();
    model.take_over(wanted(name, &collections), &successors).await.unwrap()
}

async fn states(model: &impl Model) -> Vec<(String, State)> {
    model.builds().await.unwrap().into_iter().map(|build| (build.name, build.state)).collect()
}

async fn write(model: &impl Model, build: &str, consumer: &str, events: Vec<EventChanges>) {
    let me = owner();
    let batch =
        Batch { consumer, build, begun: None, owner: &me, events, finished: Vec::new(), checkpoint: None, now: T0 };
    assert!(model.apply(batch).await.unwrap().foreign.is_empty());
}

/// What readers see of a document.
async fn seen(model: &impl Model, collection: &str, id: &str) -> Option<Value> {
    let key = DocumentKey { collection: collection.into(), id: id.into() };
    let found = model.documents(None, &[key]).await.unwrap().remove(0)?;
    Some(serde_json::from_str(found.body.get()).unwrap())
}

async fn found(model: &impl Model, text: &str) -> Vec<String> {
    let query = Query {
        build: None,
        collection: "accounts".into(),
        id_prefix: String::new(),
        text: (!text.is_empty()).then(|| text.to_owned()),
        filters: Vec::new(),
        after: None,
        limit: 10,
    };
    model.search(&query).await.unwrap().into_iter().map(|document| document.body.get().to_owned()).collect()
}

fn targets(source: &str, targets: &[&str]) -> Change {
    let targets = targets.iter().map(|id| node(id)).collect();
    Change::SetEdges { source: node(source), predicate: "owns".into(), targets }
}

async fn the_first_build_of_a_projection_is_live_at_once(model: &impl Model) {
    assert_eq!(model.builds().await.unwrap(), []);
    begin(model, "accounts", &["accounts"]).await;
    let first = Build { name: "accounts".into(), handler: "accounts".into(), state: State::Live, asked: 3, id: ID };
    assert_eq!(model.builds().await.unwrap(), std::slice::from_ref(&first));
    begin(model, "accounts", &["accounts"]).await;
    assert_eq!(model.builds().await.unwrap(), [first]);
    assert_eq!(seen(model, "accounts", "a").await, None);
    let other = Wanted { name: "others", handler: "others", asked: 9, collections: &[] };
    model.begin(other, ID).await.unwrap();
    assert_eq!(states(model).await, [("accounts".into(), State::Live), ("others".into(), State::Live)]);
}

async fn one_build_is_on_its_way_at_a_time(model: &impl Model) {
    begin(model, "accounts", &["accounts"]).await;
    begin(model, NEXT, &["accounts"]).await;
    begin(model, "accounts@ba9876543210", &["accounts"]).await;
    assert_eq!(states(model).await, [("accounts".into(), State::Live), (NEXT.into(), State::Building)]);
    assert!(!model.turn("accounts", State::Live, State::Dropping).await.unwrap(), "readers see it");
    assert!(!model.turn(NEXT, State::Taking, State::Dropping).await.unwrap(), "it is not taking over");
    assert!(model.turn(NEXT, State::Building, State::Taking).await.unwrap());
    begin(model, "accounts@ba9876543210", &["accounts"]).await;
    assert!(model.turn(NEXT, State::Taking, State::Dropping).await.unwrap());
    begin(model, "accounts@ba9876543210", &["accounts"]).await;
    let known = [("accounts", State::Live), (NEXT, State::Dropping), ("accounts@ba9876543210", State::Building)];
    assert_eq!(states(model).await, known.map(|(name, state)| (name.to_owned(), state)));
}

async fn a_build_takes_over_when_no_consumer_is_behind(model: &impl Model) {
    let pairs = [("x", "x@1"), ("y", "y@1")];
    begin(model, "accounts", &["accounts", "old"]).await;
    begin(model, NEXT, &["accounts", "new"]).await;
    write(model, "accounts", "x", vec![event("a", 1, vec![put("a", &json!("old"))])]).await;
    write(model, NEXT, "x@1", vec![event("a", 1, vec![put("a", &json!("new"))])]).await;
    for (consumer, partition, position) in [("x", P0, 7), ("x", P1, 2), ("x@1", P0, 7), ("y@1", P0, 9)] {
        model.set_checkpoint(consumer, partition, Position(position), None).await.unwrap();
    }
    assert!(!take_over(model, NEXT, &["accounts", "new"], &pairs).await, "it is not taking over");
    assert!(model.turn(NEXT, State::Building, State::Taking).await.unwrap());
    assert!(!take_over(model, NEXT, &["accounts", "new"], &pairs).await, "it is behind on partition 1");
    assert_eq!(seen(model, "accounts", "a").await, Some(json!("old")));
    assert_eq!(states(model).await, [("accounts".into(), State::Live), (NEXT.into(), State::Taking)]);
    model.set_checkpoint("x@1", P1, Position(3), None).await.unwrap();
    assert!(take_over(model, NEXT, &["accounts", "new"], &pairs).await);
    assert_eq!(seen(model, "accounts", "a").await, Some(json!("new")));
    assert_eq!(states(model).await, [("accounts".into(), State::Dropping), (NEXT.into(), State::Live)]);
    assert!(!take_over(model, NEXT, &["accounts", "new"], &pairs).await, "it did");
    assert_eq!(seen(model, "accounts", "a").await, Some(json!("new")));
}

async fn readers_see_whole_builds(model: &impl Model) {
    begin(model, "accounts", &["accounts"]).await;
    let other = Wanted { name: "others", handler: "others", asked: 1, collections: &["others".to_owned()] };
    model.begin(other, ID).await.unwrap();
    begin(model, NEXT, &["accounts"]).await;
    let old = vec![put("a", &json!("old word")), put("b", &json!("old")), targets("a", &["x", "z"])];
    write(model, "accounts", "c", vec![event("a", 1, old)]).await;
    let new = vec![put("a", &json!("new word")), put("c", &json!("new")), targets("a", &["w"])];
    write(model, NEXT, "c@1", vec![event("a", 1, new)]).await;
    let far = DocumentKey { collection: "others".into(), id: "o".into() };
    let body = Arc::from(RawValue::from_string("1".into()).unwrap());
    let theirs = vec![Change::Put { key: far, body }, targets("a", &["y", "z"])];
    write(model, "others", "o", vec![event("o", 1, theirs)]).await;
    let reached = async |limit| {
        let edges = model.edges(None, &node("a"), true, None, limit).await.unwrap();
        edges.into_iter().map(|edge| edge.target.id).collect::<Vec<_>>()
    };
    assert_eq!(found(model, "").await, ["\"old word\"", "\"old\""]);
    assert_eq!(found(model, "word").await, ["\"old word\""]);
    assert_eq!(
        (reached(10).await, reached(2).await),
        (vec!["x".into(), "y".into(), "z".into()], vec!["x".into(), "y".into()])
    );
    let back = model.edges(None, &node("z"), false, None, 10).await.unwrap();
    assert_eq!(back.len(), 1, "two builds have it: {back:?}");
    assert!(model.turn(NEXT, State::Building, State::Taking).await.unwrap());
    assert!(take_over(model, NEXT, &["accounts"], &[("c", "c@1")]).await);
    assert_eq!(found(model, "").await, ["\"new word\"", "\"new\""]);
    assert_eq!(found(model, "word").await, ["\"new word\""]);
    assert_eq!(reached(10).await, ["w", "y", "z"]);
    assert_eq!(seen(model, "others", "o").await, Some(json!(1)));
}

async fn a_dropped_build_goes_in_steps_with_its_claims((model, registry): &(impl Model, impl Registry)) {
    let me = owner();
    let finished = claim(registry, &me, "a", &[1, 2]).await;
    let events =
        (1..=25).map(|n| event("a", n, vec![put(&format!("d{n}"), &json!(n)), targets(&format!("s{n}"), &["t"])]));
    let consumer = super::CONSUMER.to_owned();
    let checkpoint = Some((P0, Position(9)));
    let batch = Batch {
        consumer: &consumer,
        build: LIVE,
        begun: None,
        owner: &me,
        events: events.collect(),
        finished,
        checkpoint,
        now: T0,
    };
    model.apply(batch).await.unwrap();
    claim(registry, &me, "b", &[1]).await;
    model.set_checkpoint("another", P0, Position(4), None).await.unwrap();
    begin(model, LIVE, &["accounts"]).await;
    begin(model, NEXT, &["accounts"]).await;
    assert!(!model.drop_some(LIVE, std::slice::from_ref(&consumer), 10).await.unwrap(), "readers see it");
    assert_eq!(found(model, "").await.len(), 10);
    assert!(model.turn(NEXT, State::Building, State::Taking).await.unwrap());
    model.set_checkpoint("next", P0, Position(9), None).await.unwrap();
    assert!(take_over(model, NEXT, &["accounts"], &[(&consumer, "next")]).await);
    let mut steps = 1;
    while !model.drop_some(LIVE, std::slice::from_ref(&consumer), 10).await.unwrap() {
        steps += 1;
    }
    assert!((3..=5).contains(&steps), "{steps}");
    assert_eq!(states(model).await, [(NEXT.into(), State::Live)]);
    assert!(model.documents(Some(LIVE), &[key("d7")]).await.unwrap()[0].is_none());
    assert!(model.edges(Some(LIVE), &node("s7"), true, None, 9).await.unwrap().is_empty());
    assert_eq!(statuses(registry).await, []);
    let left = [("another".into(), P0, Position(4)), ("next".into(), P0, Position(9))];
    assert_eq!(model.checkpoints().await.unwrap(), left);
    // A build of that name begins from nothing.
    assert!(model.drop_some(LIVE, std::slice::from_ref(&consumer), 10).await.unwrap());
    assert_eq!(claim(registry, &me, "a", &[1, 2]).await[1].attempt, 1);
    write(model, LIVE, &consumer, vec![event("b", 1, vec![put("d7", &json!("again"))])]).await;
    let again = model.documents(Some(LIVE), &[key("d7")]).await.unwrap().remove(0).unwrap();
    assert_eq!(again.owner, aggregate("b"));
}

async fn what_nobody_sees_keeps_no_words(model: &impl Model) {
    begin(model, "accounts", &["accounts"]).await;
    begin(model, NEXT, &["accounts"]).await;
    let words = |word: &str| vec![event("a", 1, vec![put("a", &json!(word))])];
    write(model, NEXT, "c@1", words("new")).await;
    write(model, "accounts", "c", words("old")).await;
    assert_eq!(found(model, "old").await, ["\"old\""]);
    assert!(model.turn(NEXT, State::Building, State::Taking).await.unwrap());
    assert!(take_over(model, NEXT, &["accounts"], &[]).await);
    while !model.drop_some("accounts", &[], 1).await.unwrap() {}
    // Its number may be given to another document.
    write(model, NEXT, "c@1", vec![event("b", 1, vec![put("b", &json!("third"))])]).await;
    assert_eq!(found(model, "third").await, ["\"third\""]);
    assert!(found(model, "old").await.is_empty());
}

#[test]
fn consumers_are_named_after_their_builds() {
    assert_eq!(later_build("accounts", "0123456789ab", 0), NEXT);
    let again = later_build("accounts", "0123456789ab", 2);
    assert_eq!(again, "accounts@0123456789ab.2");
    assert_eq!(consumer_of("accounts", "accounts:Account"), "accounts:Account");
    let consumer = consumer_of(&again, "accounts:Account");
    assert_eq!((consumer.as_str(), plain(&consumer)), ("accounts:Account@0123456789ab.2", "accounts:Account"));
    assert_eq!((shown(&consumer), shown("accounts:Account")), (consumer.clone(), "accounts:Account@first".into()));
}

async fn who_wrote_a_build_that_was_deleted_does_not_write_the_next_of_its_name(
    (model, registry): &(impl Model, impl Registry),
) {
    let (me, consumer) = (owner(), super::CONSUMER.to_owned());
    let finished = claim(registry, &me, "a", &[1, 2]).await;
    let ids = [ID, Uuid::from_u128(8)];
    let write = async |id: Uuid, n: u64| {
        let batch = Batch {
            consumer: &consumer,
            build: NEXT,
            begun: Some(id),
            owner: &me,
            events: vec![event("a", n, vec![put(&n.to_string(), &json!(n))])],
            finished: finished[n as usize - 1..][..1].to_vec(),
            checkpoint: Some((P0, Position(n))),
            now: T0,
        };
        let written = !model.apply(batch).await.unwrap().gone;
        let build = Begun { name: NEXT.into(), id };
        model.set_checkpoint(&consumer, P1, Position(n), Some(&build)).await.unwrap();
        written
    };
    let left = async || {
        let found = model.documents(Some(NEXT), &[key("1"), key("2")]).await.unwrap();
        let checkpoints = model.checkpoints().await.unwrap().into_iter().map(|(_, on, at)| (on, at));
        (found.iter().flatten().count(), checkpoints.collect::<Vec<_>>())
    };
    assert!(!write(ID, 1).await, "it is not begun");
    assert_eq!(left().await, (0, vec![]));
    begin(model, "accounts", &["accounts"]).await;
    begin(model, NEXT, &["accounts"]).await;
    assert_eq!(model.builds().await.unwrap()[1].begun(), Begun { name: NEXT.into(), id: ID });
    assert!(write(ID, 1).await);
    assert_eq!(left().await, (1, vec![(P0, Position(1)), (P1, Position(1))]));
    assert!(model.turn(NEXT, State::Building, State::Dropping).await.unwrap());
    assert!(!write(ID, 2).await, "it is being deleted");
    assert_eq!(left().await, (1, vec![(P0, Position(1)), (P1, Position(1))]));
    while !model.drop_some(NEXT, &[], 9).await.unwrap() {}
    model.begin(wanted(NEXT, &["accounts".to_owned()]), ids[1]).await.unwrap();
    assert!(!write(ID, 2).await, "it is another one");
    assert_eq!(left().await.0, 0);
    assert!(write(ids[1], 2).await);
    assert_eq!(left().await, (1, vec![(P0, Position(2)), (P1, Position(2))]));
}
