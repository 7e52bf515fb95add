//! Databases, classes and instances over HTTP: what succeeds, and every refusal.
#![allow(clippy::unwrap_used)]

use carryall_tests::{Options, Server, Shop, classes};
use serde_json::{Value, json};

async fn shop() -> (Server, Shop) {
    let server = Server::start(Options::default()).await.unwrap();
    let shop = Shop::create(server.client()).await.unwrap();
    (server, shop)
}

#[tokio::test]
async fn an_instance_lives_from_create_to_delete_and_again() {
    let (server, shop) = shop().await;
    let client = &shop.client;
    let accepted = client
        .post("/api/v1/instances/shop/async/Product/create", &json!({"data": {"product_id": "p1", "name": "Pen"}}))
        .await
        .unwrap();
    let body = accepted.expect(202).unwrap();
    assert_eq!(body["status"], "PENDING");
    assert_eq!(body["result"]["aggregate_id"], "shop:Product:p1");
    assert_eq!(body["result"]["instance_id"], "p1");
    assert_eq!(body["result"]["sequence_number"], 1);
    let location = accepted.header("location").unwrap().to_owned();
    assert_eq!(location, format!("/api/v1/commands/{}/status", body["command_id"].as_str().unwrap()));
    let created = client.completed(accepted).await.unwrap();
    assert!(created["completed_at"].is_string() && created["error"].is_null(), "{created}");
    assert_eq!(created["events"].as_array().unwrap().len(), 1);

    let read = shop.read("Product", "p1", &created).await.unwrap();
    assert_eq!((&read["data"]["name"], &read["sequence_number"]), (&json!("Pen"), &json!(2)));

    let update = "/api/v1/instances/shop/async/Product/p1/update";
    let change = json!({"data": {"price": 2.5, "name": "Good pen"}});
    let wrong = client.put(&format!("{update}?expected_seq=9"), &change).await.unwrap();
    let problem = wrong.problem(409).unwrap().code("optimistic_concurrency_conflict").unwrap().body;
    assert_eq!(problem["error"], "optimistic_concurrency_conflict");
    assert_eq!((&problem["expected_seq"], &problem["actual_seq"]), (&json!(9), &json!(2)));
    assert_eq!(problem["aggregate_id"], "shop:Product:p1");
    client.put(update, &change).await.unwrap().problem(409).unwrap();

    let updated =
        client.completed(client.put(&format!("{update}?expected_seq=2"), &change).await.unwrap()).await.unwrap();
    let read = shop.read("Product", "p1", &updated).await.unwrap();
    assert_eq!(read["data"], json!({"product_id": "p1", "name": "Good pen", "price": 2.5}));
    let patch = json!({"data": {"price": null}});
    let removed = client.with("if-match", "\"4\"").put(update, &patch).await.unwrap();
    let removed = client.completed(removed).await.unwrap();
    assert!(shop.read("Product", "p1", &removed).await.unwrap()["data"].get("price").is_none());

    let delete = "/api/v1/instances/shop/async/Product/p1/delete";
    client.delete(delete).await.unwrap().problem(409).unwrap();
    let deleted = client.completed(client.delete(&format!("{delete}?expected_seq=6")).await.unwrap()).await.unwrap();
    let token = deleted["consistency_token"].as_str().unwrap();
    let reader = client.with("consistency-token", token).with("prefer", "wait=60");
    reader.get("/api/v1/instances/shop/Product/p1").await.unwrap().problem(404).unwrap();

    let again = json!({"data": {"product_id": "p1", "name": "New pen"}});
    let create = "/api/v1/instances/shop/async/Product/create";
    client.post(create, &again).await.unwrap().problem(409).unwrap();
    let again =
        client.completed(client.post(&format!("{create}?expected_seq=8"), &again).await.unwrap()).await.unwrap();
    assert_eq!(shop.read("Product", "p1", &again).await.unwrap()["data"]["name"], "New pen");
    assert!(server.log().unwrap().undecided().is_empty());
}

