//! The router over a log in memory: commands, conflicts, retries, reads, access.
#![allow(clippy::unwrap_used)]

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use super::host::{Host, Wish};
use crate::api::Limits;
use crate::command::MismatchMode;
use crate::domain::{Sequence, Timestamp, derived_id};
use crate::port::registry::{Claim, Finished, Owner, Registry as _, Status};

const ID: &str = "0190aaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

async fn host() -> Host {
    Host::start(Wish::default()).await
}

fn open_account() -> Value {
    json!({
        "command_type": "OPEN_ACCOUNT", "aggregate_type": "Account", "aggregate_id": "a1",
        "payload": {"owner": "Ada"}
    })
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_in_the_log_when_it_is_accepted() {
    let host = host().await;
    let answer = host.post("/api/v1/commands", with(open_account(), "command_id", json!(ID))).await.expect(202);
    assert_eq!(answer.body["command_id"], ID);
    assert_eq!(answer.body["status"], "PENDING");
    assert_eq!(answer.body["result"]["aggregate_id"], "a1");
    assert_eq!(answer.body["result"]["sequence_number"], 1);
    assert_eq!(answer.header("location"), format!("/api/v1/commands/{ID}/status"));
    assert_eq!(answer.header("idempotency-replayed"), "");
    let event = host.get(&format!("/api/v1/events/{ID}")).await.expect(200);
    assert_eq!(event.body["event_type"], "OPEN_ACCOUNT_REQUESTED");
    assert_eq!(event.body["metadata"]["kafka_topic"], "account_commands");
    assert_eq!(event.body["metadata"]["correlation_id"], ID);
    assert_eq!(event.body["data"]["payload"], json!({"owner": "Ada"}));
    let status = host.get(answer.header("location")).await.expect(200);
    assert_eq!((&status.body["status"], &status.body["result"]), (&json!("PENDING"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_answer_and_other_content_is_refused() {
    let host = host().await;
    let key = [("Idempotency-Key", "order 17")];
    let first = host.send("POST", "/api/v1/commands", &key, Some(open_account())).await.expect(202);
    let again = host.send("POST", "/api/v1/commands", &key, Some(open_account())).await.expect(202);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.text, first.text);
    let other = with(open_account(), "payload", json!({"owner": "Bob"}));
    let refused = host.send("POST", "/api/v1/commands", &key, Some(other)).await.expect(422);
    assert_eq!(refused.body["code"], "idempotency_mismatch");
    assert_eq!(host.sequence("Account", "a1").await.0, 1);
    let actor = with(with(open_account(), "actor", json!("eve")), "metadata", json!({"note": "later"}));
    let same = host.send("POST", "/api/v1/commands", &key, Some(actor)).await.expect(202);
    assert_eq!(same.header("idempotency-replayed"), "true", "actor and metadata are no content");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_warn_mode_other_content_is_answered_as_the_first() {
    let host = Host::start(Wish { mode: MismatchMode::Warn, ..Wish::default() }).await;
    let key = [("Idempotency-Key", ID)];
    let first = host.send("POST", "/api/v1/commands", &key, Some(open_account())).await.expect(202);
    let other = with(open_account(), "payload", json!({"owner": "Bob"}));
    let again = host.send("POST", "/api/v1/commands", &key, Some(other)).await.expect(202);
    assert_eq!((again.text, again.headers.contains_key("idempotency-replayed")), (first.text, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_command_is_said_and_nothing_is_written() {
    let host = host().await;
    for (name, value, status, code) in [
        ("command_id", json!("17"), 400, "invalid_field"),
        ("command_type", json!("FLY"), 400, "unknown_command_type"),
        ("aggregate_type", json!("Rocket"), 400, "unknown_aggregate_type"),
        ("aggregate_type", json!("Handler"), 400, "reserved_aggregate_type"),
        ("aggregate_type", json!("Operations"), 400, "reserved_aggregate_type"),
        ("aggregate_type", json!("account"), 400, "invalid_identifier"),
        ("aggregate_id", json!(""), 400, "invalid_identifier"),
        ("aggregate_id", json!("a\u{7}"), 400, "invalid_identifier"),
        ("payload", json!({"n": 9_007_199_254_740_993u64}), 400, "inexact_number"),
        ("metadata", json!({"kind": "domain"}), 400, "reserved_metadata"),
        ("metadata", json!({"encryption": {}}), 400, "reserved_metadata"),
        ("metadata", json!([]), 400, "invalid_field"),
        ("metadata", json!({"traceparent": "zz"}), 400, "invalid_field"),
        ("actor", json!(""), 400, "invalid_field"),
        ("expected_seq", json!(-1), 400, "invalid_body"),
        ("expected_sequence", json!(1), 400, "invalid_body"),
        ("expected_seq", json!(5), 409, "optimistic_concurrency_conflict"),
        ("payload", json!({"text": "x".repeat(800_000)}), 413, "too_large"),
        ("payload", json!({"text": "x".repeat(1_100_000)}), 413, "too_large"),
    ] {
        let answer = host.post("/api/v1/commands", with(open_account(), name, value)).await;
        assert_eq!((answer.status.as_u16(), &answer.body["code"]), (status, &json!(code)), "{name}: {}", answer.text);
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert_eq!(host.sequence("Account", "a1").await.0, 0);
    let unknown = host.post("/api/v1/commands", with(open_account(), "command_type", json!("FLY"))).await;
    assert!(unknown.body["detail"].as_str().unwrap().contains("DEPOSIT"), "{}", unknown.text);
    let twice =
        r#"{"command_type":"OPEN_ACCOUNT","aggregate_type":"Account","aggregate_id":"a1","payload":{"a":1,"a":2}}"#;
    let request = Request::post("/api/v1/commands").body(Body::from(twice)).unwrap();
    let answer = host.raw(request).await.expect(400);
    assert_eq!((&answer.body["code"], &answer.body["pointer"]), (&json!("duplicate_key"), &json!("/payload/a")));
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_created_updated_and_deleted_by_their_sequence() {
    let host = host().await;
    let base = "/api/v1/instances/shop/async/Product";
    let created =
        host.post(&format!("{base}/create"), json!({"data": {"product_id": "p1", "price": 1}})).await.expect(202);
    let result = &created.body["result"];
    assert_eq!(
        (&result["aggregate_id"], &result["instance_id"], &result["class_id"], &result["db_name"]),
        (&json!("shop:Product:p1"), &json!("p1"), &json!("Product"), &json!("shop"))
    );
    let again = host.post(&format!("{base}/create"), json!({"data": {"product_id": "p1"}})).await.expect(409);
    assert_eq!((&again.body["expected_seq"], &again.body["actual_seq"]), (&json!(0), &json!(1)));
    let update = format!("{base}/p1/update");
    let body = json!({"data": {"price": 2}});
    let missing = host.send("PUT", &update, &[], Some(body.clone())).await.expect(409);
    assert_eq!((&missing.body["expected_seq"], &missing.body["actual_seq"]), (&Value::Null, &json!(1)));
    assert_eq!(missing.body["error"], "optimistic_concurrency_conflict");
    host.send("PUT", &format!("{update}?expected_seq=1"), &[("If-Match", "\"2\"")], Some(body.clone()))
        .await
        .expect(400);
    host.send("PUT", &format!("{update}?expected_seq=1"), &[], Some(body.clone())).await.expect(202);
    host.send("PUT", &update, &[("If-Match", "\"2\"")], Some(body)).await.expect(202);
    let gone = host.send("DELETE", &format!("{base}/p1/delete?expected_seq=3"), &[], None).await.expect(202);
    assert_eq!(gone.body["result"]["sequence_number"], 4);
    let bulk = json!({"command_id": ID, "instances": [{"product_id": "p2"}, {"product_id": "p3"}]});
    let bulk = host.post(&format!("{base}/bulk-create"), bulk).await.expect(202);
    assert_eq!(bulk.body["result"]["aggregate_id"], format!("shop:Product:{ID}"));
    for (path, body) in [
        ("/api/v1/instances/sh-op/async/Product/create", json!({"data": {}})),
        ("/api/v1/instances/shop/async/Pro%20duct/create", json!({"data": {}})),
        ("/api/v1/instances/shop/async/Product/create", json!({"data": []})),
        ("/api/v1/instances/shop/async/Product/create", json!({})),
        ("/api/v1/instances/shop/async/Product/create", json!({"data": {"product_id": "a b"}})),
        ("/api/v1/instances/shop/async/Product/bulk-create", json!({"instances": {}})),
    ] {
        host.post(path, body).await.expect(400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_and_classes_take_their_names_from_the_body_or_the_address() {
    let host = host().await;
    let db = host.post("/api/v1/database/create", json!({"name": "shop", "description": "a shop"})).await.expect(202);
    assert_eq!(db.body["result"]["db_name"], "shop");
    let class = json!({"id": "Product", "label": "Product", "properties": [], "command_id": ID});
    let created = host.post("/api/v1/database/shop/ontology", class).await.expect(202);
    assert_eq!(created.body["command_id"], ID);
    let stored = host.get(&format!("/api/v1/events/{ID}")).await.expect(200);
    let payload = &stored.body["data"]["payload"];
    assert_eq!(payload, &json!({"id": "Product", "label": "Product", "properties": []}), "command_id is not payload");
    let path = "/api/v1/database/shop/ontology/Product";
    let change = json!({"label": "Goods", "expected_seq": 1});
    host.send("PUT", path, &[], Some(change)).await.expect(202);
    host.send("PUT", path, &[], Some(json!({"id": "Other", "expected_seq": 2}))).await.expect(400);
    host.send("DELETE", path, &[("If-Match", "\"2\"")], None).await.expect(202);
    host.send("DELETE", "/api/v1/database/shop?expected_seq=1", &[], None).await.expect(202);
    host.post("/api/v1/database/create", json!({"description": "nameless"})).await.expect(400);
    host.get(path).await.expect(404);
    let list = host.get("/api/v1/database/list").await.expect(200);
    assert_eq!(list.body["data"]["databases"], json!([]));
    assert_eq!(host.get("/api/v1/database/exists/shop").await.body, json!({"data": {"exists": false}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_answers_with_the_final_status_when_it_comes_in_time() {
    let host = host().await;
    let body = with(open_account(), "command_id", json!(ID));
    let late = host.send("POST", "/api/v1/commands", &[("Prefer", "wait=0")], Some(body.clone())).await.expect(202);
    assert_eq!(late.header("preference-applied"), "");
    let waiting = [("Prefer", "respond-async, wait=20")];
    let (answer, _) = tokio::join!(host.send("POST", "/api/v1/commands", &waiting, Some(body)), async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        host.decide(ID, "ACCOUNT_OPENED", json!({"owner": "Ada"})).await
    });
    let answer = answer.expect(200);
    assert_eq!(answer.body["status"], "COMPLETED");
    assert_eq!(answer.body["events"][0]["event_type"], "ACCOUNT_OPENED");
    assert_eq!(answer.body["result"]["sequence_number"], 2);
    assert!(answer.body["completed_at"].is_string());
    assert_eq!(answer.header("preference-applied"), "wait=20");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_command_says_why() {
    let host = host().await;
    host.post("/api/v1/commands", with(open_account(), "command_id", json!(ID))).await.expect(202);
    let problems = json!([{"code": "no-owner", "message": "who?", "pointer": "/owner"}]);
    let data = json!({"command_id": ID, "code": "rejected", "message": "who?", "problems": problems});
    host.decide(ID, "COMMAND_FAILED", data).await;
    let status = host.get(&format!("/api/v1/commands/{ID}/status")).await.expect(200);
    assert_eq!(status.body["status"], "FAILED");
    assert_eq!(status.body["error"], json!({"code": "rejected", "message": "who?", "problems": problems}));
    assert_eq!(status.body["result"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_discarded_is_cancelled_and_what_was_erased_is_still_readable() {
    let host = host().await;
    let other = "0190aaaa-bbbb-4ccc-8ddd-ffffffffffff";
    for (id, aggregate) in [(ID, "a1"), (other, "a2")] {
        let body = with(with(open_account(), "command_id", json!(id)), "aggregate_id", json!(aggregate));
        host.post("/api/v1/commands", body).await.expect(202);
    }
    let data = json!({"command_id": ID, "code": "discarded", "message": "by an operator"});
    host.decide(ID, "COMMAND_FAILED", data).await;
    host.decide(other, "COMMAND_FAILED", json!({"$enc": "AAAA"})).await;
    assert_eq!(host.get(&format!("/api/v1/commands/{ID}/status")).await.body["status"], "CANCELLED");
    let erased = host.get(&format!("/api/v1/commands/{other}/status")).await.expect(200);
    assert_eq!((&erased.body["status"], &erased.body["error"]["code"]), (&json!("FAILED"), &json!("erased")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_for_its_token_and_says_how_far_the_projection_is() {
    let host = host().await;
    let consumer = "projection_worker:instance_events";
    host.progress.register(consumer, crate::domain::Partition(0), crate::domain::Position(0));
    let created = host
        .post("/api/v1/instances/shop/async/Product/create", json!({"command_id": ID, "data": {"product_id": "p1"}}))
        .await
        .expect(202);
    let token = created.body["consistency_token"].as_str().unwrap().to_owned();
    let headers = [("Consistency-Token", token.as_str()), ("Prefer", "wait=0")];
    let path = "/api/v1/instances/shop/Product";
    let undecided = host.send("GET", path, &headers, None).await.expect(503);
    assert!(undecided.body["type"].as_str().unwrap().ends_with("projection-behind"));
    let event = host.decide(ID, "INSTANCE_CREATED", json!({})).await;
    let behind = host.send("GET", path, &headers, None).await.expect(503);
    assert_eq!(behind.body["wanted_position"], json!({"0": event.position.0}));
    assert_eq!(behind.body["projection_position"], json!({"0": 0}));
    assert!(!behind.header("retry-after").is_empty());
    let status = host.get(&format!("/api/v1/commands/{ID}/status")).await.expect(200);
    let of_status = status.body["consistency_token"].as_str().unwrap().to_owned();
    let waiting = [("Consistency-Token", of_status.as_str()), ("Prefer", "wait=20")];
    let (answer, ()) = tokio::join!(host.send("GET", path, &waiting, None), async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let next = crate::domain::Position(event.position.0 + 1);
        host.progress.publish(consumer, crate::domain::Partition(0), next, Some(event.recorded_at));
    });
    let answer = answer.expect(200);
    assert_eq!(answer.header("preference-applied"), "wait=20");
    assert_eq!(answer.header("projection-position"), format!("0={}", event.position.0 + 1));
    assert_eq!(answer.header("projection-time"), event.recorded_at.to_string());
    host.send("GET", path, &[("Consistency-Token", "rubbish")], None).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_methods_and_types_that_do_not_exist_are_problems() {
    let host = host().await;
    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "unknown_route"),
        ("GET", "/api/v1/nowhere", 404, "unknown_route"),
        ("POST", "/admin/v1/replays", 401, "unauthorized"),
        ("GET", "/api/v1/commands", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("GET", "/api/v1/aggregates/Account/nobody", 404, "aggregate_not_found"),
        ("GET", "/api/v1/aggregates/Account/nobody/events", 404, "aggregate_not_found"),
        ("GET", "/api/v1/aggregates/Rocket/r1", 404, "no_handler"),
        ("GET", "/api/v1/events/17", 400, "invalid_parameter"),
        ("GET", &format!("/api/v1/events/{ID}"), 404, "event_not_found"),
        ("GET", &format!("/api/v1/commands/{ID}/status"), 404, "command_not_found"),
        ("GET", "/api/v1/events?after=17", 400, "invalid_parameter"),
        ("GET", "/api/v1/events?limit=0", 400, "invalid_parameter"),
        ("GET", "/api/v1/instances/shop/Product?filter=price", 400, "invalid_parameter"),
        ("GET", "/api/v1/instances/shop/Product/%FF", 400, "invalid_path"),
        ("GET", "/api/v1/commands/%FF/status", 400, "invalid_path"),
        ("GET", "/api/v1/aggregates/Account/a?at_seq=1&at_time=2025-01-01T00:00:00Z", 400, "invalid_parameter"),
    ] {
        let answer = host.send(method, path, &[], None).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["code"]),
            (status, &json!(code)),
            "{method} {path}: {}",
            answer.text
        );
        assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
    }
    let wrong = host.send("GET", "/api/v1/commands", &[], None).await;
    assert_eq!(wrong.header("allow"), "POST");
    let root = [("Authorization", "Bearer root")];
    for path in ["/admin/v1/replays", "/admin/v1/nowhere"] {
        host.send("POST", path, &root, Some(json!({}))).await.expect(404);
    }
    let form = Request::post("/api/v1/commands").header("content-type", "application/x-www-form-urlencoded");
    host.raw(form.body(Body::from("a=b")).unwrap()).await.expect(415);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_limited_to_a_database_sees_and_changes_nothing_else() {
    let host = Host::start(Wish { open: false, ..Wish::default() }).await;
    let shop = [("Authorization", "Bearer shop")];
    let root = [("Authorization", "Bearer root")];
    let create = |db: &str| format!("/api/v1/instances/{db}/async/Product/create");
    let body = || Some(json!({"actor": "someone", "data": {"product_id": "p1"}}));
    host.send("POST", &create("shop"), &[], body()).await.expect(401);
    let mine = host.send("POST", &create("shop"), &shop, body()).await.expect(202);
    host.send("POST", &create("bank"), &shop, body()).await.expect(403);
    let other = host.send("POST", &create("bank"), &root, body()).await.expect(202);
    host.send("POST", "/api/v1/commands", &shop, Some(open_account())).await.expect(403);
    let id = |answer: &super::host::Answer| answer.body["command_id"].as_str().unwrap().to_owned();
    let event = host.send("GET", &format!("/api/v1/events/{}", id(&mine)), &shop, None).await.expect(200);
    assert_eq!(event.body["actor"], "shop@example", "the token's subject, whatever the body says");
    for path in [
        format!("/api/v1/events/{}", id(&other)),
        format!("/api/v1/commands/{}/status", id(&other)),
        "/api/v1/instances/bank/Product".to_owned(),
        "/api/v1/instances/bank/Product/p1".to_owned(),
        "/api/v1/database/bank/ontology".to_owned(),
        "/api/v1/database/exists/bank".to_owned(),
        "/api/v1/aggregates/Instance/bank:Product:p1".to_owned(),
        "/api/v1/aggregates/Instance/bank:Product:p1/events".to_owned(),
        "/api/v1/aggregates/Account/a1/events".to_owned(),
        "/admin/v1/claims".to_owned(),
    ] {
        host.send("GET", &path, &shop, None).await.expect(403);
    }
    let events = host.send("GET", "/api/v1/events", &shop, None).await.expect(200);
    let seen: Vec<_> = events.body["events"].as_array().unwrap().iter().map(|event| &event["event_id"]).collect();
    assert_eq!(seen, [&json!(id(&mine))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_warn_mode_a_limited_token_is_not_told_of_the_command_of_another_database() {
    let host = Host::start(Wish { open: false, mode: MismatchMode::Warn, ..Wish::default() }).await;
    let create = |db: &str| format!("/api/v1/instances/{db}/async/Product/create");
    let body = || Some(json!({"command_id": ID, "data": {"product_id": "p1"}}));
    host.send("POST", &create("bank"), &[("Authorization", "Bearer root")], body()).await.expect(202);
    let told = host.send("POST", &create("shop"), &[("Authorization", "Bearer shop")], body()).await.expect(403);
    assert!(!told.text.contains("bank:"), "{}", told.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_may_have_the_name_of_a_route() {
    let host = host().await;
    for name in ["create", "list"] {
        host.post("/api/v1/database/create", json!({"name": name})).await.expect(202);
        let path = format!("/api/v1/database/{name}?expected_seq=1");
        let deleted = host.send("DELETE", &path, &[], None).await.expect(202);
        assert_eq!(deleted.body["result"]["aggregate_id"], name);
    }
}

/// A batch is decided before its rows are: until then it is what the first of those is that are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_under_way_until_its_rows_are_decided() {
    let host = host().await;
    let row = json!({"command_id": ID, "instances": [{"product_id": "p1"}]});
    host.post("/api/v1/instances/shop/async/Product/bulk-create", row).await.expect(202);
    let path = format!("/api/v1/commands/{ID}/status");
    let status = || async { host.get(&path).await.expect(200).body };
    assert_eq!(status().await["status"], "PENDING");
    host.decide_and_issue(ID, "INSTANCE_BATCH_CREATED", json!({}), Some(1)).await;
    assert_eq!(status().await["status"], "PROCESSING");
    let (owner, now) = (Owner { name: "host".into(), run: 1 }, Timestamp(0));
    let event_id = derived_id::issued_command(ID.parse().unwrap(), 0);
    let aggregate_id = "shop:Product:p1".to_owned();
    let claim = Claim { event_id, aggregate_id: aggregate_id.clone(), sequence: Sequence(1) };
    host.registry.claim("instance_worker", &owner, &[claim], 1_000, now).await.unwrap();
    let ended = Finished { event_id, aggregate_id, sequence: Sequence(1), attempt: 1 };
    host.registry.fail("instance_worker", &owner, &[ended], Status::Parked, "no room", now).await.unwrap();
    let parked = status().await;
    assert_eq!((&parked["status"], &parked["error"]["code"]), (&json!("RETRYING"), &json!("parked")), "{parked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_answered_and_never_queued() {
    let limits = Limits { requests_max: 1, tails_max: 0 };
    let host = Host::start(Wish { limits, ..Wish::default() }).await;
    let body = with(open_account(), "command_id", json!(ID));
    let waiting = [("Prefer", "wait=20")];
    let (slow, ()) = tokio::join!(host.send("POST", "/api/v1/commands", &waiting, Some(body)), async {
        while host.sequence("Account", "a1").await.0 == 0 {
            tokio::task::yield_now().await;
        }
        let refused = host.get("/api/v1/database/list").await.expect(503);
        assert_eq!((&refused.body["code"], refused.header("retry-after")), (&json!("overloaded"), "1"));
        host.get("/health").await.expect(200);
        host.decide(ID, "ACCOUNT_OPENED", json!({})).await;
    });
    slow.expect(200);
    let tail = host.send("GET", "/api/v1/events", &[("Accept", "text/event-stream")], None).await.expect(503);
    assert_eq!(tail.body["code"], "overloaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_token_opens_administration() {
    let host = host().await;
    let root = [("Authorization", "Bearer root")];
    for path in ["/admin/v1/dead-letters", "/admin/v1/claims", "/admin/v1/consumers", "/admin/v1/relay"] {
        host.get(path).await.expect(401);
        host.send("GET", path, &root, None).await.expect(200);
    }
    host.send("GET", "/admin/v1/claims?status=asleep", &root, None).await.expect(400);
    host.send("GET", &format!("/admin/v1/operations/{ID}"), &root, None).await.expect(404);
    host.send("POST", &format!("/admin/v1/dead-letters/{ID}/retry"), &root, None).await.expect(404);
    let reason = Some(json!({"reason": "hopeless"}));
    host.send("POST", &format!("/admin/v1/dead-letters/{ID}/discard"), &root, reason).await.expect(404);
    host.send("POST", &format!("/admin/v1/claims/instance_worker/{ID}/release"), &root, None).await.expect(404);
    let metrics = host.get("/metrics").await.expect(200);
    assert!(metrics.text.contains("carryall_http_request_seconds"), "{}", metrics.text);
    assert_eq!(host.get("/ready").await.expect(200).body["ready"], true);
}
