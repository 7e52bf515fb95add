//! Tests of deciding again, of order and of comparing read models, each on a log or a model that is right, and on one
//! that is wrong in one place.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::codec::envelope::{HandlerRef, ReadRef};
use crate::domain::Aggregate;
use crate::event_store::Record;
use crate::port::read_model::builds::{Builds as _, Wanted};
use crate::port::read_model::{Batch, Change, DocumentKey, EventChanges, MemoryReadModel, Node, ReadModel as _};
use crate::port::registry::{MemoryRegistry, Owner};
use crate::sandbox::Handler;
use crate::tests::components::{abuse, component, sandbox, together};
use crate::tests::{Process, Store, outcome_of, outcome_with};

const LIVE: &str = "live";

fn decider() -> Arc<Handler> {
    sandbox().load(&abuse("decider")).unwrap()
}

fn load(handler: &Arc<Handler>) -> Load {
    let handler = handler.clone();
    Arc::new(move |digest| {
        let found = if digest == handler.digest() { Ok(handler.clone()) } else { Err("no such component".to_owned()) };
        Box::pin(async move { found })
    })
}

/// Stores an outcome of one event, as made by this handler.
async fn outcome(process: &Process, command: &Record, handler: &Handler, name: &str, data: Value) -> Record {
    let append = outcome_of(command, Some(&made_by(handler)), name, &data);
    process.events.append(append).await.unwrap().records.remove(0)
}

fn made_by(handler: &Handler) -> HandlerRef {
    HandlerRef {
        name: "abuse".into(),
        version: "0.1.0".into(),
        digest: handler.digest(),
        revision: 1,
        upcasters: Vec::new(),
    }
}

async fn again(name: &str, payload: Value, event: &str, stored: Value) -> Again {
    let (handler, process) = (decider(), Store::new().process(together([decider()])).await);
    let command = process.send("Thing", "a", name, payload).await;
    outcome(&process, &command, &handler, event, stored).await;
    Decisions::new(process.events.clone(), load(&handler)).again(&command).await.unwrap()
}