#[tokio::test]
async fn commands_may_be_chained_by_the_sequence_of_the_last_command() {
    let (_server, shop) = shop().await;
    let client = &shop.client;
    let create = json!({"data": {"product_id": "c1", "name": "a"}});
    let mut accepted = client.post("/api/v1/instances/shop/async/Product/create", &create).await.unwrap();
    for round in 0..5 {
        let sequence = accepted.expect(202).unwrap()["result"]["sequence_number"].as_u64().unwrap();
        let path = format!("/api/v1/instances/shop/async/Product/c1/update?expected_seq={sequence}");
        accepted = client.put(&path, &json!({"data": {"name": format!("n{round}")}})).await.unwrap();
    }
    let last = client.completed(accepted).await.unwrap();
    assert_eq!(shop.read("Product", "c1", &last).await.unwrap()["data"]["name"], "n4");
}

#[tokio::test]
async fn a_command_that_relies_on_a_failed_one_fails_too() {
    let (_server, shop) = shop().await;
    let client = &shop.client;
    let first = shop.put("Product", json!({"product_id": "f1", "name": "a"})).await.unwrap();
    let update = "/api/v1/instances/shop/async/Product/f1/update";
    let bad = client.put(&format!("{update}?expected_seq=2"), &json!({"data": {"price": -1}})).await.unwrap();
    let bad_sequence = bad.expect(202).unwrap()["result"]["sequence_number"].as_u64().unwrap();
    let next =
        client.put(&format!("{update}?expected_seq={bad_sequence}"), &json!({"data": {"name": "b"}})).await.unwrap();
    let failed = client.follow(bad).await.unwrap();
    assert_eq!(failed["status"], "FAILED", "{failed}");
    assert!(failed["error"]["problems"].is_array(), "{failed}");
    if next.status == 409 {
        // The refusal was recorded before the second command came.
        next.problem(409).unwrap();
    } else {
        let next = client.follow(next).await.unwrap();
        assert_eq!((&next["status"], &next["error"]["code"]), (&json!("FAILED"), &json!("predecessor-failed")));
    }
    assert_eq!(shop.read("Product", "f1", &first).await.unwrap()["data"]["name"], "a");
}

#[tokio::test]
async fn the_handler_judges_whether_data_fits_its_class() {
    let (_server, shop) = shop().await;
    let create = "/api/v1/instances/shop/async/Product/create";
    for (data, why) in [
        (json!({"product_id": "x1"}), "a required property is missing"),
        (json!({"product_id": "x2", "name": 7}), "a wrong type"),
        (json!({"product_id": "x3", "name": "n", "price": -0.5}), "a constraint"),
        (json!({"product_id": "x4", "name": "n", "owned_by": "Customer/nobody"}), "a reference to nothing"),
        (json!({"product_id": "x5", "name": "n", "owned_by": ["Customer/a", "Customer/b"]}), "cardinality"),
    ] {
        let accepted = shop.client.post(create, &json!({"data": data})).await.unwrap();
        let status = shop.client.follow(accepted).await.unwrap();
        assert_eq!(status["status"], "FAILED", "{why}: {status}");
        assert!(status["error"]["message"].is_string() && status["completed_at"].is_string(), "{status}");
    }
    shop.put("Customer", json!({"customer_id": "ann", "name": "Ann"})).await.unwrap();
    shop.put("Product", json!({"product_id": "x6", "name": "n", "owned_by": "Customer/ann"})).await.unwrap();
}

