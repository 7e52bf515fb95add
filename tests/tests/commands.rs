//! Commands, their status, idempotency and waiting; histories, single events, pages and the tail.
#![allow(clippy::unwrap_used)]

use carryall_tests::{Options, Server, Shop, fresh_id, run_to_end};
use serde_json::{Value, json};

async fn shop() -> (Server, Shop) {
    let server = Server::start(Options::default()).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    (server, shop)
}

fn create(id: &str, name: &str) -> Value {
    json!({
        "command_type": "CREATE_INSTANCE", "aggregate_type": "Instance", "aggregate_id": format!("shop:Product:{id}"),
        "payload": {
            "db_name": "shop", "class_id": "Product", "instance_id": id, "data": {"product_id": id, "name": name},
        },
    })
}

#[tokio::test]
async fn a_retry_with_the_same_id_gets_the_first_answer_for_ever() {
    let (mut server, shop) = shop().await;
    let id = fresh_id().to_string();
    let mut body = create("i1", "Pen");
    body["command_id"] = json!(id);
    let first = shop.client.post("/api/v1/commands", &body).await.unwrap();
    let first_body = first.expect(202).unwrap();
    shop.client.completed(first).await.unwrap();
    let events = server.log().unwrap().events.len();
    server.kill().unwrap();
    server.start_again().await.unwrap();
    let again = shop.client.post("/api/v1/commands", &body).await.unwrap();
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.json().unwrap()["result"]["sequence_number"], first_body["result"]["sequence_number"]);
    assert_eq!(again.json().unwrap()["command_id"], json!(id));
    body["actor"] = json!("somebody else");
    assert!(shop.client.post("/api/v1/commands", &body).await.unwrap().status < 300);

    body["payload"]["data"]["name"] = json!("Ink");
    let other = shop.client.post("/api/v1/commands", &body).await.unwrap();
    assert!(!other.problem(422).unwrap().retryable);
    assert_eq!(server.log().unwrap().events.len(), events, "something was written");
}

#[tokio::test]
async fn an_idempotency_key_names_a_command() {
    let (_server, shop) = shop().await;
    let path = "/api/v1/instances/shop/async/Product/create";
    let body = json!({"data": {"product_id": "k1", "name": "Pen"}});
    let client = shop.client.with("idempotency-key", "order 17");
    let first = client.post(path, &body).await.unwrap().expect(202).unwrap();
    shop.client.outcome(first["command_id"].as_str().unwrap()).await.unwrap();
    let again = client.post(path, &body).await.unwrap();
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.json().unwrap()["command_id"], first["command_id"]);
    let id = fresh_id().to_string();
    let named = shop.client.with("idempotency-key", &id);
    let named = named.post(path, &json!({"data": {"product_id": "k2", "name": "Pen"}})).await.unwrap();
    assert_eq!(named.expect(202).unwrap()["command_id"], json!(id));
    let long = shop.client.with("idempotency-key", &"x".repeat(256));
    long.post(path, &body).await.unwrap().problem(400).unwrap();
}

#[tokio::test]
async fn warn_mode_answers_other_content_as_the_first() {
    let options = Options::default().with("EVENT_STORE_IDEMPOTENCY_MISMATCH_MODE", "warn");
    let server = Server::start(options).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let mut body = create("w1", "Pen");
    body["command_id"] = json!(fresh_id());
    let first = shop.client.completed(shop.client.post("/api/v1/commands", &body).await.unwrap()).await.unwrap();
    body["payload"]["data"]["name"] = json!("Ink");
    let again = shop.client.post("/api/v1/commands", &body).await.unwrap();
    assert!(again.status < 300, "{}", again.text());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let metrics = shop.client.get("/metrics").await.unwrap().text();
    assert!(metrics.contains("carryall_idempotency_mismatches 1"), "{metrics}");
    assert_eq!(shop.read("Product", "w1", &first).await.unwrap()["data"]["name"], "Pen");
}

