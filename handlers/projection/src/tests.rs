//! Documents, nodes and edges after histories of each kind.

use super::Projection;
use carryall_sdk::testing::{described_projection, history, projected};
use serde_json::{Value, json};

const ID: &str = "shop:Product:p1";

fn written(data: Value, relationships: Value) -> Value {
    json!({"db_name": "shop", "class_id": "Product", "instance_id": "p1", "data": data, "relationships": relationships})
}

#[test]
fn the_manifest_names_kinds_and_collections() {
    let manifest = described_projection::<Projection>();
    assert_eq!(manifest.name, "projection");
    assert_eq!(manifest.ordering, "aggregate");
    let collections: Vec<&str> = manifest.collections.iter().map(|collection| collection.name.as_str()).collect();
    assert_eq!(collections, ["instances", "classes", "databases"]);
}

#[test]
fn an_instance_keeps_when_it_was_created() {
    let events = history(
        "Instance",
        ID,
        [
            ("INSTANCE_CREATED", written(json!({"name": "Lamp"}), json!({}))),
            ("INSTANCE_UPDATED", written(json!({"name": "Lamp", "price": 5}), json!({}))),
        ],
    );
    let model = projected::<Projection>(&events);
    assert_eq!(
        model.document("instances", ID),
        Some(json!({
            "instance_id": "p1", "class_id": "Product", "db_name": "shop", "data": {"name": "Lamp", "price": 5},
            "sequence_number": 4, "created_at": "2025-12-17T00:00:00.000Z", "updated_at": "2025-12-17T00:00:01.000Z",
        }))
    );
    assert_eq!(model.node(ID), Some("Product"));
}

/// An operator may discard the event that created it.
#[test]
fn an_update_of_what_has_no_document_brings_the_node_as_well() {
    let events = history("Instance", ID, [("INSTANCE_UPDATED", written(json!({"name": "Lamp"}), json!({})))]);
    let model = projected::<Projection>(&events);
    assert!(model.document("instances", ID).is_some());
    assert_eq!(model.node(ID), Some("Product"));
}

#[test]
fn edges_follow_the_relationships() {
    let events = |count: usize| {
        let all = [
            ("INSTANCE_CREATED", written(json!({}), json!({"liked_by": ["Customer/c1", "Vip/v1"]}))),
            ("INSTANCE_UPDATED", written(json!({}), json!({"liked_by": []}))),
        ];
        history("Instance", ID, all.into_iter().take(count))
    };
    let model = projected::<Projection>(&events(1));
    assert_eq!(model.targets(ID, "liked_by"), ["shop:Customer:c1", "shop:Vip:v1"]);
    let model = projected::<Projection>(&events(2));
    assert!(model.targets(ID, "liked_by").is_empty());
}

#[test]
fn a_deleted_instance_leaves_nothing() {
    let deleted = json!({"db_name": "shop", "class_id": "Product", "instance_id": "p1", "predicates": ["owned_by"]});
    let events = history(
        "Instance",
        ID,
        [("INSTANCE_CREATED", written(json!({}), json!({"owned_by": ["Customer/c1"]}))), ("INSTANCE_DELETED", deleted)],
    );
    let model = projected::<Projection>(&events);
    assert_eq!(model.document("instances", ID), None);
    assert_eq!(model.node(ID), None);
    assert!(model.targets(ID, "owned_by").is_empty());
}

#[test]
fn an_instance_created_again_starts_anew() {
    let deleted = json!({"db_name": "shop", "class_id": "Product", "instance_id": "p1", "predicates": []});
    let events = history(
        "Instance",
        ID,
        [
            ("INSTANCE_CREATED", written(json!({"a": 1}), json!({}))),
            ("INSTANCE_DELETED", deleted),
            ("INSTANCE_CREATED", written(json!({"b": 2}), json!({}))),
        ],
    );
    let document = projected::<Projection>(&events).document("instances", ID);
    assert_eq!(document.as_ref().map(|document| &document["data"]), Some(&json!({"b": 2})));
    assert_eq!(document.map(|document| document["created_at"].clone()), Some(json!("2025-12-17T00:00:02.000Z")));
}

#[test]
fn a_class_is_its_definition_with_its_place() {
    let class = json!({"id": "Product", "label": null, "description": null, "parent": null, "abstract": false,
        "properties": [], "relationships": []});
    let defined = json!({"db_name": "shop", "class_id": "Product", "class": class, "ancestors": []});
    let mut wanted = class;
    wanted["db_name"] = json!("shop");
    wanted["sequence_number"] = json!(4);
    let events = history(
        "OntologyClass",
        "shop:Product",
        [("ONTOLOGY_CLASS_CREATED", defined.clone()), ("ONTOLOGY_CLASS_UPDATED", defined)],
    );
    let model = projected::<Projection>(&events);
    assert_eq!(model.document("classes", "shop:Product"), Some(wanted));
    assert_eq!(model.node("shop:Product"), None);
    let gone = ("ONTOLOGY_CLASS_DELETED", json!({"db_name": "shop", "class_id": "Product"}));
    let model = projected::<Projection>(&history("OntologyClass", "shop:Product", [gone]));
    assert_eq!(model.document("classes", "shop:Product"), None);
}

#[test]
fn a_database_is_listed_until_it_is_deleted() {
    let created = ("DATABASE_CREATED", json!({"name": "shop", "description": "All we sell"}));
    let deleted = ("DATABASE_DELETED", json!({"name": "shop"}));
    let model = projected::<Projection>(&history("Database", "shop", [created.clone()]));
    assert_eq!(
        model.document("databases", "shop"),
        Some(json!({"name": "shop", "description": "All we sell", "sequence_number": 2,
            "created_at": "2025-12-17T00:00:00.000Z"}))
    );
    let model = projected::<Projection>(&history("Database", "shop", [created, deleted]));
    assert_eq!(model.document("databases", "shop"), None);
}

#[test]
fn a_batch_writes_nothing_itself() {
    let accepted = json!({"db_name": "shop", "class_id": "Product", "count": 1, "instance_ids": ["a"]});
    let events = history("InstanceBatch", "shop:Product:b", [("INSTANCE_BATCH_ACCEPTED", accepted)]);
    assert_eq!(projected::<Projection>(&events), projected::<Projection>(&[]));
}