#[tokio::test]
async fn the_api_refuses_what_is_no_request() {
    let (_server, shop) = shop().await;
    let client = &shop.client;
    let create = "/api/v1/instances/shop/async/Product/create";
    let send = |path: String, body: Value| async move { client.post(&path, &body).await.unwrap() };
    for (path, body) in [
        (create.to_owned(), json!([])),
        (create.to_owned(), json!({})),
        (create.to_owned(), json!({"data": []})),
        (create.to_owned(), json!({"data": {"product_id": "a b"}})),
        (create.to_owned(), json!({"data": {"product_id": "a"}, "unknown": 1})),
        (create.to_owned(), json!({"data": {"product_id": "a"}, "metadata": {"kind": "domain"}})),
        (create.to_owned(), json!({"data": {"product_id": "a"}, "metadata": {"handler": {}}})),
        ("/api/v1/instances/sh-op/async/Product/create".to_owned(), json!({"data": {"product_id": "a"}})),
        ("/api/v1/instances/shop/async/Pro%20duct/create".to_owned(), json!({"data": {"product_id": "a"}})),
        (format!("{create}?expected_seq=x"), json!({"data": {"product_id": "a"}})),
        (format!("{create}?unknown=1"), json!({"data": {"product_id": "a"}})),
        ("/api/v1/database/create".to_owned(), json!({"name": "1x", "description": ""})),
    ] {
        let answer = send(path.clone(), body.clone()).await;
        let problem = answer.problem(400).unwrap_or_else(|error| panic!("{path} {body}: {error}"));
        assert!(!problem.retryable);
    }
    let exact = br#"{"data":{"product_id":"n1","name":"n","price":9007199254740993}}"#;
    client.send("POST", create, Some(exact.as_slice().into())).await.unwrap().problem(400).unwrap();
    client.send("POST", create, Some("{\"data\":".into())).await.unwrap().problem(400).unwrap();
    let huge = json!({"data": {"product_id": "h1", "name": "n".repeat(900 * 1024)}});
    client.post(create, &huge).await.unwrap().problem(413).unwrap();
    client.get("/api/v1/nothing").await.unwrap().problem(404).unwrap();
    client.delete("/api/v1/commands").await.unwrap().problem(405).unwrap();
}

#[tokio::test]
async fn databases_and_classes_come_change_and_go() {
    let (_server, shop) = shop().await;
    let client = &shop.client;
    let exists = |db: &'static str| async move {
        client.get(&format!("/api/v1/database/exists/{db}")).await.unwrap().expect(200).unwrap()["data"]["exists"]
            .clone()
    };
    assert_eq!((exists("shop").await, exists("other").await), (json!(true), json!(false)));
    let listed = client.get("/api/v1/database/list").await.unwrap().expect(200).unwrap();
    assert!(listed.to_string().contains("\"shop\""), "{listed}");
    let twice = client.post("/api/v1/database/create", &json!({"name": "shop", "description": "x"})).await.unwrap();
    twice.problem(409).unwrap();

    let ontologies = client.get("/api/v1/database/shop/ontology").await.unwrap().expect(200).unwrap();
    assert_eq!(ontologies["data"]["ontologies"].as_array().unwrap().len(), 2, "{ontologies}");
    let [_, mut product] = classes();
    product["description"] = json!("changed");
    let path = "/api/v1/database/shop/ontology/Product";
    client.put(path, &product).await.unwrap().problem(409).unwrap();
    let changed =
        client.completed(client.put(&format!("{path}?expected_seq=2"), &product).await.unwrap()).await.unwrap();
    let token = changed["consistency_token"].as_str().unwrap();
    let reader = client.with("consistency-token", token).with("prefer", "wait=60");
    let class = reader.get(path).await.unwrap().expect(200).unwrap();
    assert!(class.to_string().contains("\"changed\""), "{class}");

    let mut breaking = product.clone();
    breaking["properties"][1]["type"] = json!("integer");
    let refused = client.follow(client.put(&format!("{path}?expected_seq=4"), &breaking).await.unwrap()).await.unwrap();
    assert_eq!(refused["status"], "FAILED", "{refused}");
    breaking["allow_breaking"] = json!(true);
    client.completed(client.put(&format!("{path}?expected_seq=6"), &breaking).await.unwrap()).await.unwrap();

    let orphan = json!({"id": "Orphan", "label": "o", "properties": [], "parent": "Nobody"});
    let orphan = client.follow(client.post("/api/v1/database/shop/ontology", &orphan).await.unwrap()).await.unwrap();
    assert_eq!(orphan["status"], "FAILED", "{orphan}");
    client.get("/api/v1/database/shop/ontology/Nobody").await.unwrap().problem(404).unwrap();

    let gone = client.completed(client.delete(&format!("{path}?expected_seq=8")).await.unwrap()).await.unwrap();
    let token = gone["consistency_token"].as_str().unwrap();
    let reader = client.with("consistency-token", token).with("prefer", "wait=60");
    reader.get(path).await.unwrap().problem(404).unwrap();

    let other = json!({"name": "other", "description": "x"});
    client.completed(client.post("/api/v1/database/create", &other).await.unwrap()).await.unwrap();
    client.delete("/api/v1/database/other").await.unwrap().problem(409).unwrap();
    let gone = client.delete("/api/v1/database/other?expected_seq=2").await.unwrap();
    let gone = client.completed(gone).await.unwrap();
    let token = gone["consistency_token"].as_str().unwrap();
    let reader = client.with("consistency-token", token).with("prefer", "wait=60");
    let answer = reader.get("/api/v1/database/exists/other").await.unwrap().expect(200).unwrap();
    assert_eq!(answer["data"]["exists"], false);
}

