//! The operator's routes: tokens and roles, handlers as plug-ins, a new aggregate type by upload alone.
#![allow(clippy::unwrap_used)]

use carryall_tests::{Client, Options, Server, Shop, component};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

async fn upload(operator: &Client, name: &str) -> (u16, Value) {
    let client = operator.with("content-type", "application/wasm");
    let answer = client.send("POST", "/admin/v1/handlers", Some(component(name).unwrap().into())).await.unwrap();
    (answer.status, answer.json().unwrap())
}

async fn activate(operator: &Client, uploaded: &Value, body: Value) -> Value {
    let (name, digest) = (uploaded["name"].as_str().unwrap(), uploaded["digest"].as_str().unwrap());
    let path = format!("/admin/v1/handlers/{name}/versions/{digest}/activate");
    operator.post(&path, &body).await.unwrap().expect(200).unwrap()
}

#[tokio::test]
async fn admin_routes_need_the_operator_always() {
    let server = Server::start(Options::default()).await.unwrap();
    let stranger = server.client().with_token("some-other-token-entirely");
    for path in [
        "/admin/v1/handlers",
        "/admin/v1/handlers/instance",
        "/admin/v1/dead-letters",
        "/admin/v1/claims",
        "/admin/v1/consumers",
        "/admin/v1/relay",
    ] {
        server.client().get(path).await.unwrap().problem(401).unwrap();
        stranger.get(path).await.unwrap().problem(401).unwrap();
        server.operator().get(path).await.unwrap().expect(200).unwrap();
    }
    server.client().post("/admin/v1/handlers", &json!({})).await.unwrap().problem(401).unwrap();
    server.operator().get("/admin/v1/handlers/nobody").await.unwrap().problem(404).unwrap();
    server.operator().get("/admin/v1/claims?status=nonsense").await.unwrap().problem(400).unwrap();
}

#[tokio::test]
async fn tokens_have_roles_and_databases() {
    let folder = tempfile::tempdir().unwrap();
    let entry = |token: &str, roles: &[&str], databases: Value| {
        let sha256: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
        json!({"sha256": sha256, "subject": token, "roles": roles, "databases": databases})
    };
    let tokens = json!([
        entry("reader", &["reader"], Value::Null),
        entry("commander", &["commander", "reader"], Value::Null),
        entry("elsewhere", &["commander", "reader"], json!(["other"])),
    ]);
    let path = folder.path().join("tokens.json");
    std::fs::write(&path, tokens.to_string()).unwrap();
    let server = Server::start(Options::default().with("CARRYALL_TOKENS_FILE", path.to_str().unwrap())).await.unwrap();
    let as_token = |token: &str| server.client().with_token(token);
    server.client().get("/api/v1/database/list").await.unwrap().problem(401).unwrap();
    let shop = Shop::create(as_token("commander")).await.unwrap();
    let created = shop.put("Product", json!({"product_id": "p", "name": "n"})).await.unwrap();
    shop.read("Product", "p", &created).await.unwrap();
    as_token("reader").get("/api/v1/instances/shop/Product/p").await.unwrap().expect(200).unwrap();
    let body = json!({"data": {"product_id": "q", "name": "n"}});
    as_token("reader").post("/api/v1/instances/shop/async/Product/create", &body).await.unwrap().problem(403).unwrap();
    as_token("commander").get("/admin/v1/handlers").await.unwrap().problem(403).unwrap();
    let outsider = as_token("elsewhere");
    outsider.get("/api/v1/instances/shop/Product/p").await.unwrap().problem(403).unwrap();
    outsider.post("/api/v1/instances/shop/async/Product/create", &body).await.unwrap().problem(403).unwrap();
    let listed = outsider.get("/api/v1/events").await.unwrap().expect(200).unwrap();
    assert!(!listed.to_string().contains("shop"), "{listed}");
    let log = server.log().unwrap();
    let event = log.events.iter().find(|event| event.aggregate().1 == "shop:Product:p").unwrap();
    assert_eq!(event.envelope["actor"], "commander");
}

