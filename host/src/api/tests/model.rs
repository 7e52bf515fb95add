//! Reads of the read model: instances, documents of any projection, the graph.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use uuid::Uuid;

use super::host::{Host, Wish};
use crate::domain::{Aggregate, Timestamp};
use crate::port::read_model::builds::{Builds as _, Wanted};
use crate::port::read_model::{Batch, Change, DocumentKey, EventChanges, Node, ReadModel as _};
use crate::port::registry::Owner;

/// Five instances of one class in each of two databases, each linked to the one before it.
async fn host() -> Host {
    let host = Host::start(Wish { open: false, ..Wish::default() }).await;
    let mut events = Vec::new();
    for db in ["bank", "shop"] {
        for price in 0..5u64 {
            let id = format!("{db}:Product:p{price}");
            let node = |price: u64| Node { kind: "Product".into(), id: format!("{db}:Product:p{price}") };
            let body = json!({"instance_id": format!("p{price}"), "data": {"price": price, "name": "fine thing"}});
            let key = DocumentKey { collection: "instances".into(), id: id.clone() };
            let targets = (0..price).map(node).collect();
            events.push(EventChanges {
                event_id: Uuid::from_u128(u128::from(price)),
                owner: Aggregate::parse("Instance", &id).unwrap(),
                version: price + 1,
                changes: vec![
                    Change::Put { key, body: serde_json::value::to_raw_value(&body).unwrap().into() },
                    Change::PutNode { node: node(price) },
                    Change::SetEdges { source: node(price), predicate: "after".into(), targets },
                ],
            });
        }
    }
    let owner = Owner { name: "test".into(), run: 1 };
    let (finished, checkpoint) = (Vec::new(), None);
    let (now, begun) = (Timestamp(0), None);
    let batch = Batch { consumer: "c", build: "live", begun, owner: &owner, events, finished, checkpoint, now };
    host.read_model.apply(batch).await.unwrap();
    let collections = ["instances".to_owned()];
    let wanted = Wanted { name: "live", handler: "projection", asked: 1, collections: &collections };
    host.read_model.begin(wanted, Uuid::nil()).await.unwrap();
    host
}

async fn get(host: &Host, token: &str, path: &str) -> Value {
    let bearer = format!("Bearer {token}");
    host.send("GET", path, &[("Authorization", &bearer)], None).await.expect(200).body
}

fn names(body: &Value) -> Vec<&str> {
    body["instances"].as_array().unwrap().iter().map(|i| i["instance_id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_narrowed_by_words_filters_and_pages() {
    let host = host().await;
    let path = "/api/v1/instances/shop/Product";
    for (query, want) in [
        ("", vec!["p0", "p1", "p2", "p3", "p4"]),
        ("?q=FINE+thing", vec!["p0", "p1", "p2", "p3", "p4"]),
        ("?q=nothing", vec![]),
        ("?filter=price%3E%3D3", vec!["p3", "p4"]),
        ("?filter=price%3E0&filter=price%3C3", vec!["p1", "p2"]),
        ("?filter=instance_id%3Dp2", vec!["p2"]),
        ("?filter=price%21%3D2&limit=2", vec!["p0", "p1"]),
        ("?after=p3", vec!["p4"]),
    ] {
        assert_eq!(names(&get(&host, "shop", &format!("{path}{query}")).await), want, "{query}");
    }
    let first = get(&host, "shop", &format!("{path}?limit=3")).await;
    let next = first["next"].as_str().unwrap();
    let rest = get(&host, "shop", &format!("{path}?limit=3&after={next}")).await;
    assert_eq!((names(&rest), &rest["next"]), (vec!["p3", "p4"], &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_has_its_version_as_its_tag() {
    let host = host().await;
    let shop = [("Authorization", "Bearer shop")];
    let found = host.send("GET", "/api/v1/instances/shop/Product/p4", &shop, None).await.expect(200);
    assert_eq!((found.header("etag"), &found.body["data"]["price"]), ("\"5\"", &json!(4)));
    host.send("GET", "/api/v1/instances/shop/Product/p9", &shop, None).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_other_databases_are_out_of_a_limited_tokens_reach() {
    let host = host().await;
    let ids =
        |body: &Value| body["documents"].as_array().unwrap().iter().map(|d| d["id"].to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&get(&host, "read", "/api/v1/documents/instances").await).len(), 10);
    let mine = get(&host, "shop", "/api/v1/documents/instances").await;
    assert!(ids(&mine).len() == 5 && ids(&mine).iter().all(|id| id.contains("shop:")), "{mine}");
    // Ids and contents of others do not show in `next` either.
    for asked in ["limit=1", "limit=5", "limit=1&filter=data.price%3D4", "limit=1&after=bank:"] {
        let page = get(&host, "shop", &format!("/api/v1/documents/instances?{asked}")).await;
        assert!(!page.to_string().contains("bank"), "{asked}: {page}");
    }
    let dear = get(&host, "read", "/api/v1/documents/instances?filter=data.price%3D4").await;
    assert_eq!(ids(&dear).len(), 2);
    let shop = [("Authorization", "Bearer shop")];
    host.send("GET", "/api/v1/documents/instances/shop:Product:p1", &shop, None).await.expect(200);
    host.send("GET", "/api/v1/documents/instances/bank:Product:p1", &shop, None).await.expect(403);
    host.send("GET", "/api/v1/documents/instances/nobody", &shop, None).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_are_followed_both_ways_page_by_page() {
    let host = host().await;
    let path = "/api/v1/graph/Product/shop:Product:p3/edges";
    let targets = |body: &Value| body["edges"].as_array().unwrap().len();
    let first = get(&host, "read", &format!("{path}?limit=2")).await;
    let next = first["next"].as_str().unwrap().replace('"', "%22").replace('[', "%5B").replace(']', "%5D");
    let rest = get(&host, "read", &format!("{path}?limit=2&after={next}")).await;
    assert_eq!((targets(&first), targets(&rest), &rest["next"]), (2, 1, &Value::Null));
    let inward = get(&host, "read", &format!("{path}?direction=in")).await;
    assert_eq!(inward["edges"][0]["source"]["id"], "shop:Product:p4");
    host.send("GET", path, &[("Authorization", "Bearer shop")], None).await.expect(403);
    host.send("GET", &format!("{path}?direction=up"), &[("Authorization", "Bearer read")], None).await.expect(400);
}