#[tokio::test]
async fn a_batch_is_one_status_over_its_rows() {
    let (_server, shop) = shop().await;
    let client = &shop.client;
    let rows = json!({"instances": [
        {"product_id": "b1", "name": "one"}, {"product_id": "b2"}, {"product_id": "b3", "name": "three"},
    ]});
    let accepted = client.post("/api/v1/instances/shop/async/Product/bulk-create", &rows).await.unwrap();
    let status = client.completed(accepted).await.unwrap();
    let rows = status["result"]["rows"].as_array().unwrap();
    let states: Vec<&str> = rows.iter().map(|row| row["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["COMPLETED", "FAILED", "COMPLETED"], "{status}");
    assert_eq!(shop.read("Product", "b3", &status).await.unwrap()["data"]["name"], "three");
    client.get("/api/v1/instances/shop/Product/b2").await.unwrap().problem(404).unwrap();
}

#[tokio::test]
async fn instances_are_listed_filtered_searched_and_paged() {
    let (_server, shop) = shop().await;
    let mut last = Value::Null;
    for number in 0..7 {
        let name = if number % 2 == 0 { "red pen" } else { "blue ink" };
        let data = json!({"product_id": format!("l{number}"), "name": name, "price": number});
        last = shop.put("Product", data).await.unwrap();
    }
    shop.read("Product", "l6", &last).await.unwrap();
    let list = |query: &'static str| {
        let client = shop.client.clone();
        async move {
            let page =
                client.get(&format!("/api/v1/instances/shop/Product{query}")).await.unwrap().expect(200).unwrap();
            let instances = page["instances"].as_array().unwrap().clone();
            let ids: Vec<String> =
                instances.iter().map(|instance| instance["instance_id"].as_str().unwrap().to_owned()).collect();
            (ids, page["next"].clone())
        }
    };
    assert_eq!(list("").await.0.len(), 7);
    assert_eq!(list("?q=ink").await.0, ["l1", "l3", "l5"]);
    assert_eq!(list("?filter=price%3E%3D5").await.0, ["l5", "l6"]);
    assert_eq!(list("?filter=name%3Dred%20pen&filter=price%3C3").await.0, ["l0", "l2"]);
    let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page =
            shop.client.get(&format!("/api/v1/instances/shop/Product{query}")).await.unwrap().expect(200).unwrap();
        seen.extend(page["instances"].as_array().unwrap().iter().map(|instance| instance["instance_id"].to_string()));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=3&after={next}");
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted());
    for wrong in ["?limit=0", "?limit=1001", "?limit=x", "?filter=price", "?unknown=1"] {
        shop.client.get(&format!("/api/v1/instances/shop/Product{wrong}")).await.unwrap().problem(400).unwrap();
    }
}