/// A payload goes out as it was given, an event is shown as it is stored.
#[tokio::test]
async fn the_command_line_spells_nothing_anew() {
    let (server, shop) = shop().await;
    let url = format!("http://{}", server.address());
    let run = |arguments: &[&str]| {
        let output = run_to_end(&[arguments, &["--url", &url]].concat(), &[]).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let send = |payload| run(&["commands", "send", "CREATE_INSTANCE", "Instance", "shop:Product:c1", payload]);
    for payload in [r#"{"a":1,"a":2}"#, r#"{"n":123456789012345678901234567890}"#] {
        let (code, _, why) = send(payload);
        assert!(code == Some(1) && why.contains("400"), "{payload}: {why}");
    }
    let id = fresh_id().to_string();
    let mut body = create("c1", "Pen");
    body["command_id"] = json!(id);
    shop.client.completed(shop.client.post("/api/v1/commands", &body).await.unwrap()).await.unwrap();
    let stored = shop.client.get(&format!("/api/v1/events/{id}")).await.unwrap().text();
    assert_eq!(run(&["events", "get", &id]).1.trim_end(), stored);
    let listed = run(&["events", "list", "--aggregate", "Instance/shop:Product:c1", "--json"]).1;
    assert!(listed.contains(&stored), "{listed}");
}

#[tokio::test]
async fn prefer_wait_answers_with_the_outcome() {
    let (_server, shop) = shop().await;
    let waiting = shop.client.with("prefer", "wait=60");
    let status = waiting.post("/api/v1/commands", &create("p1", "Pen")).await.unwrap().expect(200).unwrap();
    assert_eq!(status["status"], "COMPLETED", "{status}");
    let unknown = fresh_id();
    shop.client.get(&format!("/api/v1/commands/{unknown}/status")).await.unwrap().problem(404).unwrap();
    shop.client.get("/api/v1/commands/no-uuid/status").await.unwrap().problem(400).unwrap();
}

#[tokio::test]
async fn commands_nobody_can_decide_are_refused_at_the_door() {
    let (_server, shop) = shop().await;
    let mut unknown_type = create("u1", "Pen");
    unknown_type["aggregate_type"] = json!("Spaceship");
    let mut unknown_command = create("u1", "Pen");
    unknown_command["command_type"] = json!("LAUNCH");
    for body in [unknown_type, unknown_command] {
        let answer = shop.client.post("/api/v1/commands", &body).await.unwrap();
        assert!((400..500).contains(&answer.status), "{}", answer.text());
        answer.problem(answer.status).unwrap();
    }
    for reserved in ["Handler", "Operations"] {
        let mut body = create("u1", "Pen");
        body["aggregate_type"] = json!(reserved);
        let answer = shop.client.post("/api/v1/commands", &body).await.unwrap();
        assert!((400..500).contains(&answer.status), "{}", answer.text());
    }
}

#[tokio::test]
async fn history_and_states_of_the_past_come_from_the_log() {
    let (server, shop) = shop().await;
    shop.put("Product", json!({"product_id": "h1", "name": "one"})).await.unwrap();
    let update = "/api/v1/instances/shop/async/Product/h1/update?expected_seq=2";
    let updated = shop.client.put(update, &json!({"data": {"name": "two"}})).await.unwrap();
    shop.client.completed(updated).await.unwrap();
    let base = "/api/v1/aggregates/Instance/shop:Product:h1";
    let now = shop.client.get(base).await.unwrap().expect(200).unwrap();
    assert_eq!(now["sequence_number"], 4);
    assert!(now["state"].to_string().contains("two"), "{now}");
    let then = shop.client.get(&format!("{base}?at_seq=2")).await.unwrap().expect(200).unwrap();
    assert!(then["state"].to_string().contains("one"), "{then}");
    let log = server.log().unwrap();
    let history = shop.client.get(&format!("{base}/events?limit=3")).await.unwrap().expect(200).unwrap();
    let events = history["events"].as_array().unwrap();
    assert_eq!(events.len(), 3);
    let next = history["next"].as_str().unwrap();
    let rest = shop.client.get(&format!("{base}/events?after={next}")).await.unwrap().expect(200).unwrap();
    assert_eq!(rest["events"].as_array().unwrap().len(), 1);
    let id = events[1]["event_id"].as_str().unwrap();
    let stored = log.events.iter().find(|event| event.id() == id).unwrap();
    let event = shop.client.get(&format!("/api/v1/events/{id}")).await.unwrap();
    assert_eq!(event.text().trim_end(), stored.line, "not byte for byte");
    shop.client.get(&format!("/api/v1/events/{}", fresh_id())).await.unwrap().problem(404).unwrap();
    shop.client.get("/api/v1/aggregates/Instance/shop:Product:none").await.unwrap().problem(404).unwrap();
    shop.client.get("/api/v1/aggregates/Instance/not-an-id").await.unwrap().problem(400).unwrap();
}

#[tokio::test]
async fn pages_and_tail_give_the_whole_log_in_order() {
    let (server, shop) = shop().await;
    for number in 0..5 {
        shop.put("Product", json!({"product_id": format!("t{number}"), "name": "n"})).await.unwrap();
    }
    let log = server.log().unwrap();
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = shop.client.get(&format!("/api/v1/events?limit=4{after}")).await.unwrap().expect(200).unwrap();
        paged.extend(page["events"].as_array().unwrap().iter().map(|event| event["event_id"].to_string()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let stored: Vec<String> = log.events.iter().map(|event| json!(event.id()).to_string()).collect();
    assert_eq!(paged, stored);

    let tail = shop.client.tail("/api/v1/events", log.events.len()).await.unwrap();
    let lines: Vec<&str> = tail.iter().map(|(_, data)| data.as_str()).collect();
    let wanted: Vec<&str> = log.events.iter().map(|event| event.line.as_str()).collect();
    assert_eq!(lines, wanted);
    let (half, _) = &tail[6];
    let resumed = shop.client.with("last-event-id", half).tail("/api/v1/events", log.events.len() - 7).await.unwrap();
    assert_eq!(resumed, tail[7..]);
    let created = shop.client.tail("/api/v1/events?types=INSTANCE_CREATED", 5).await.unwrap();
    assert!(created.iter().all(|(_, data)| data.contains("\"event_type\":\"INSTANCE_CREATED\"")));

    let (last, _) = tail.last().unwrap();
    let follower = shop.client.with("last-event-id", last);
    let following = tokio::spawn(async move { follower.tail("/api/v1/events", 2).await });
    shop.put("Product", json!({"product_id": "live", "name": "n"})).await.unwrap();
    let live = following.await.unwrap().unwrap();
    assert!(live[0].1.contains("CREATE_INSTANCE_REQUESTED") && live[1].1.contains("INSTANCE_CREATED"));
}

#[tokio::test]
async fn the_openapi_document_lists_the_routes() {
    let server = Server::start(Options::default()).await.unwrap();
    let document = server.client().get("/openapi.json").await.unwrap().expect(200).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    for path in ["/api/v1/commands", "/api/v1/commands/{command_id}/status", "/admin/v1/handlers", "/api/v1/events"] {
        assert!(paths.contains_key(path), "{path} is missing");
    }
}
