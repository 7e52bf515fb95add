//! Projections whose collections change, from outside: written anew beside what readers see, which changes over whole.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use carryall_tests::{Client, Options, Server, Site, abuse, component, consumers_at_the_end, end};
use serde_json::{Value, json};

const HANDLERS: &str = "/admin/v1/handlers";
const PLAIN: &str = "account-projection:Account";
/// Accounts that are there before the projection changes; a page of the list holds them all.
const ACCOUNTS: usize = 200;
/// A build that did not take over in time tries again only half a minute later.
const WITHIN: Duration = Duration::from_secs(120);

/// Uploads a component; gives its digest and the codes of its findings.
async fn upload(operator: &Client, bytes: Vec<u8>) -> (String, Vec<String>) {
    let wasm = operator.with("content-type", "application/wasm");
    let answer = wasm.send("POST", HANDLERS, Some(Bytes::from(bytes))).await.unwrap().json().unwrap();
    let codes = answer["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap().to_owned());
    (answer["digest"].as_str().unwrap().to_owned(), codes.collect())
}

async fn activate(operator: &Client, name: &str, digest: &str) {
    let path = format!("{HANDLERS}/{name}/versions/{digest}/activate");
    operator.post(&path, &json!({"force": true})).await.unwrap().expect(200).unwrap();
}

async fn deploy(operator: &Client, name: &str, bytes: Vec<u8>) -> String {
    let (digest, _) = upload(operator, bytes).await;
    activate(operator, name, &digest).await;
    digest
}

/// A host with accounts and their documents in the first form.
async fn bank(owners: &[&str]) -> Server {
    let server = Server::start(Options::default()).await.unwrap();
    open(&server, owners).await;
    server
}

async fn open(server: &Server, owners: &[&str]) {
    let operator = server.operator();
    deploy(&operator, "account", component("account").unwrap()).await;
    deploy(&operator, "account-projection", component("account-projection").unwrap()).await;
    let client = server.client();
    let mut opened = Vec::new();
    for (index, owner) in owners.iter().enumerate() {
        let id = format!("a-{index:04}");
        opened.push(client.command("OPEN_ACCOUNT", ("Account", &id), Some(0), json!({"owner": owner})).await.unwrap());
    }
    for (index, accepted) in opened.into_iter().enumerate() {
        let done = client.completed(accepted).await.unwrap();
        if index + 1 == owners.len() {
            document(&client, "accounts", &format!("a-{index:04}"), &done).await;
        }
    }
}

async fn deposit(client: &Client, id: &str) -> Value {
    let answer = client.command("DEPOSIT", ("Account", id), None, json!({"amount_cents": 5})).await.unwrap();
    client.completed(answer).await.unwrap()
}

/// A document as it is after everything that the command did.
async fn document(client: &Client, collection: &str, id: &str, after: &Value) -> Value {
    let token = after["consistency_token"].as_str().unwrap();
    let fresh = client.with("consistency-token", token).with("prefer", "wait=60");
    fresh.get(&format!("/api/v1/documents/{collection}/{id}")).await.unwrap().expect(200).unwrap()
}

async fn accounts(client: &Client) -> Vec<Value> {
    let page = client.get("/api/v1/documents/accounts?limit=1000").await.unwrap().expect(200).unwrap();
    page["documents"].as_array().unwrap().clone()
}

/// The consumers of the projection: name and the name in claims.
async fn consumers(operator: &Client) -> Vec<(String, String)> {
    let shown = operator.get("/admin/v1/consumers").await.unwrap().expect(200).unwrap();
    let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    let all = shown["consumers"].as_array().unwrap().iter().map(|one| (text(one, "name"), text(one, "handler")));
    all.filter(|(name, _)| name.starts_with(PLAIN)).collect()
}

/// Returns when these are the consumers of the projection.
async fn until(operator: &Client, wanted: &[(&str, &str)]) {
    let begun = Instant::now();
    loop {
        let now = consumers(operator).await;
        if now.iter().map(|(name, handler)| (name.as_str(), handler.as_str())).eq(wanted.iter().copied()) {
            return;
        }
        assert!(begun.elapsed() < WITHIN, "{now:?} do not become {wanted:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn letters(operator: &Client, state: &str) -> Vec<Value> {
    let page = operator.get(&format!("/admin/v1/dead-letters?state={state}")).await.unwrap().expect(200).unwrap();
    page["dead_letters"].as_array().unwrap().clone()
}

async fn until_parked(operator: &Client) -> Value {
    let begun = Instant::now();
    loop {
        match letters(operator, "parked").await.pop() {
            Some(letter) => return letter,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        assert!(begun.elapsed() < WITHIN, "nothing is parked");
    }
}

fn build_of(digest: &str) -> String {
    format!("{PLAIN}@{}", &digest[..12])
}

/// What `carryall check` says of the host at rest.
async fn check(server: &mut Server) {
    consumers_at_the_end(&server.operator(), PLAIN).await.unwrap();
    assert!(server.terminate().await.unwrap().success());
    let checked = server.run(&["check", "--json"]).unwrap();
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert!(checked.status.success(), "{report}");
    let projection = report["invariants"].as_array().unwrap().iter().find(|one| one["invariant"] == "projection");
    assert!(projection.is_some_and(|one| one["note"].is_null()), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_change_over_to_a_whole_build_under_traffic() {
    let mut server = bank(&["ada"; ACCOUNTS]).await;
    let (operator, client) = (server.operator(), server.client());
    until(&operator, &[(PLAIN, PLAIN)]).await;
    let (over, changed) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (written, mut traffic) = (Arc::new(AtomicU64::new(0)), tokio::task::JoinSet::new());
    for writer in 0..3 {
        let (client, over, written) = (client.clone(), over.clone(), written.clone());
        traffic.spawn(async move {
            let mut count = 0usize;
            while !over.load(Ordering::Relaxed) {
                let id = format!("a-{:04}", (count * 3 + writer) % ACCOUNTS);
                let done = deposit(&client, &id).await;
                let seen = document(&client, "accounts", &id, &done).await;
                assert!(seen["cents"].is_u64() || seen["balance_cents"].is_u64(), "{seen}");
                written.fetch_add(5, Ordering::Relaxed);
                count += 1;
            }
        });
    }
    let reader = (client.clone(), over.clone(), changed.clone());
    traffic.spawn(async move {
        let (client, over, changed) = reader;
        let mut sum = 0;
        while !over.load(Ordering::Relaxed) {
            let page = accounts(&client).await;
            let new = page.iter().filter(|document| document["body"]["form"] == 2).count();
            assert!(page.len() == ACCOUNTS && (new == 0 || new == ACCOUNTS), "{new} of {}", page.len());
            assert!(new > 0 || !changed.load(Ordering::Relaxed), "readers went back");
            changed.fetch_or(new > 0, Ordering::Relaxed);
            let cents = |one: &Value| one["body"][if new > 0 { "cents" } else { "balance_cents" }].as_u64().unwrap();
            let now = page.iter().map(cents).sum::<u64>();
            assert!(now >= sum, "money was there that is not any more: {now} after {sum}");
            sum = now;
        }
    });

    let (digest, findings) = upload(&operator, abuse("accounts_mended").unwrap()).await;
    assert_eq!(findings, ["rebuild_needed"]);
    activate(&operator, "account-projection", &digest).await;
    let build = build_of(&digest);
    until(&operator, &[(PLAIN, &build)]).await;
    carryall_tests::until("readers see the new build", || async { changed.load(Ordering::Relaxed) }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = traffic.join_next().await {
        ended.unwrap();
    }

    let done = deposit(&client, "a-0007").await;
    let account = document(&client, "accounts", "a-0007", &done).await;
    assert_eq!((&account["form"], &account["owner"]), (&json!(2), &json!("ada")));
    assert_eq!(document(&client, "owners", "a-0007", &done).await, json!({"owner": "ada"}));
    let page = accounts(&client).await;
    let sum: u64 = page.iter().map(|one| one["body"]["cents"].as_u64().unwrap()).sum();
    assert_eq!(sum, written.load(Ordering::Relaxed) + 5);
    let metrics = client.get("/metrics").await.unwrap().text();
    assert!(metrics.contains("projection_lag_events{handler=\"account-projection:Account\"}"), "{metrics}");
    assert!(!metrics.contains('@'), "{metrics}");

    check(&mut server).await;
    assert!(server.run(&["rebuild"]).unwrap().status.success());
    server.start_again().await.unwrap();
    until(&server.operator(), &[(PLAIN, &build)]).await;
    document(&server.client(), "accounts", "a-0007", &done).await;
    assert!(accounts(&server.client()).await == page, "a rebuilt host answers the same");
}

#[tokio::test]
async fn an_unfinished_build_outlives_a_restart_and_ends_with_a_rollback() {
    let mut server = bank(&["ada", "poison", "bob"]).await;
    let (operator, client) = (server.operator(), server.client());
    let digest = deploy(&operator, "account-projection", abuse("accounts_broken").unwrap()).await;
    let build = build_of(&digest);
    let letter = until_parked(&operator).await;
    assert_eq!((&letter["handler"], &letter["aggregate_id"]), (&json!(build), &json!("a-0001")));

    server.kill().unwrap();
    server.start_again().await.unwrap();
    let done = deposit(&client, "a-0000").await;
    assert_eq!(document(&client, "accounts", "a-0000", &done).await["balance_cents"], 5, "the version before goes on");
    until(&operator, &[(PLAIN, PLAIN), (&build, &build)]).await;
    let back = operator.post(&format!("{HANDLERS}/account-projection/rollback"), &json!({})).await.unwrap();
    back.expect(200).unwrap();
    until(&operator, &[(PLAIN, PLAIN)]).await;
    let done = deposit(&client, "a-0001").await;
    assert_eq!(document(&client, "accounts", "a-0001", &done).await["owner"], "poison");
    let begun = Instant::now();
    while !letters(&operator, "parked").await.is_empty() {
        assert!(begun.elapsed() < WITHIN, "the letter of a build that is gone is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    check(&mut server).await;
}

#[tokio::test]
async fn a_build_with_a_parked_aggregate_waits_for_a_mended_version() {
    let mut server = bank(&["ada", "poison"]).await;
    let (operator, client) = (server.operator(), server.client());
    let broken = deploy(&operator, "account-projection", abuse("accounts_broken").unwrap()).await;
    let letter = until_parked(&operator).await;
    let done = deposit(&client, "a-0001").await;
    assert_eq!(document(&client, "accounts", "a-0001", &done).await["balance_cents"], 5);

    // The same collections: it goes on with what the broken one began.
    deploy(&operator, "account-projection", abuse("accounts_mended").unwrap()).await;
    let retry = format!("/admin/v1/dead-letters/{}/retry", letter["id"].as_str().unwrap());
    operator.post(&retry, &json!({})).await.unwrap().expect(200).unwrap();
    until(&operator, &[(PLAIN, &build_of(&broken))]).await;
    assert_eq!(document(&client, "accounts", "a-0001", &done).await["cents"], 5);

    // Back to the first form: what it wrote is gone, so it is written anew.
    let first = deploy(&operator, "account-projection", component("account-projection").unwrap()).await;
    until(&operator, &[(PLAIN, PLAIN)]).await;
    let done = deposit(&client, "a-0000").await;
    assert_eq!(document(&client, "accounts", "a-0000", &done).await["balance_cents"], 5, "{first}");
    check(&mut server).await;
}

#[tokio::test]
async fn an_operator_has_a_projection_written_anew() {
    let mut server = bank(&["ada", "bob"]).await;
    let (operator, client) = (server.operator(), server.client());
    let before = accounts(&client).await;
    let shown = operator.get(&format!("{HANDLERS}/account-projection")).await.unwrap().expect(200).unwrap();
    let build = build_of(shown["active"].as_str().unwrap());
    for count in 1..=2 {
        let path = format!("{HANDLERS}/account-projection/rebuild");
        let asked = operator.post(&path, &json!({"reason": "a doubt"})).await.unwrap().expect(202).unwrap();
        assert_eq!(asked["digest"], shown["active"]);
        until(&operator, &[(PLAIN, &format!("{build}.{count}"))]).await;
        assert_eq!(accounts(&client).await, before);
    }
    let refused = operator.post(&format!("{HANDLERS}/account/rebuild"), &json!({})).await.unwrap();
    refused.problem(409).unwrap().code("nothing_to_rebuild").unwrap();
    let refused = client.post(&format!("{HANDLERS}/account-projection/rebuild"), &json!({})).await.unwrap();
    assert!((401..=403).contains(&refused.status), "{}", refused.text());
    check(&mut server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_several_processes_make_changes_over_though_one_of_them_dies() {
    let site = Site::new(3).await;
    let mut api = site.start("api,relay").await;
    let mut others = [site.start("instance-worker").await, site.start("projection-worker").await];
    let mut dying = site.start("projection-worker").await;
    open(&api, &["ada"; 40]).await;
    let (operator, client) = (api.operator(), api.client());
    let digest = deploy(&operator, "account-projection", abuse("accounts_mended").unwrap()).await;
    dying.kill().unwrap();
    // A killed member's partitions are another's within ten seconds, and its claims after their lease.
    let begun = Instant::now();
    loop {
        let done = deposit(&client, "a-0003").await;
        let account = document(&client, "accounts", "a-0003", &done).await;
        if account["form"] == 2 {
            break;
        }
        assert!(account["balance_cents"].is_u64(), "{account}");
        assert!(begun.elapsed() < WITHIN, "readers never saw the new build");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let page = accounts(&client).await;
    assert!(page.len() == 40 && page.iter().all(|one| one["body"]["form"] == 2), "it changes over whole: {page:?}");
    let build = build_of(&digest);
    until(&operator, &[(PLAIN, build.as_str()); 3]).await;
    dying.start_again().await.unwrap();
    for index in 0..40 {
        let id = format!("a-{index:04}");
        let done = deposit(&client, &id).await;
        assert_eq!(document(&client, "accounts", &id, &done).await["form"], 2);
    }
    end(others.iter_mut().chain([&mut dying, &mut api])).await;
    assert!(site.log().undecided().is_empty());
}
