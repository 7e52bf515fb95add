//! A host on PostgreSQL, with its log in a folder: commands, dead letters, rebuilding, restarts, retention, and what
//! happens while the database is away.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use carryall_tests::{
    Client, Log, Options, Postgres, Server, Shop, Wire, abuse, read_model_is_the_fold, ready, until, until_logged,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

fn options(postgres: &Postgres) -> Options {
    Options::default().with("POSTGRES_URL", &postgres.url())
}

/// A host behind a wire that the test can cut.
async fn wired(postgres: &Postgres) -> (Options, Wire) {
    let wire = Wire::to(postgres.address()).await.unwrap();
    (Options::default().with("POSTGRES_URL", &postgres.url_at(&wire.address())), wire)
}

async fn products(client: &Client, seen: &Value) -> Value {
    let token = seen["consistency_token"].as_str().unwrap();
    let reader = client.with("consistency-token", token).with("prefer", "wait=60");
    reader.get("/api/v1/instances/shop/Product?limit=1000").await.unwrap().expect(200).unwrap()
}

/// Every claim becomes `done`: a command is COMPLETED once its outcome is in the log, and its claim is marked after.
async fn every_claim_ends(postgres: &Postgres) {
    let open = "SELECT handler || ' ' || event_id FROM spice_event_registry.processed_events WHERE status <> 'done'";
    let begin = Instant::now();
    loop {
        let open = postgres.texts(open).await;
        if open.is_empty() {
            return;
        }
        assert!(begin.elapsed() < SOON, "these claims stay open: {open:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn part<'a>(ready: &'a Value, name: &str) -> &'a Value {
    let parts = ready["parts"].as_array().unwrap();
    parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("{ready}"))
}

/// Products that a log has.
fn created(log: &Log) -> usize {
    log.events.iter().filter(|event| event.event_type() == "INSTANCE_CREATED").count()
}

/// Documents of products in the read model's table are as many as the log has.
async fn table_is_whole(postgres: &Postgres, log: &Log) {
    let written = "SELECT count(*)::text FROM spice_event_registry.documents WHERE id LIKE 'shop:Product:%'";
    assert_eq!(postgres.texts(written).await, [created(log).to_string()], "the read model is not the log's fold");
}

/// Creates products until a time, or until the host goes away; gives the commands that were accepted.
async fn create_products(client: Client, prefix: String, until: Option<Instant>) -> Vec<String> {
    let mut accepted = Vec::new();
    for n in 0.. {
        let body = json!({"data": {"product_id": format!("{prefix}n{n}"), "name": "n"}});
        match client.post("/api/v1/instances/shop/async/Product/create", &body).await {
            Ok(answer) if answer.status == 202 => {
                accepted.push(answer.json().unwrap()["command_id"].as_str().unwrap().to_owned());
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(_) if until.is_none() => break,
            Err(error) => panic!("{error}"),
        }
        if until.is_some_and(|until| Instant::now() > until) {
            break;
        }
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_serves_from_postgres_and_a_dropped_schema_is_made_again() {
    let postgres = Postgres::create().await;
    let mut server = Server::start(options(&postgres)).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let mut last = Value::Null;
    for n in 0..20 {
        let data = json!({"product_id": format!("p{n}"), "name": format!("Pen number {n}"), "price": n});
        last = shop.put("Product", data).await.unwrap();
    }
    let before = products(&shop.client, &last).await;
    assert_eq!(before["instances"].as_array().unwrap().len(), 20);
    for (search, found) in [("q=number+7", 1), ("filter=data.price%3D7", 1), ("filter=data.price%3E14", 5)] {
        let path = format!("/api/v1/instances/shop/Product?{search}");
        let page = shop.client.get(&path).await.unwrap().expect(200).unwrap();
        assert_eq!(page["instances"].as_array().unwrap().len(), found, "{search}: {page}");
    }
    assert!(!server.data().join("carryall.db").exists(), "SQLite is used beside PostgreSQL");
    let command = last["command_id"].as_str().unwrap().to_owned();
    let status = shop.client.outcome(&command).await.unwrap();
    let seen = format!("SELECT status FROM spice_event_registry.command_status WHERE command_id = '{command}'");
    // The index takes segments some at a time: a shell sees them a moment after readers.
    until("the index tells COMPLETED", || async { postgres.texts(&seen).await == ["COMPLETED"] }).await.unwrap();
    every_claim_ends(&postgres).await;
    let done = "SELECT DISTINCT handler FROM spice_event_registry.processed_events WHERE status = 'done' ORDER BY 1";
    assert!(postgres.texts(done).await.contains(&"instance_worker".to_owned()));

    server.kill().unwrap();
    postgres.execute("DROP SCHEMA spice_event_registry CASCADE").await;
    server.start_again().await.unwrap();
    assert_eq!(products(&shop.client, &last).await, before, "a rebuilt read model differs");
    assert_eq!(shop.client.outcome(&command).await.unwrap(), status);

    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    for command in ["verify", "rebuild", "verify"] {
        let output = server.run(&[command, "--json"]).unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stdout));
    }
    server.start_again().await.unwrap();
    assert_eq!(products(&shop.client, &last).await, before);
    assert!(!server.host_log().contains("svc@"), "the password of the database is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_under_load_on_postgres_loses_nothing_and_repeats_nothing() {
    let postgres = Postgres::create().await;
    let mut server = Server::start(options(&postgres)).await.unwrap();
    Shop::create(server.client()).await.unwrap();
    let mut accepted: Vec<String> = Vec::new();
    for round in 0..3 {
        let clients: Vec<_> =
            (0..8).map(|n| tokio::spawn(create_products(server.client(), format!("r{round}c{n}"), None))).collect();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let enough = (round + 1) * 20;
        until("clients get on", || async { created(&server.log().unwrap()) >= enough }).await.unwrap();
        server.kill().unwrap();
        for client in clients {
            accepted.extend(client.await.unwrap());
        }
        server.start_again().await.unwrap();
    }
    assert!(accepted.len() > 24, "too little was accepted to prove anything: {}", accepted.len());
    for id in &accepted {
        let status = server.client().outcome(id).await.unwrap();
        assert_eq!(status["status"], "COMPLETED", "{status}");
    }
    for command in server.log().unwrap().undecided() {
        server.client().outcome(command.id()).await.unwrap();
    }
    let log = server.log().unwrap();
    for id in &accepted {
        assert_eq!(log.outcome(id).len(), 1, "{id} has not exactly one outcome");
    }
    read_model_is_the_fold(&server.client(), &log).await.unwrap();
    table_is_whole(&postgres, &log).await;
    // Every outcome took effect once: one row for each event and consumer, none left open.
    every_claim_ends(&postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgres_is_away_nothing_is_promised_and_all_goes_on_when_it_is_back() {
    let postgres = Postgres::create().await;
    let (options, wire) = wired(&postgres).await;
    let mut server = Server::start(options).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let first = shop.put("Product", json!({"product_id": "p1", "name": "Pen"})).await.unwrap();
    let before = shop.read("Product", "p1", &first).await.unwrap();

    wire.cut();
    let away = ready(&shop.client, 503).await.unwrap();
    assert_eq!(part(&away, "database")["ready"], false, "{away}");
    let read = shop.client.get("/api/v1/instances/shop/Product/p1").await.unwrap();
    let refused = read.problem(503).unwrap();
    assert_eq!(refused.code, "part_unavailable");
    assert!(read.header("retry-after").is_some());
    // A new aggregate's head is not in memory: whether it exists cannot be told, so nothing is promised. What is
    // accepted all the same is in the log, and is done later.
    let mut accepted = Vec::new();
    for n in 0..10 {
        let body = json!({"data": {"product_id": format!("away{n}"), "name": "Pen"}});
        let answer = shop.client.post("/api/v1/instances/shop/async/Product/create", &body).await.unwrap();
        match answer.status {
            202 => accepted.push(answer.json().unwrap()["command_id"].as_str().unwrap().to_owned()),
            _ => assert!(answer.problem(503).unwrap().retryable),
        }
    }
    assert_eq!(shop.client.get("/health").await.unwrap().status, 200);

    wire.mend();
    ready(&shop.client, 200).await.unwrap();
    for id in &accepted {
        assert_eq!(shop.client.outcome(id).await.unwrap()["status"], "COMPLETED");
    }
    let second = shop.put("Product", json!({"product_id": "p2", "name": "Pen"})).await.unwrap();
    shop.read("Product", "p2", &second).await.unwrap();
    assert_eq!(shop.read("Product", "p1", &first).await.unwrap(), before);
    every_claim_ends(&postgres).await;

    // A host that is told to stop while the database is away stops, and finds everything again.
    wire.cut();
    ready(&shop.client, 503).await.unwrap();
    server.terminate().await.unwrap();
    wire.mend();
    server.start_again().await.unwrap();
    assert_eq!(shop.read("Product", "p1", &first).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_under_load_survive_a_flapping_database() {
    let postgres = Postgres::create().await;
    let (options, wire) = wired(&postgres).await;
    let server = Server::start(options).await.unwrap();
    Shop::create(server.client()).await.unwrap();
    let until = Instant::now() + Duration::from_secs(6);
    let clients: Vec<_> =
        (0..6).map(|n| tokio::spawn(create_products(server.client(), format!("c{n}"), Some(until)))).collect();
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        wire.cut();
        tokio::time::sleep(Duration::from_millis(300)).await;
        wire.mend();
    }
    let mut accepted = Vec::new();
    for client in clients {
        accepted.extend(client.await.unwrap());
    }
    ready(&server.client(), 200).await.unwrap();
    for id in &accepted {
        let status = server.client().outcome(id).await.unwrap();
        assert_eq!(status["status"], "COMPLETED", "{status}");
    }
    let log = server.log().unwrap();
    assert_eq!(created(&log), accepted.len() + log.undecided().len());
    read_model_is_the_fold(&server.client(), &log).await.unwrap();
    table_is_whole(&postgres, &log).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_started_before_its_database_waits_for_it() {
    let postgres = Postgres::create().await;
    let (options, wire) = wired(&postgres).await;
    wire.cut();
    let mut server = Server::begin(None, options).unwrap();
    until_logged(&server, "a part is away").await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(server.ended().unwrap().is_none(), "{}", server.host_log());
    if let Ok(answer) = server.client().get("/ready").await {
        assert_eq!(answer.status, 503, "a host without its database is ready");
    }
    wire.mend();
    server.wait_ready().await.unwrap();
    Shop::create(server.client()).await.unwrap();
}

#[tokio::test]
async fn dead_letters_are_kept_in_postgres() {
    let postgres = Postgres::create().await;
    let mut server = Server::start(options(&postgres)).await.unwrap();
    let operator = server.operator();
    let upload = operator.with("content-type", "application/wasm");
    let bytes = abuse("fragile").unwrap();
    let uploaded = upload.send("POST", "/admin/v1/handlers", Some(bytes.into())).await.unwrap().expect(201).unwrap();
    let digest = uploaded["digest"].as_str().unwrap();
    let activate = format!("/admin/v1/handlers/fragile/versions/{digest}/activate");
    operator.post(&activate, &json!({"force": true})).await.unwrap().expect(200).unwrap();
    let note = server.client().command("NOTE", ("Notebook", "n"), None, json!({"text": "poison"})).await.unwrap();
    let id = note.expect(202).unwrap()["command_id"].as_str().unwrap().to_owned();
    let letter = async |client: &Client| {
        let begin = Instant::now();
        loop {
            let page = client.get("/admin/v1/dead-letters?state=parked").await.unwrap().expect(200).unwrap();
            if let Some(letter) = page["dead_letters"].as_array().unwrap().first() {
                return letter.clone();
            }
            assert!(begin.elapsed() < SOON, "nothing is parked");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let parked = letter(&operator).await;
    assert_eq!(parked["event_id"], id.as_str(), "{parked}");
    server.kill().unwrap();
    postgres.execute("DROP SCHEMA spice_event_registry CASCADE").await;
    server.start_again().await.unwrap();
    assert_eq!(letter(&operator).await, parked, "a rebuilt dead letter differs");
    let discard = format!("/admin/v1/dead-letters/{}/discard", parked["id"].as_str().unwrap());
    operator.post(&discard, &json!({"reason": "a test"})).await.unwrap().expect(200).unwrap();
    assert_eq!(server.client().outcome(&id).await.unwrap()["status"], "CANCELLED");
}

#[tokio::test]
async fn old_claims_go_by_command_and_what_was_handled_is_not_handled_again() {
    let postgres = Postgres::create().await;
    let mut server = Server::start(options(&postgres)).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    let created = shop.put("Product", json!({"product_id": "p1", "name": "Pen"})).await.unwrap();
    let before = shop.read("Product", "p1", &created).await.unwrap();
    every_claim_ends(&postgres).await;
    let retire = server.run(&["claims", "retire", "--older-than-hours", "1", "--json"]).unwrap();
    let retired: Value = serde_json::from_slice(&retire.stdout).unwrap();
    assert_eq!(retired, json!({"retired": 0}), "{}", String::from_utf8_lossy(&retire.stderr));
    let too_soon = server.run(&["claims", "retire", "--older-than-hours", "0"]).unwrap();
    assert!(!too_soon.status.success());
    postgres
        .execute("UPDATE spice_event_registry.processed_events SET processed_at = now() - interval '2 hours'")
        .await;
    let retire = server.run(&["claims", "retire", "--older-than-hours", "1", "--json"]).unwrap();
    let retired: Value = serde_json::from_slice(&retire.stdout).unwrap();
    assert!(retired["retired"].as_u64().unwrap() >= 8, "{retired}");
    let left = "SELECT event_id::text FROM spice_event_registry.processed_events";
    assert_eq!(postgres.texts(left).await, Vec::<String>::new());
    // A consumer whose checkpoint was lost meets all of it again, and handles none of it.
    assert!(server.terminate().await.unwrap().success());
    postgres.execute("DELETE FROM spice_event_registry.consumer_checkpoints").await;
    let events = server.log().unwrap().events.len();
    server.start_again().await.unwrap();
    let again = shop.put("Product", json!({"product_id": "p2", "name": "Pen"})).await.unwrap();
    assert_eq!(shop.read("Product", "p1", &again).await.unwrap(), before);
    assert_eq!(server.log().unwrap().events.len(), events + 2, "a command was decided twice");
    let rerun = "SELECT handler || ' ' || sequence_number FROM spice_event_registry.processed_events
                  WHERE status <> 'skipped_stale' AND aggregate_id <> 'shop:Product:p2'";
    assert_eq!(postgres.texts(rerun).await, Vec::<String>::new());
}
