//! `/admin/v1/handlers` from outside: what is refused, what serves, and what a restart or a damaged file makes of it.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use carryall_tests::{Answer, Client, Options, Problem, Server, component};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const HANDLERS: &str = "/admin/v1/handlers";

fn account() -> Vec<u8> {
    component("account").unwrap()
}

/// The same code under another digest: a custom section that nobody reads is added.
fn variant(n: u8) -> Vec<u8> {
    let mut bytes = account();
    bytes.extend_from_slice(&[0, 4, 2, b'n', b'o', n]);
    bytes
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn upload(operator: &Client, bytes: Vec<u8>) -> Answer {
    operator.with("content-type", "application/wasm").send("POST", HANDLERS, Some(Bytes::from(bytes))).await.unwrap()
}

async fn activate(operator: &Client, digest: &str, body: Value) -> Answer {
    operator.post(&format!("{HANDLERS}/account/versions/{digest}/activate"), &body).await.unwrap()
}

async fn handler(operator: &Client, name: &str) -> Value {
    operator.get(&format!("{HANDLERS}/{name}")).await.unwrap().expect(200).unwrap()
}

/// The refusal of an answer, when it is this one.
fn code(answer: &Answer, status: u16, code: &str) -> Problem {
    answer.problem(status).unwrap().code(code).unwrap()
}

/// Returns once the host serves.
async fn ready(client: &Client) {
    while !client.get("/ready").await.is_ok_and(|answer| answer.status == 200) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn open_account(server: &Server, id: &str) -> Answer {
    let payload = json!({"owner": "alice"});
    server.client().command("OPEN_ACCOUNT", ("Account", id), Some(0), payload).await.unwrap()
}

#[tokio::test]
async fn a_handler_for_a_new_type_serves_by_upload_and_activation_alone() {
    let server = Server::start(Options::default()).await.unwrap();
    let operator = server.operator();

    let uploaded = upload(&operator, account()).await.expect(201).unwrap();
    assert_eq!(uploaded["name"], "account");
    assert_eq!(uploaded["digest"], digest(&account()));
    assert_eq!((&uploaded["world"], &uploaded["state"]), (&json!("instance-handler"), &json!("uploaded")));
    assert_eq!(uploaded["findings"], json!([]));
    assert!(open_account(&server, "a-0").await.status >= 400, "an upload never activates");

    let again = upload(&operator, account()).await.expect(200).unwrap();
    assert_eq!(again, uploaded, "the same bytes, the same answer");

    let refusal = activate(&operator, &digest(&account()), json!({})).await;
    let refusal = code(&refusal, 422, "verification_required");
    assert!(refusal.body["detail"].as_str().unwrap().contains("force"), "it says what to do: {}", refusal.body);

    let reason = json!({"force": true, "if_revision": 0, "reason": "first"});
    let active = activate(&operator, &digest(&account()), reason).await.expect(200).unwrap();
    assert_eq!((&active["revision"], &active["active"]), (&json!(1), &json!(digest(&account()))));
    let accepted = open_account(&server, "a-1").await;
    server.client().completed(accepted).await.unwrap();
    let state = server.client().get("/api/v1/aggregates/Account/a-1").await.unwrap().expect(200).unwrap();
    assert!(state.to_string().contains("alice"), "{state}");

    let shown = handler(&operator, "account").await;
    let told: Vec<_> = shown["history"].as_array().unwrap().iter().map(|e| e["event_type"].clone()).collect();
    assert_eq!(told, ["HANDLER_UPLOADED", "HANDLER_ACTIVATED"]);
    let last = &shown["history"][1];
    assert_eq!((&last["forced"], &last["reason"]), (&json!(true), &json!("first")));
    assert_eq!(shown["versions"][0]["state"], "active");
}

#[tokio::test]
async fn swaps_and_rollbacks_survive_a_restart() {
    let mut server = Server::start(Options::default()).await.unwrap();
    let operator = server.operator();
    let (first, second) = (digest(&account()), digest(&variant(2)));
    upload(&operator, account()).await.expect(201).unwrap();
    upload(&operator, variant(2)).await.expect(201).unwrap();
    activate(&operator, &first, json!({"force": true})).await.expect(200).unwrap();
    activate(&operator, &second, json!({"force": true, "if_revision": 1})).await.expect(200).unwrap();

    let late = activate(&operator, &first, json!({"force": true, "if_revision": 1})).await;
    assert_eq!(code(&late, 409, "revision_conflict").body["actual_revision"], 2);

    let back = operator.post(&format!("{HANDLERS}/account/rollback"), &json!({"reason": "worse"})).await.unwrap();
    let back = back.expect(200).unwrap();
    assert_eq!((&back["active"], &back["previous"], &back["revision"]), (&json!(first), &json!(second), &json!(3)));

    let before = handler(&operator, "account").await;
    server.kill().unwrap();
    server.start_again().await.unwrap();
    assert_eq!(handler(&operator, "account").await, before);
    let accepted = open_account(&server, "a-1").await;
    let status = server.client().completed(accepted).await.unwrap();
    let log = server.log().unwrap();
    let opened = log.events.iter().find(|event| event.event_type() == "ACCOUNT_OPENED").unwrap();
    let made_by = &opened.envelope["metadata"]["handler"];
    assert_eq!((&made_by["digest"], &made_by["revision"]), (&json!(first), &json!(3)), "{status}");
}

#[tokio::test]
async fn bundled_handlers_are_deployed_once_and_listed() {
    let mut server = Server::start(Options::default()).await.unwrap();
    let operator = server.operator();
    let list = operator.get(HANDLERS).await.unwrap().expect(200).unwrap();
    let names: Vec<_> = list["handlers"].as_array().unwrap().iter().map(|handler| handler["name"].clone()).collect();
    assert_eq!(names, ["instance", "ontology", "projection"]);
    let instance = handler(&operator, "instance").await;
    assert_eq!((&instance["revision"], &instance["history"][1]["actor"]), (&json!(1), &json!("system")));
    assert_eq!(instance["history"][1]["reason"], "bundled");
    server.terminate().await.unwrap();
    server.start_again().await.unwrap();
    assert_eq!(operator.get(HANDLERS).await.unwrap().expect(200).unwrap(), list);

    let page = operator.get(&format!("{HANDLERS}?limit=2")).await.unwrap().expect(200).unwrap();
    assert_eq!(page["handlers"].as_array().unwrap().len(), 2);
    let rest = operator.get(&format!("{HANDLERS}?limit=2&after={}", page["next"].as_str().unwrap())).await.unwrap();
    let rest = rest.expect(200).unwrap();
    assert_eq!((&rest["handlers"][0]["name"], &rest["next"]), (&json!("projection"), &Value::Null));
}

#[tokio::test]
async fn each_refusal_says_what_is_wrong() {
    let server = Server::start(Options::default()).await.unwrap();
    let operator = server.operator();
    let unknown = "0".repeat(64);

    code(&server.client().get(HANDLERS).await.unwrap(), 401, "unauthorized");
    code(&upload(&operator, b"no component".to_vec()).await, 422, "not_a_component");
    let text = operator.with("content-type", "text/plain").send("POST", HANDLERS, Some(account().into())).await;
    code(&text.unwrap(), 415, "unsupported_media_type");
    code(&upload(&operator, vec![0; (32 << 20) + 1]).await, 413, "too_large");
    code(&operator.get(&format!("{HANDLERS}/nobody")).await.unwrap(), 404, "unknown_handler");

    let force = json!({"force": true});
    code(&activate(&operator, &unknown, force.clone()).await, 404, "unknown_handler");
    upload(&operator, account()).await.expect(201).unwrap();
    code(&activate(&operator, &unknown, force.clone()).await, 404, "unknown_digest");
    code(&activate(&operator, "abc", force).await, 400, "invalid_parameter");
    code(&activate(&operator, &unknown, json!({"forced": true})).await, 400, "invalid_body");
    let rollback = operator.post(&format!("{HANDLERS}/account/rollback"), &json!({})).await.unwrap();
    code(&rollback, 409, "nothing_to_roll_back_to");
    let forged = server.client().command("ACTIVATE", ("Handler", "account"), Some(1), json!({})).await.unwrap();
    assert!((400..500).contains(&forged.status), "the history is the host's: {}", forged.text());
    assert_eq!(handler(&operator, "account").await["history"].as_array().unwrap().len(), 1, "nothing but the upload");
}

#[tokio::test]
async fn a_damaged_component_stops_its_own_handler_until_the_same_bytes_come_again() {
    let mut server = Server::start(Options::default()).await.unwrap();
    let operator = server.operator();
    let digest = digest(&account());
    upload(&operator, account()).await.expect(201).unwrap();
    activate(&operator, &digest, json!({"force": true})).await.expect(200).unwrap();
    server.terminate().await.unwrap();
    let file = server.data().join(format!("store/components/sha256/{digest}.wasm"));
    std::fs::write(&file, b"rubbish").unwrap();

    // It need not call itself ready without that handler, and serves the rest.
    let client = server.client();
    tokio::select! {
        ready = server.start_again() => ready.unwrap(),
        () = ready(&client) => {}
    }
    let shown = handler(&operator, "account").await;
    assert!(shown["not_serving"].as_str().unwrap().contains("upload the same bytes again"), "{shown}");
    code(&open_account(&server, "a-0").await, 503, "handler_missing");
    let database = json!({"name": "shop", "description": "d"});
    let accepted = server.client().post("/api/v1/database/create", &database).await.unwrap();
    server.client().completed(accepted).await.unwrap();

    upload(&operator, account()).await.expect(200).unwrap();
    assert_eq!(handler(&operator, "account").await["not_serving"], Value::Null);
    assert_eq!(std::fs::read(&file).unwrap(), account());
    let accepted = open_account(&server, "a-1").await;
    server.client().completed(accepted).await.unwrap();
}

/// Deposits one cent after another until told to stop; gives how many completed.
async fn deposit(client: Client, account: String, stop: tokio::sync::watch::Receiver<bool>) -> u64 {
    let mut done = 0;
    while !*stop.borrow() {
        // Opening is command 1 and event 2; each deposit adds a command and an event.
        let expected = Some(2 + 2 * done);
        let accepted = client.command("DEPOSIT", ("Account", &account), expected, json!({"amount_cents": 1})).await;
        client.completed(accepted.unwrap()).await.unwrap();
        done += 1;
    }
    done
}

#[tokio::test]
async fn swaps_under_load_fail_no_command() {
    let server = Server::start(Options::default()).await.unwrap();
    let operator = server.operator();
    let digests = [digest(&account()), digest(&variant(2))];
    upload(&operator, account()).await.expect(201).unwrap();
    upload(&operator, variant(2)).await.expect(201).unwrap();
    activate(&operator, &digests[0], json!({"force": true})).await.expect(200).unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = Vec::new();
    for n in 0..4 {
        let account = format!("a-{n}");
        server.client().completed(open_account(&server, &account).await).await.unwrap();
        clients.push(tokio::spawn(deposit(server.client(), account, stopped.clone())));
    }
    for n in 1..=20 {
        let body = json!({"force": true, "if_revision": n});
        activate(&operator, &digests[n % 2], body).await.expect(200).unwrap();
        // However busy the machine is, each version has something to decide.
        let accepted = open_account(&server, &format!("b-{n}")).await;
        server.client().completed(accepted).await.unwrap();
    }
    stop.send(true).unwrap();
    let mut total = 0;
    for client in clients {
        total += client.await.unwrap();
    }
    let log = server.log().unwrap();
    let made_by = |digest: &String| {
        log.events.iter().filter(|event| event.envelope["metadata"]["handler"]["digest"] == **digest).count() as u64
    };
    let by = digests.each_ref().map(made_by);
    assert!(by[0] > 0 && by[1] > 0, "both versions decided: {by:?}");
    assert_eq!(by[0] + by[1], total + 4 + 20, "every deposit and opening was decided once");
}
