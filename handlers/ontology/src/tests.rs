//! Each rule of databases and classes, as a scenario.
#![allow(clippy::unwrap_used)]

use super::Ontology;
use carryall_sdk::testing::{Decided, Given, described, given_nothing};
use carryall_sdk::{Level, OntologyHandler};
use serde_json::{Value, json};

/// The class as the handler records it.
fn recorded(class: Value) -> Value {
    let mut whole = json!({"id": null, "label": null, "description": null, "parent": null, "abstract": false,
        "properties": [], "relationships": []});
    for (key, value) in class.as_object().unwrap() {
        whole[key] = value.clone();
    }
    whole
}

fn defined(class: Value, ancestors: &[&str]) -> Value {
    let class = recorded(class);
    json!({"db_name": "shop", "class_id": class["id"], "class": class, "ancestors": ancestors})
}

fn with_database(id: &str) -> Given<Ontology> {
    given_nothing::<Ontology>().on("OntologyClass", &format!("shop:{id}")).reading(
        "Database",
        "shop",
        &json!({"name": "shop", "description": null}),
    )
}

fn with_class(given: Given<Ontology>, class: Value, ancestors: &[&str]) -> Given<Ontology> {
    let state = defined(class, ancestors);
    let id = format!("shop:{}", state["class_id"].as_str().unwrap());
    given.reading("OntologyClass", &id, &state)
}

fn create(class: Value) -> Decided<Ontology> {
    let id = class["id"].as_str().unwrap_or("Product").to_owned();
    with_database(&id).when(("CREATE_ONTOLOGY_CLASS", class))
}

fn string_property(name: &str) -> Value {
    json!({"name": name, "type": "string", "label": null, "description": null, "required": false, "default": null,
        "constraints": {}})
}

fn updated(from: Value, to: Value) -> Decided<Ontology> {
    created(from).when(("UPDATE_ONTOLOGY_CLASS", to))
}

fn created(class: Value) -> Given<Ontology> {
    let whole = recorded(class.clone());
    create(class).then([("ONTOLOGY_CLASS_CREATED", defined(whole, &[]))])
}

#[test]
fn the_manifest_names_what_is_decided_and_read() {
    let manifest = described::<Ontology>();
    assert_eq!(manifest.name, "ontology");
    assert_eq!(manifest.kinds, ["Database", "OntologyClass"]);
    let commands: Vec<&str> = manifest.commands.iter().map(|contract| contract.name.as_str()).collect();
    assert_eq!(
        commands,
        [
            "CREATE_DATABASE",
            "DELETE_DATABASE",
            "CREATE_ONTOLOGY_CLASS",
            "UPDATE_ONTOLOGY_CLASS",
            "DELETE_ONTOLOGY_CLASS"
        ]
    );
    assert_eq!(manifest.folds, manifest.emits);
}

#[test]
fn a_database_is_created_once_deleted_once_and_can_come_back() {
    let event = json!({"name": "shop", "description": "All we sell"});
    given_nothing::<Ontology>()
        .on("Database", "shop")
        .when(("CREATE_DATABASE", event.clone()))
        .then([("DATABASE_CREATED", event.clone())])
        .when(("CREATE_DATABASE", event.clone()))
        .then_rejected("already-exists")
        .when(("DELETE_DATABASE", json!({})))
        .then([("DATABASE_DELETED", json!({"name": "shop"}))])
        .when(("DELETE_DATABASE", json!({})))
        .then_rejected("not-found")
        .when(("CREATE_DATABASE", json!({})))
        .then([("DATABASE_CREATED", json!({"name": "shop", "description": null}))]);
}

#[test]
fn a_database_payload_must_agree_with_its_target() {
    let database = || given_nothing::<Ontology>().on("Database", "shop");
    database().when(("CREATE_DATABASE", json!({"name": "other"}))).then_rejected("target-mismatch");
    database().when(("CREATE_DATABASE", json!({"nmae": "shop"}))).then_rejected("invalid-payload");
    given_nothing::<Ontology>()
        .on("Database", "1st")
        .when(("CREATE_DATABASE", json!({})))
        .then_rejected("invalid-name");
    given_nothing::<Ontology>()
        .on("OntologyClass", "shop:A")
        .when(("DELETE_DATABASE", json!({})))
        .then_rejected("target-mismatch");
}