#[tokio::test]
async fn a_new_aggregate_type_works_by_upload_alone() {
    let mut server = Server::start(Options::default()).await.unwrap();
    let (client, operator) = (server.client(), server.operator());
    let account = ("Account", "acc-1");
    let early = client.command("OPEN_ACCOUNT", account, Some(0), json!({})).await.unwrap();
    assert!((400..500).contains(&early.status), "{}", early.text());
    let (status, uploaded) = upload(&operator, "account").await;
    assert_eq!((status, &uploaded["state"]), (201, &json!("uploaded")), "{uploaded}");
    assert_eq!(upload(&operator, "account").await.0, 200, "the same bytes again");
    let active = activate(&operator, &uploaded, json!({"force": true, "reason": "first"})).await;
    assert_eq!(active["active"], uploaded["digest"]);
    let (_, projection) = upload(&operator, "account-projection").await;
    activate(&operator, &projection, json!({"force": true})).await;

    let send = |kind: &'static str, expected: u64, payload: Value| {
        let client = client.clone();
        async move {
            let accepted = client.command(kind, account, Some(expected), payload).await.unwrap();
            client.follow(accepted).await.unwrap()
        }
    };
    let described: Value =
        serde_json::from_slice(&server.run(&["handlers", "list", "account", "--json"]).unwrap().stdout).unwrap();
    assert_eq!(described["active"], uploaded["digest"], "{described}");
    let opened = send("OPEN_ACCOUNT", 0, json!({"owner": "ann"})).await;
    assert_eq!(opened["status"], "COMPLETED", "{opened}");
    assert_eq!(send("DEPOSIT", 2, json!({"amount_cents": 100})).await["status"], "COMPLETED");
    assert_eq!(send("WITHDRAW", 4, json!({"amount_cents": 500})).await["status"], "FAILED");
    let state = client.get("/api/v1/aggregates/Account/acc-1").await.unwrap().expect(200).unwrap();
    assert!(state["state"].to_string().contains("100"), "{state}");
    let history = client.get("/api/v1/aggregates/Account/acc-1/events").await.unwrap().expect(200).unwrap();
    assert_eq!(history["events"].as_array().unwrap().len(), 6);
    server.kill().unwrap();
    server.start_again().await.unwrap();
    assert_eq!(send("WITHDRAW", 6, json!({"amount_cents": 30})).await["status"], "COMPLETED");
    server.log().unwrap();
}

#[tokio::test]
async fn versions_are_activated_by_revision_and_rolled_back() {
    let server = Server::start(Options::default()).await.unwrap();
    let operator = server.operator();
    let (_, uploaded) = upload(&operator, "account").await;
    let (name, digest) = (uploaded["name"].as_str().unwrap(), uploaded["digest"].as_str().unwrap());
    let path = format!("/admin/v1/handlers/{name}/versions/{digest}/activate");
    let problem = operator.post(&path, &json!({"if_revision": 7, "force": true})).await.unwrap();
    problem.problem(409).unwrap();
    let active = activate(&operator, &uploaded, json!({"force": true, "if_revision": 0})).await;
    assert_eq!(active["revision"], 1);
    let none = "0".repeat(64);
    let unknown = format!("/admin/v1/handlers/{name}/versions/{none}/activate");
    operator.post(&unknown, &json!({"force": true})).await.unwrap().problem(404).unwrap();
    let rollback = operator.post(&format!("/admin/v1/handlers/{name}/rollback"), &json!({})).await.unwrap();
    assert!((400..500).contains(&rollback.status), "there is nothing before: {}", rollback.text());
    let handler = operator.get(&format!("/admin/v1/handlers/{name}")).await.unwrap().expect(200).unwrap();
    let history = handler["history"].as_array().unwrap();
    assert_eq!(history.iter().filter(|entry| entry["forced"] == true).count(), 1, "{handler}");
}

#[tokio::test]
async fn what_is_no_component_is_refused_with_the_reason() {
    let server = Server::start(Options::default()).await.unwrap();
    let operator = server.operator().with("content-type", "application/wasm");
    for bytes in [b"not wasm".as_slice(), b"\0asm\x01\0\0\0".as_slice(), b"".as_slice()] {
        let answer = operator.send("POST", "/admin/v1/handlers", Some(bytes.to_vec().into())).await.unwrap();
        assert!(matches!(answer.status, 400 | 422), "{}", answer.text());
        answer.problem(answer.status).unwrap();
    }
}