fn code(again: Again) -> &'static str {
    match again {
        Again::Differs { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_same_code_on_the_same_state_decides_the_same() {
    let echoed = json!({"amount": 1, "note": "n", "tags": []});
    assert_eq!(again("ECHO", echoed.clone(), "NOTED", echoed).await, Again::Same);
    let unchanged = again("UNCHANGED", json!(1), "COMMAND_UNCHANGED", json!(1)).await;
    assert_eq!(code(unchanged), "data_differs", "the host's own events are compared as well");
}

#[tokio::test]
async fn an_outcome_that_its_handler_does_not_make_is_found() {
    let payload = json!({"amount": 1, "note": "n", "tags": []});
    let forged = again("ECHO", payload.clone(), "NOTED", json!({"amount": 2})).await;
    assert_eq!(code(forged), "data_differs");
    let renamed = again("ECHO", payload.clone(), "DEPOSITED", payload.clone()).await;
    assert_eq!(code(renamed), "event_differs");
    let trapped = again("PANIC", payload.clone(), "NOTED", payload).await;
    assert_eq!(code(trapped), "fails_again");
}

#[tokio::test]
async fn what_a_limit_ends_and_what_nobody_decided_is_not_judged() {
    let looped = again("LOOP", json!(1), "NOTED", json!(1)).await;
    assert!(matches!(looped, Again::NotJudged(_)), "{looped:?}");
    let process = Store::new().process(together([decider()])).await;
    let command = process.send("Thing", "a", "ECHO", json!(1)).await;
    let open = Decisions::new(process.events.clone(), load(&decider())).again(&command).await.unwrap();
    assert!(matches!(open, Again::NotJudged(_)), "{open:?}");
}

#[tokio::test]
async fn who_relied_on_a_command_that_failed_is_judged_even_where_nothing_can_be_folded() {
    let (handler, process) = (decider(), Store::new().process(together([decider()])).await);
    let stray = json!({"no": "deposit"});
    let first = process.send("Thing", "a", "ECHO", stray.clone()).await;
    outcome(&process, &first, &handler, "NOTED", stray).await;
    let second = process.send("Thing", "a", "ECHO", json!(1)).await;
    outcome(&process, &second, &handler, "COMMAND_FAILED", json!({"code": "given-up"})).await;
    let third = process.send_expecting("Thing", "a", "ECHO", json!(2), Some(second.sequence.0)).await;
    outcome(&process, &third, &handler, "COMMAND_FAILED", json!({"code": "predecessor-failed"})).await;
    let mut decisions = Decisions::new(process.events.clone(), load(&handler));
    assert_eq!(decisions.again(&third).await.unwrap(), Again::Same);
    assert_eq!(decisions.again(&second).await.unwrap_err().code(), "fold_failed");
}

/// What a decision read was folded behind upcasters of its own, which the decider's own stream did not need.
#[tokio::test]
async fn what_was_read_is_folded_as_it_was_then() {
    let account = sandbox().load(&abuse("account_2")).unwrap();
    let upcaster = sandbox().load(&component("examples/account-upcaster")).unwrap();
    let handlers = [decider(), account.clone(), upcaster.clone()];
    let process = Store::new().process(together(handlers.clone())).await;
    process.note("Account", "a", "ACCOUNT_OPENED", json!({"owner": "Ada"})).await;
    process.note("Account", "a", "MONEY_DEPOSITED", json!({"amount_cents": 5, "balance_cents": 5})).await;
    let command = process.send("Thing", "a", "READ_ACCOUNT", json!(null)).await;
    let folded = process.states.load(&Aggregate::parse("Account", "a").unwrap()).await.unwrap();
    assert_eq!(*folded.upcasters, [upcaster.digest()]);
    let read = ReadRef {
        aggregate_type: "Account".into(),
        aggregate_id: "a".into(),
        sequence_number: folded.sequence,
        handler_digest: Some(folded.handler_digest),
        upcasters: folded.upcasters.clone(),
    };
    let seen = json!(folded.state.unwrap().as_str());
    let append = outcome_with(&command, Some(&made_by(&handlers[0])), "NOTED", &seen, &[read], None);
    process.events.append(append).await.unwrap();
    let load: Load = Arc::new(move |digest| {
        let found = handlers.iter().find(|handler| handler.digest() == digest).cloned();
        Box::pin(async move { found.ok_or_else(|| "no such component".to_owned()) })
    });
    let again = Decisions::new(process.events.clone(), load).again(&command).await.unwrap();
    assert!(matches!(again, Again::Same), "{again:?}");
}

#[tokio::test]
async fn a_component_that_is_gone_is_named() {
    let process = Store::new().process(together([decider()])).await;
    let command = process.send("Thing", "a", "ECHO", json!(1)).await;
    outcome(&process, &command, &decider(), "NOTED", json!(1)).await;
    let nobody: Load = Arc::new(|_| Box::pin(async { Err("it was deleted".to_owned()) }));
    let error = Decisions::new(process.events.clone(), nobody).again(&command).await.unwrap_err();
    assert_eq!(error.code(), "handler_missing");
    assert!(error.to_string().contains(&decider().digest().to_string()), "{error}");
}

#[tokio::test]
async fn a_walk_sees_gaps_second_outcomes_and_turns() {
    let (handler, process) = (decider(), Store::new().process(together([decider()])).await);
    let mut commands = Vec::new();
    for n in 1..=3 {
        commands.push(process.send("Thing", "a", "ECHO", json!(n)).await);
    }
    for command in &commands {
        outcome(&process, command, &handler, "NOTED", json!(1)).await;
    }
    let records = process.stream("Thing", "a").await;
    let walk = |places: &[usize]| {
        let (mut order, mut seen) = (Order::default(), Vec::new());
        let [mut first, mut second] = [Invariant::Idempotency, Invariant::Order].map(Checked::new);
        for (sequence, place) in places.iter().enumerate() {
            let mut record = records[*place].clone();
            // Numbers as this order would have given them: only the order itself is wrong.
            record.sequence = crate::domain::Sequence(sequence as u64 + 1);
            order.take(&record, &mut first, &mut second);
        }
        seen.extend([first, second].into_iter().filter_map(|checked| checked.first).map(|finding| finding.code));
        seen
    };
    assert!(walk(&[0, 1, 2, 3, 4, 5]).is_empty());
    assert_eq!(walk(&[0, 1, 2, 4, 3, 5]), ["decided_out_of_order"]);
    assert_eq!(walk(&[0, 3, 3]), ["second_outcome"]);
    let mut order = Order::default();
    let [mut first, mut second] = [Invariant::Idempotency, Invariant::Order].map(Checked::new);
    order.take(&records[0], &mut first, &mut second);
    order.take(&records[2], &mut first, &mut second);
    assert_eq!(second.first.unwrap().code, "sequence_gap");
    assert_eq!(order.undecided(), 2);
}

async fn model(documents: &[(&str, u64, &str)], edge: Option<&str>) -> MemoryReadModel {
    let model = MemoryReadModel::new(MemoryRegistry::default());
    let owner = Owner { name: "check".into(), run: 1 };
    let node = |id: &str| Node { kind: "Account".into(), id: id.into() };
    let mut events: Vec<EventChanges> = documents
        .iter()
        .map(|(id, version, body)| EventChanges {
            event_id: uuid::Uuid::nil(),
            owner: Aggregate::parse("Account", id).unwrap(),
            version: *version,
            changes: vec![Change::Put {
                key: DocumentKey { collection: "accounts".into(), id: (*id).into() },
                body: Arc::from(RawValue::from_string((*body).into()).unwrap()),
            }],
        })
        .collect();
    if let Some(target) = edge {
        let set = Change::SetEdges { source: node("a"), predicate: "owns".into(), targets: vec![node(target)] };
        events[0].changes.extend([Change::PutNode { node: node("a") }, set]);
    }
    let now = crate::domain::Timestamp(0);
    let batch = Batch {
        consumer: "c",
        build: LIVE,
        begun: None,
        owner: &owner,
        events,
        finished: Vec::new(),
        checkpoint: None,
        now,
    };
    model.apply(batch).await.unwrap();
    let collections = ["accounts".to_owned()];
    model
        .begin(Wanted { name: LIVE, handler: "accounts", asked: 1, collections: &collections }, uuid::Uuid::nil())
        .await
        .unwrap();
    model
}

async fn compared(live: &MemoryReadModel, fresh: &MemoryReadModel) -> (u64, Option<String>) {
    let mut checked = Checked::new(Invariant::Projection);
    compare(live, fresh, &["accounts".into()], &fresh.nodes(), &mut checked).await.unwrap();
    (checked.divergences, checked.first.map(|finding| format!("{} {}", finding.code, finding.key)))
}

#[tokio::test]
async fn read_models_that_differ_in_anything_are_told_apart() {
    let fresh = model(&[("a", 2, "1"), ("b", 3, "2"), ("c", 1, "3")], Some("b")).await;
    let same = model(&[("a", 2, "1"), ("b", 3, "2"), ("c", 1, "3")], Some("b")).await;
    assert_eq!(compared(&same, &fresh).await, (0, None));
    type Documents = &'static [(&'static str, u64, &'static str)];
    let cases: [(Documents, Option<&str>, &str); 5] = [
        (&[("a", 2, "1"), ("c", 1, "3")], Some("b"), "document_missing document/accounts/b"),
        (
            &[("a", 2, "1"), ("b", 3, "2"), ("bb", 1, "0"), ("c", 1, "3")],
            Some("b"),
            "document_unexplained document/accounts/bb",
        ),
        (&[("a", 2, "1"), ("b", 3, "9"), ("c", 1, "3")], Some("b"), "document_differs document/accounts/b"),
        (&[("a", 2, "1"), ("b", 2, "2"), ("c", 1, "3")], Some("b"), "document_differs document/accounts/b"),
        (&[("a", 2, "1"), ("b", 3, "2"), ("c", 1, "3")], Some("c"), "edges_differ graph/Account/a"),
    ];
    for (documents, edge, first) in cases {
        let live = model(documents, edge).await;
        assert_eq!(compared(&live, &fresh).await, (1, Some(first.to_owned())));
    }
}