#[test]
fn a_class_is_created_deleted_and_created_again() {
    let class = json!({"id": "Product", "label": "Product", "properties": [string_property("name")]});
    let created = defined(class.clone(), &[]);
    with_database("Product")
        .when(("CREATE_ONTOLOGY_CLASS", class.clone()))
        .then([("ONTOLOGY_CLASS_CREATED", created.clone())])
        .when(("CREATE_ONTOLOGY_CLASS", class.clone()))
        .then_rejected("already-exists")
        .when(("DELETE_ONTOLOGY_CLASS", json!({"id": "Other"})))
        .then_rejected("target-mismatch")
        .when(("DELETE_ONTOLOGY_CLASS", json!({})))
        .then([("ONTOLOGY_CLASS_DELETED", json!({"db_name": "shop", "class_id": "Product"}))])
        .when(("DELETE_ONTOLOGY_CLASS", json!({})))
        .then_rejected("not-found")
        .when(("UPDATE_ONTOLOGY_CLASS", class.clone()))
        .then_rejected("not-found")
        .when(("CREATE_ONTOLOGY_CLASS", class))
        .then([("ONTOLOGY_CLASS_CREATED", created)]);
}

#[test]
fn a_class_needs_its_database_and_agrees_with_its_target() {
    let class = json!({"id": "Product"});
    given_nothing::<Ontology>()
        .on("OntologyClass", "shop:Product")
        .when(("CREATE_ONTOLOGY_CLASS", class))
        .then_rejected("unknown-database");
    let send = |class: Value| with_database("Product").when(("CREATE_ONTOLOGY_CLASS", class));
    send(json!({"id": "Order"})).then_rejected("target-mismatch");
    send(json!({"id": "Product", "db_name": "other"})).then_rejected("target-mismatch");
    given_nothing::<Ontology>()
        .on("OntologyClass", "shop")
        .when(("CREATE_ONTOLOGY_CLASS", json!({})))
        .then_rejected("target-mismatch");
}

#[test]
fn a_class_that_was_read_can_be_sent_back() {
    let class = json!({"id": "Product", "properties": [string_property("name")]});
    let mut sent = recorded(class.clone());
    sent["db_name"] = json!("shop");
    sent["sequence_number"] = json!(2);
    updated(class, sent).then_unchanged();
}

#[test]
fn a_misspelt_definition_is_refused() {
    for class in [
        json!({"id": "Product", "propertys": []}),
        json!({"id": "Product", "properties": [{"name": "a", "type": "string", "requird": true}]}),
        json!({"id": "Product", "properties": [{"name": "a", "type": "strnig"}]}),
        json!({"id": "Product", "properties": [{"name": "a", "type": "string", "constraints": {"mim": 1}}]}),
        json!({"id": "Product", "relationships": [{"predicate": "a", "target": "B", "cardinality": "2:1"}]}),
    ] {
        create(class).then_rejected("invalid-payload");
    }
}

#[test]
fn a_definition_that_cannot_work_is_refused_with_a_pointer() {
    let cases = [
        (json!({"properties": [{"name": "1a", "type": "string"}]}), "invalid-name", "/properties/0/name"),
        (
            json!({"properties": [{"name": "a", "type": "string"}, {"name": "a", "type": "text"}]}),
            "duplicate-name",
            "/properties/1/name",
        ),
        (
            json!({"properties": [{"name": "a", "type": "string"}],
                "relationships": [{"predicate": "a", "target": "Product", "cardinality": "n:1"}]}),
            "duplicate-name",
            "/relationships/0/predicate",
        ),
        (
            json!({"properties": [{"name": "a", "type": "string", "constraints": {"min": 1}}]}),
            "invalid-constraint",
            "/properties/0/constraints",
        ),
        (
            json!({"properties": [{"name": "a", "type": "integer", "default": "x"}]}),
            "invalid-default",
            "/properties/0/default",
        ),
        (
            json!({"properties": [{"name": "a", "type": "integer", "default": 5, "constraints": {"max": 4}}]}),
            "invalid-default",
            "/properties/0/default",
        ),
        (json!({"parent": "no name"}), "invalid-name", "/parent"),
        (
            json!({"relationships": [{"predicate": "a", "target": "no name", "cardinality": "n:1"}]}),
            "invalid-name",
            "/relationships/0/target",
        ),
    ];
    for (class, code, pointer) in cases {
        let decided = with_database("Product").when(("CREATE_ONTOLOGY_CLASS", class));
        assert_eq!(decided.problems()[0].pointer.as_deref(), Some(pointer));
        decided.then_rejected(code);
    }
}

#[test]
fn targets_must_exist_and_a_class_may_point_to_itself() {
    let pointing = |target: &str| {
        let relationship = json!({"predicate": "to", "target": target, "cardinality": "n:1"});
        json!({"id": "Product", "relationships": [relationship]})
    };
    create(pointing("Customer")).then_rejected("unknown-target");
    let whole = json!({"id": "Product", "relationships": [{"predicate": "to", "target": "Product", "label": null,
        "description": null, "cardinality": "n:1", "inverse": null}]});
    let decided = create(pointing("Product"));
    assert!(decided.reads().iter().all(|read| read.kind == "Database"));
    decided.then([("ONTOLOGY_CLASS_CREATED", defined(whole, &[]))]);
    let known = with_class(with_database("Product"), json!({"id": "Customer"}), &[]);
    let decided = known.when(("CREATE_ONTOLOGY_CLASS", pointing("Customer")));
    assert!(decided.reads().iter().any(|read| read.id == "shop:Customer"));
    assert_eq!(decided.commands().len(), 0);
}

