//! Decisions that read other aggregates, with the bundled handlers.

use super::*;
use crate::tests::components::component;

fn bundled() -> Options {
    let topics = ["instance_commands", "ontology_commands", "database_commands"];
    Options { topics: topics.map(str::to_owned).to_vec(), ..options() }
}

fn class(properties: &Value) -> Value {
    json!({"id": "Product", "label": "Product", "description": "", "parent": null, "abstract": false,
        "properties": properties, "relationships": []})
}

fn create(id: &str) -> Value {
    json!({"db_name": "shop", "class_id": "Product", "instance_id": id, "data": {"product_id": id}})
}

/// More commands in one batch than decisions may be open at once, and each reads something that no other does.
#[tokio::test]
async fn each_decision_of_a_wave_gets_what_it_asked_for() {
    let handlers = ["ontology", "instance"].map(|name| sandbox().load(&component(name)).unwrap());
    let process = Store::new().process(together(handlers)).await;
    let mut worker = worker_with(&process, bundled()).await;
    process.send("Database", "shop", "CREATE_DATABASE", json!({"name": "shop", "description": "d"})).await;
    worker.settle(&process).await;
    let property = |name: &str| json!({"name": name, "type": "string", "label": name});
    let likes = json!({"name": "likes", "type": "link", "label": "likes"});
    let definition = class(&json!([property("product_id"), likes]));
    process.send("OntologyClass", "shop:Product", "CREATE_ONTOLOGY_CLASS", definition).await;
    worker.settle(&process).await;
    for number in (0..120).step_by(2) {
        process
            .send("Instance", &format!("shop:Product:p{number}"), "CREATE_INSTANCE", create(&format!("p{number}")))
            .await;
    }
    worker.settle(&process).await;
    let mut commands = Vec::new();
    for number in (1..120).step_by(2) {
        let mut liking = create(&format!("p{number}"));
        liking["data"]["likes"] = format!("Product/p{}", number - 1).into();
        let id = format!("shop:Product:p{number}");
        commands.push((number, process.send("Instance", &id, "CREATE_INSTANCE", liking).await));
    }
    worker.settle(&process).await;
    for (number, command) in commands {
        let outcome = process.events.outcome(command.event_id).await.unwrap().remove(0);
        assert_eq!(&*outcome.event_type, "INSTANCE_CREATED");
        let envelope: Value = serde_json::from_slice(&outcome.line).unwrap();
        let read = envelope["metadata"]["read_set"].as_array().unwrap().iter();
        let instances: Vec<&Value> =
            read.filter(|read| read["aggregate_type"] == "Instance").map(|read| &read["aggregate_id"]).collect();
        assert_eq!(instances, [&json!(format!("shop:Product:p{}", number - 1))]);
    }
}

#[tokio::test]
async fn a_decision_sees_the_class_as_it_is_and_names_what_it_read() {
    let handlers = ["ontology", "instance"].map(|name| sandbox().load(&component(name)).unwrap());
    let process = Store::new().process(together(handlers)).await;
    let mut worker = worker_with(&process, bundled()).await;
    process.send("Database", "shop", "CREATE_DATABASE", json!({"name": "shop", "description": "d"})).await;
    worker.settle(&process).await;
    let id = json!({"name": "product_id", "type": "string", "label": "Id", "required": true});
    process.send("OntologyClass", "shop:Product", "CREATE_ONTOLOGY_CLASS", class(&json!([id]))).await;
    worker.settle(&process).await;
    let fits = process.send("Instance", "shop:Product:p1", "CREATE_INSTANCE", create("p1")).await;
    worker.settle(&process).await;
    assert_eq!(process.outcome(fits.event_id).await, ["INSTANCE_CREATED"]);
    let name = json!({"name": "name", "type": "string", "label": "Name", "required": true});
    let mut stricter = class(&json!([id, name]));
    stricter["allow_breaking"] = true.into();
    let update = process.send("OntologyClass", "shop:Product", "UPDATE_ONTOLOGY_CLASS", stricter).await;
    worker.settle(&process).await;
    assert_eq!(process.outcome(update.event_id).await, ["ONTOLOGY_CLASS_UPDATED"]);
    let lacks = process.send("Instance", "shop:Product:p2", "CREATE_INSTANCE", create("p2")).await;
    worker.settle(&process).await;
    let outcome = process.events.outcome(lacks.event_id).await.unwrap().remove(0);
    assert_eq!(&*outcome.event_type, "COMMAND_FAILED");
    let envelope: Value = serde_json::from_slice(&outcome.line).unwrap();
    let read = envelope["metadata"]["read_set"].as_array().unwrap();
    let class = read.iter().find(|read| read["aggregate_type"] == "OntologyClass").unwrap();
    assert_eq!(class["sequence_number"], process.stream("OntologyClass", "shop:Product").await.len());
}
