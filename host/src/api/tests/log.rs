//! History and tail over a log in memory with several partitions.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::host::{Host, Wish};

const ACCOUNTS: usize = 25;

async fn host() -> Host {
    let host = Host::start(Wish { partitions: 3, ..Wish::default() }).await;
    for index in 0..ACCOUNTS {
        open(&host, index).await;
    }
    host
}

async fn open(host: &Host, index: usize) -> String {
    let body = json!({
        "command_type": "OPEN_ACCOUNT", "aggregate_type": "Account", "aggregate_id": format!("a{index}"),
        "payload": {"owner": "Ada"}
    });
    let answer = host.post("/api/v1/commands", body).await.expect(202);
    answer.body["command_id"].as_str().unwrap().to_owned()
}

fn ids(events: &Value) -> Vec<String> {
    events.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_give_every_event_once_over_all_partitions() {
    let host = host().await;
    let all = ids(&host.get("/api/v1/events?limit=1000").await.expect(200).body["events"]);
    let mut paged = Vec::new();
    let mut path = "/api/v1/events?limit=7".to_owned();
    loop {
        let page = host.get(&path).await.expect(200).body;
        paged.extend(ids(&page["events"]));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/events?limit=7&after={next}"),
            None => break,
        }
    }
    assert_eq!(paged, all);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    let accounts = host.get("/api/v1/events?types=OPEN_ACCOUNT_REQUESTED,X&limit=1000").await.expect(200);
    assert_eq!(ids(&accounts.body["events"]).len(), ACCOUNTS);
    assert_eq!(host.get("/api/v1/events?types=NOTHING").await.expect(200).body, json!({"events": [], "next": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_an_aggregate_goes_on_where_its_page_ended() {
    let host = host().await;
    let deposit = |amount: u64| {
        let payload = json!({"amount_cents": amount});
        json!({"command_type": "DEPOSIT", "aggregate_type": "Account", "aggregate_id": "a0", "payload": payload})
    };
    for amount in 1..5 {
        host.post("/api/v1/commands", deposit(amount)).await.expect(202);
    }
    let path = "/api/v1/aggregates/Account/a0/events";
    let first = host.get(&format!("{path}?limit=2")).await.expect(200).body;
    let next = first["next"].as_str().unwrap();
    let rest = host.get(&format!("{path}?after={next}")).await.expect(200).body;
    let sequences = |page: &Value| -> Vec<u64> {
        page["events"].as_array().unwrap().iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect()
    };
    assert_eq!((sequences(&first), sequences(&rest)), (vec![1, 2], vec![3, 4, 5]));
    assert_eq!(rest["next"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_folded_now_and_in_the_past() {
    let host = Host::start(Wish::default()).await;
    let id = open(&host, 0).await;
    host.decide(&id, "ACCOUNT_OPENED", json!({"owner": "Ada", "currency": "EUR"})).await;
    let now = host.get("/api/v1/aggregates/Account/a0").await.expect(200);
    assert_eq!((&now.body["aggregate_type"], &now.body["sequence_number"]), (&json!("Account"), &json!(2)));
    assert!(now.body["state"].is_object(), "{}", now.text);
    assert_eq!(now.body["handler_digest"].as_str().unwrap().len(), 64);
    assert_eq!(now.header("etag"), "\"2\"");
    let before = host.get("/api/v1/aggregates/Account/a0?at_seq=1").await.expect(200);
    assert_eq!((&before.body["state"], &before.body["sequence_number"]), (&Value::Null, &json!(1)));
    host.get("/api/v1/aggregates/Account/a0?at_time=2020-01-01T00:00:00Z").await.expect(404);
    let later = host.get("/api/v1/aggregates/Account/a0?at_time=2999-01-01T00:00:00Z").await.expect(200);
    assert_eq!(later.body, now.body);
}

/// Reads a tail until it has so many events: their ids as frames, and the events.
async fn follow(host: &Host, after: Option<&str>, count: usize) -> Vec<(String, Value)> {
    let mut request = Request::get("/api/v1/events").header("accept", "text/event-stream");
    if let Some(after) = after {
        request = request.header("last-event-id", after);
    }
    let response = host.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.into_body().into_data_stream();
    let (mut text, mut frames) = (String::new(), Vec::new());
    while frames.len() < count {
        let chunk = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("in time");
        text.push_str(std::str::from_utf8(&chunk.expect("no end").unwrap()).unwrap());
        while let Some((frame, rest)) = text.split_once("\n\n") {
            let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
            if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                frames.push((id, serde_json::from_str(&data).unwrap()));
            }
            text = rest.to_owned();
        }
    }
    frames
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_gives_what_was_and_what_comes_and_goes_on_where_it_was_cut() {
    let host = host().await;
    let total = ids(&host.get("/api/v1/events?limit=1000").await.body["events"]).len();
    let (frames, _) = tokio::join!(follow(&host, None, total + 1), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        open(&host, 99).await
    });
    assert_eq!(frames.last().unwrap().1["aggregate_id"], "a99");
    let unique: BTreeSet<&str> = frames.iter().map(|(_, event)| event["event_id"].as_str().unwrap()).collect();
    assert_eq!(unique.len(), total + 1);
    let (cut, _) = &frames[total / 2];
    let rest = follow(&host, Some(cut), frames.len() - total / 2 - 1).await;
    let events = |frames: &[(String, Value)]| -> BTreeSet<String> {
        frames.iter().map(|(_, event)| event["event_id"].to_string()).collect()
    };
    assert_eq!(events(&rest), events(&frames[total / 2 + 1..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tails_end_when_the_server_stops() {
    let host = host().await;
    let request = Request::get("/api/v1/events").header("accept", "text/event-stream").body(Body::empty()).unwrap();
    let response = host.router.clone().oneshot(request).await.unwrap();
    let drained = tokio::spawn(async move { response.into_body().into_data_stream().count().await });
    host.stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), drained).await.expect("the tail ends").unwrap();
}