#[test]
fn the_lineage_is_read_and_recorded() {
    let mut given = with_class(with_database("C"), json!({"id": "B", "parent": "A"}), &["A"]);
    given = with_class(given, json!({"id": "A"}), &[]);
    given
        .when(("CREATE_ONTOLOGY_CLASS", json!({"id": "C", "parent": "B"})))
        .then([("ONTOLOGY_CLASS_CREATED", defined(json!({"id": "C", "parent": "B"}), &["B", "A"]))]);
}

#[test]
fn an_unknown_parent_is_refused() {
    create(json!({"id": "Product", "parent": "Thing"})).then_rejected("unknown-parent");
    // The parent exists, and what it inherits from was deleted.
    with_class(with_database("C"), json!({"id": "B", "parent": "A"}), &["A"])
        .when(("CREATE_ONTOLOGY_CLASS", json!({"id": "C", "parent": "B"})))
        .then_rejected("unknown-parent");
}

#[test]
fn a_class_never_inherits_from_itself() {
    create(json!({"id": "Product", "parent": "Product"})).then_rejected("inheritance-cycle");
    let mut given = created(json!({"id": "A"}));
    given = with_class(given, json!({"id": "B", "parent": "A"}), &["A"]);
    given = with_class(given, json!({"id": "C", "parent": "B"}), &["B", "A"]);
    given
        .when(("UPDATE_ONTOLOGY_CLASS", json!({"id": "A", "parent": "C", "allow_breaking": true})))
        .then_rejected("inheritance-cycle");
}

#[test]
fn a_class_has_at_most_five_above_it() {
    let chain = |length: usize| {
        (0..length).fold(with_database("New"), |given, index| {
            let above: Vec<String> = (0..index).rev().map(|above| format!("L{above}")).collect();
            let names: Vec<&str> = above.iter().map(String::as_str).collect();
            with_class(given, json!({"id": format!("L{index}"), "parent": names.first()}), &names)
        })
    };
    chain(5).when(("CREATE_ONTOLOGY_CLASS", json!({"id": "New", "parent": "L4"}))).then([(
        "ONTOLOGY_CLASS_CREATED",
        defined(json!({"id": "New", "parent": "L4"}), &["L4", "L3", "L2", "L1", "L0"]),
    )]);
    for length in [6, 8] {
        let parent = format!("L{}", length - 1);
        chain(length)
            .when(("CREATE_ONTOLOGY_CLASS", json!({"id": "New", "parent": parent})))
            .then_rejected("inheritance-too-deep");
    }
}

#[test]
fn too_large_definitions_are_refused_before_their_targets_are_read() {
    let relationship =
        |index: usize| json!({"predicate": format!("p{index}"), "target": format!("T{index}"), "cardinality": "n:1"});
    let decided = create(json!({"id": "Product", "relationships": (0..49).map(relationship).collect::<Vec<_>>()}));
    assert_eq!(decided.reads().len(), 1, "only the database");
    decided.then_rejected("too-many-relationships");
    let property = |index: usize| string_property(&format!("p{index}"));
    create(json!({"id": "Product", "properties": (0..501).map(property).collect::<Vec<_>>()}))
        .then_rejected("too-many-properties");
}

#[test]
fn a_breaking_change_needs_to_be_insisted_on() {
    let was = json!({"id": "Product", "properties": [string_property("name")]});
    let decided = updated(was.clone(), json!({"id": "Product"}));
    assert_eq!(decided.problems()[1].code, "property-removed");
    decided.then_rejected("breaking-change");
    updated(was, json!({"id": "Product", "allow_breaking": true}))
        .then([("ONTOLOGY_CLASS_UPDATED", defined(json!({"id": "Product"}), &[]))]);
}

#[test]
fn a_compatible_change_is_recorded_and_none_is_unchanged() {
    let now = json!({"id": "Product", "properties": [string_property("name")]});
    updated(json!({"id": "Product"}), now.clone()).then([("ONTOLOGY_CLASS_UPDATED", defined(now, &[]))]);
    updated(json!({"id": "Product"}), json!({})).then_unchanged();
}

#[test]
fn compare_is_exported_over_text() {
    let level = |older: Value, newer: Value| Ontology::compare(&older.to_string(), &newer.to_string()).unwrap().level;
    assert_eq!(level(json!({"id": "A"}), json!({"id": "A", "abstract": false})), Level::Identical);
    assert_eq!(level(json!({"id": "A"}), json!({"id": "A", "label": "An A"})), Level::Compatible);
    assert_eq!(level(json!({"id": "A"}), json!({"id": "A", "parent": "B"})), Level::Breaking);
    assert_eq!(Ontology::compare("{}", "no JSON").unwrap_err().code, "unreadable-json");
}
