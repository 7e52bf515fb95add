//! Each rule of instances, as a scenario.
#![allow(clippy::unwrap_used)]

use super::Instance;
use carryall_sdk::testing::{COMMAND_ID, Decided, Given, described, given_nothing};
use serde_json::{Value, json};

/// A class as `needs` reads it.
fn class(given: Given<Instance>, class: Value, ancestors: &[&str]) -> Given<Instance> {
    let id = class["id"].as_str().unwrap().to_owned();
    let state = json!({"db_name": "shop", "class_id": id, "class": class, "ancestors": ancestors});
    given.reading("OntologyClass", &format!("shop:{id}"), &state)
}

fn existing(given: Given<Instance>, class: &str, id: &str) -> Given<Instance> {
    let state = json!({"db_name": "shop", "class_id": class, "instance_id": id, "data": {}, "relationships": {}});
    given.reading("Instance", &format!("shop:{class}:{id}"), &state)
}

/// `shop`, with a customer, a vip (a customer), and products that are things.
fn shop() -> Given<Instance> {
    let mut shop = given_nothing::<Instance>().on("Instance", "shop:Product:p1").reading(
        "Database",
        "shop",
        &json!({"name": "shop", "description": null}),
    );
    shop = class(shop, json!({"id": "Party", "abstract": true}), &[]);
    shop = class(shop, json!({"id": "Customer", "parent": "Party"}), &["Party"]);
    shop = class(shop, json!({"id": "Vip", "parent": "Customer"}), &["Customer", "Party"]);
    shop = class(
        shop,
        json!({"id": "Thing", "abstract": true, "properties": [
            {"name": "made", "type": "date"},
            {"name": "state", "type": "enum", "default": "new", "constraints": {"enum": ["new", "used"]}},
        ], "relationships": [{"predicate": "kept_by", "target": "Party", "cardinality": "n:1"}]}),
        &[],
    );
    shop = class(
        shop,
        json!({"id": "Product", "parent": "Thing", "properties": [
            {"name": "product_id", "type": "string", "required": true},
            {"name": "name", "type": "string", "required": true, "constraints": {"minLength": 2}},
            {"name": "price", "type": "decimal", "constraints": {"min": 0}},
            {"name": "details", "type": "json"},
            {"name": "see", "type": "link"},
        ], "relationships": [
            {"predicate": "owned_by", "target": "Customer", "cardinality": "n:1"},
            {"predicate": "liked_by", "target": "Customer", "cardinality": "n:m"},
            {"predicate": "part_of", "target": "Product", "cardinality": "n:1"},
        ]}),
        &["Thing"],
    );
    shop = existing(shop, "Customer", "c1");
    shop = existing(shop, "Customer", "c2");
    existing(shop, "Vip", "v1")
}

fn payload(data: Value) -> Value {
    json!({"db_name": "shop", "class_id": "Product", "instance_id": "p1", "data": data})
}

/// Valid data with these fields changed; null takes a field out.
fn product(changes: Value) -> Value {
    let mut data = json!({"product_id": "p1", "name": "Lamp"});
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => {
                data.as_object_mut().unwrap().remove(key);
            }
            value => data[key] = value.clone(),
        }
    }
    data
}

fn create(data: Value) -> Decided<Instance> {
    shop().when(("CREATE_INSTANCE", payload(data)))
}

fn written(data: Value, relationships: Value) -> Value {
    json!({"db_name": "shop", "class_id": "Product", "instance_id": "p1", "data": data, "relationships": relationships})
}

fn created(data: Value, relationships: Value) -> Given<Instance> {
    let mut whole = data.clone();
    if whole.get("state").is_none() {
        whole["state"] = json!("new");
    }
    create(data).then([("INSTANCE_CREATED", written(whole, relationships))])
}

fn update(patch: Value) -> Decided<Instance> {
    created(product(json!({})), json!({})).when(("UPDATE_INSTANCE", payload(patch)))
}

#[test]
fn the_manifest_names_what_is_decided_and_read() {
    let manifest = described::<Instance>();
    assert_eq!(manifest.name, "instance");
    assert_eq!(manifest.kinds, ["Instance", "InstanceBatch"]);
    let reads: Vec<&str> = manifest.reads.iter().map(|contract| contract.name.as_str()).collect();
    assert_eq!(reads, ["Database", "OntologyClass", "Instance"]);
}

#[test]
fn an_instance_is_created_updated_deleted_and_created_again() {
    let data = json!({"product_id": "p1", "name": "Lamp", "state": "new"});
    let cheaper = json!({"product_id": "p1", "name": "Lamp", "state": "new", "price": 5});
    let names = json!({"db_name": "shop", "class_id": "Product", "instance_id": "p1"});
    let deleted = json!({"db_name": "shop", "class_id": "Product", "instance_id": "p1", "predicates": []});
    let end = shop()
        .when(("CREATE_INSTANCE", payload(product(json!({})))))
        .then([("INSTANCE_CREATED", written(data.clone(), json!({})))])
        .when(("CREATE_INSTANCE", payload(product(json!({})))))
        .then_rejected("already-exists")
        .when(("UPDATE_INSTANCE", payload(json!({"price": 5}))))
        .then([("INSTANCE_UPDATED", written(cheaper, json!({})))])
        .when(("DELETE_INSTANCE", names.clone()))
        .then([("INSTANCE_DELETED", deleted)]);
    assert_eq!(end.state(), None);
    end.when(("DELETE_INSTANCE", names))
        .then_rejected("not-found")
        .when(("UPDATE_INSTANCE", payload(json!({}))))
        .then_rejected("not-found")
        .when(("CREATE_INSTANCE", payload(product(json!({})))))
        .then([("INSTANCE_CREATED", written(data, json!({})))]);
}

#[test]
fn the_payload_agrees_with_the_target_or_is_silent() {
    for (name, value) in [("db_name", "other"), ("class_id", "Thing"), ("instance_id", "p2")] {
        let mut odd = payload(product(json!({})));
        odd[name] = json!(value);
        shop().when(("CREATE_INSTANCE", odd)).then_rejected("target-mismatch");
    }
    let data = json!({"product_id": "p1", "name": "Lamp", "state": "new"});
    shop()
        .when(("CREATE_INSTANCE", json!({"data": data})))
        .then([("INSTANCE_CREATED", written(data, json!({})))])
        .when(("DELETE_INSTANCE", json!({"instance_id": "p2"})))
        .then_rejected("target-mismatch");
    shop()
        .on("Instance", "shop:Product")
        .when(("CREATE_INSTANCE", json!({"data": {}})))
        .then_rejected("target-mismatch");
    shop().when(("CREATE_INSTANCE", json!({"db_name": "shop"}))).then_rejected("invalid-payload");
}

#[test]
fn database_and_class_must_exist_and_the_class_must_be_concrete() {
    let nowhere = || given_nothing::<Instance>().on("Instance", "shop:Product:p1");
    nowhere().when(("CREATE_INSTANCE", json!({"data": {}}))).then_rejected("unknown-database");
    nowhere()
        .reading("Database", "shop", &json!({"name": "shop"}))
        .when(("CREATE_INSTANCE", json!({"data": {}})))
        .then_rejected("unknown-class");
    shop()
        .on("Instance", "shop:Party:a")
        .when(("CREATE_INSTANCE", json!({"data": {}})))
        .then_rejected("abstract-class");
}

#[test]
fn inherited_properties_are_checked_like_own_ones() {
    created(product(json!({"made": "2024-02-29", "state": "used"})), json!({}));
    create(product(json!({"made": "2023-02-29"}))).then_rejected("wrong-type");
    create(product(json!({"state": "broken"}))).then_rejected("not-in-enum");
}

#[test]
fn types_constraints_and_required_are_checked() {
    create(product(json!({"price": "cheap"}))).then_rejected("wrong-type");
    create(product(json!({"price": -1}))).then_rejected("below-min");
    create(product(json!({"name": "L"}))).then_rejected("too-short");
    let decided = create(product(json!({"name": null})));
    assert_eq!(decided.problems()[0].pointer.as_deref(), Some("/data/name"));
    decided.then_rejected("required");
}

#[test]
fn all_problems_of_a_payload_are_told_at_once() {
    let decided = create(json!({"product_id": "p1", "price": -1, "colour": "red"}));
    let codes: Vec<&str> = decided.problems().iter().map(|problem| problem.code.as_str()).collect();
    assert_eq!(codes, ["unknown-field", "below-min", "required"]);
}

#[test]
fn an_unknown_field_is_refused_unless_it_repeats_the_id() {
    create(product(json!({"colour": "red"}))).then_rejected("unknown-field");
    created(product(json!({"sku_id": "p1"})), json!({}));
    create(product(json!({"sku_id": "p2"}))).then_rejected("unknown-field");
}

#[test]
fn the_identifier_field_names_the_instance() {
    create(product(json!({"product_id": "p2"}))).then_rejected("identifier-mismatch");
    update(json!({"product_id": "p2"})).then_rejected("identifier-mismatch");
    let mut numbered =
        given_nothing::<Instance>().on("Instance", "shop:Item:17").reading("Database", "shop", &json!({}));
    numbered = class(numbered, json!({"id": "Item", "properties": [{"name": "item_id", "type": "integer"}]}), &[]);
    let event = json!({"db_name": "shop", "class_id": "Item", "instance_id": "17", "data": {"item_id": 17},
        "relationships": {}});
    numbered.when(("CREATE_INSTANCE", json!({"data": {"item_id": 17}}))).then([("INSTANCE_CREATED", event)]);
}

#[test]
fn null_in_a_create_is_nothing() {
    create(json!({"product_id": "p1", "name": "Lamp", "price": null}))
        .then([("INSTANCE_CREATED", written(product(json!({"state": "new"})), json!({})))]);
    create(json!({"product_id": "p1", "name": null})).then_rejected("required");
}

#[test]
fn an_update_is_a_merge_patch_whose_result_is_checked() {
    let with_details = product(json!({"details": {"a": {"b": 1}, "c": 2}}));
    let merged = product(json!({"state": "new", "details": {"a": {"b": 1, "d": 3}}}));
    created(with_details, json!({}))
        .when(("UPDATE_INSTANCE", payload(json!({"details": {"a": {"d": 3}, "c": null}}))))
        .then([("INSTANCE_UPDATED", written(merged, json!({})))]);
    update(json!({"name": null})).then_rejected("required");
    update(json!({"price": -1})).then_rejected("below-min");
    update(json!({"colour": "red"})).then_rejected("unknown-field");
}

#[test]
fn a_removed_optional_property_stays_away() {
    update(json!({"state": null})).then([("INSTANCE_UPDATED", written(product(json!({})), json!({})))]);
}

#[test]
fn an_update_that_changes_nothing_is_unchanged() {
    update(json!({})).then_unchanged();
    update(json!({"name": "Lamp", "price": null})).then_unchanged();
}

#[test]
fn a_property_that_became_required_gets_its_default_in_the_next_update() {
    let item = |parts: Value| json!({"id": "Item", "properties": [parts, {"name": "b", "type": "string"}]});
    let was = json!({"db_name": "shop", "class_id": "Item", "instance_id": "1", "data": {}, "relationships": {}});
    let mut now = was.clone();
    now["data"] = json!({"a": "x", "b": "y"});
    let given = carryall_sdk::testing::given::<Instance>([("INSTANCE_CREATED", was)]).on("Instance", "shop:Item:1");
    class(given, item(json!({"name": "a", "type": "string", "required": true, "default": "x"})), &[])
        .when(("UPDATE_INSTANCE", json!({"data": {"b": "y"}})))
        .then([("INSTANCE_UPDATED", now)]);
}

#[test]
fn references_are_recorded_beside_the_data() {
    let data = product(json!({"owned_by": "Customer/c1", "liked_by": ["Customer/c1", "Customer/c2"]}));
    created(data, json!({"owned_by": ["Customer/c1"], "liked_by": ["Customer/c1", "Customer/c2"]}));
}

#[test]
fn a_reference_may_be_of_a_class_below_the_target() {
    created(product(json!({"owned_by": "Vip/v1"})), json!({"owned_by": ["Vip/v1"]}));
    created(product(json!({"kept_by": "Vip/v1"})), json!({"kept_by": ["Vip/v1"]}));
    let mut given = existing(shop(), "Product", "p2");
    given = existing(given, "Ghost", "g1");
    given
        .when(("CREATE_INSTANCE", payload(product(json!({"owned_by": "Product/p2"})))))
        .then_rejected("reference-wrong-class")
        .when(("CREATE_INSTANCE", payload(product(json!({"owned_by": "Ghost/g1"})))))
        .then_rejected("reference-wrong-class");
}

#[test]
fn the_longest_lineages_are_read_in_few_rounds() {
    // Two lineages of six classes: one above the instance, whose relationship is at its top, and one above what it
    // points to, whose top is the target.
    let mut given = given_nothing::<Instance>().on("Instance", "shop:A5:a").reading(
        "Database",
        "shop",
        &json!({"name": "shop", "description": null}),
    );
    for (letter, relationships) in
        [("A", json!([{"predicate": "to", "target": "B0", "cardinality": "n:1"}])), ("B", json!([]))]
    {
        for level in 0..6 {
            let above: Vec<String> = (0..level).rev().map(|above| format!("{letter}{above}")).collect();
            let names: Vec<&str> = above.iter().map(String::as_str).collect();
            let own = if level == 0 { relationships.clone() } else { json!([]) };
            let definition = json!({"id": format!("{letter}{level}"), "parent": names.first(), "relationships": own});
            given = class(given, definition, &names);
        }
    }
    let event = json!({"db_name": "shop", "class_id": "A5", "instance_id": "a", "data": {"to": "B5/b"},
        "relationships": {"to": ["B5/b"]}});
    existing(given, "B5", "b")
        .when(("CREATE_INSTANCE", json!({"data": {"to": "B5/b"}})))
        .then([("INSTANCE_CREATED", event)]);
}

#[test]
fn a_reference_must_be_well_formed_and_exist() {
    create(product(json!({"owned_by": "c1"}))).then_rejected("invalid-reference");
    create(product(json!({"owned_by": 1}))).then_rejected("invalid-reference");
    let decided = create(product(json!({"liked_by": ["Customer/c1", "Customer/c9"]})));
    assert_eq!(decided.problems()[0].pointer.as_deref(), Some("/data/liked_by/1"));
    decided.then_rejected("reference-not-found");
}

#[test]
fn a_link_points_to_any_instance_and_is_no_relationship() {
    created(product(json!({"see": "Vip/v1"})), json!({}));
    create(product(json!({"see": "Vip/v9"}))).then_rejected("reference-not-found");
}

#[test]
fn an_instance_may_point_to_itself() {
    created(product(json!({"part_of": "Product/p1"})), json!({"part_of": ["Product/p1"]}));
    create(product(json!({"owned_by": "Product/p1"}))).then_rejected("reference-wrong-class");
}

#[test]
fn cardinality_says_one_or_many_without_repetition() {
    create(product(json!({"owned_by": ["Customer/c1"]}))).then_rejected("cardinality");
    create(product(json!({"liked_by": "Customer/c1"}))).then_rejected("cardinality");
    create(product(json!({"liked_by": ["Customer/c1", "Customer/c1"]}))).then_rejected("cardinality");
}

#[test]
fn a_reference_that_was_there_is_not_looked_at_again() {
    let owned = written(product(json!({"owned_by": "Customer/gone"})), json!({"owned_by": ["Customer/gone"]}));
    let cheaper =
        written(product(json!({"owned_by": "Customer/gone", "price": 5})), json!({"owned_by": ["Customer/gone"]}));
    let mut given =
        carryall_sdk::testing::given::<Instance>([("INSTANCE_CREATED", owned)]).on("Instance", "shop:Product:p1");
    given = class(
        given,
        json!({"id": "Product", "properties": [
        {"name": "product_id", "type": "string"}, {"name": "name", "type": "string"},
        {"name": "price", "type": "integer"}],
        "relationships": [{"predicate": "owned_by", "target": "Customer", "cardinality": "n:1"}]}),
        &[],
    );
    given
        .when(("UPDATE_INSTANCE", payload(json!({"price": 5}))))
        .then([("INSTANCE_UPDATED", cheaper)])
        .when(("UPDATE_INSTANCE", payload(json!({"owned_by": "Customer/other"}))))
        .then_rejected("reference-not-found");
}

#[test]
fn a_predicate_that_lost_its_references_says_so() {
    let given = created(product(json!({"owned_by": "Customer/c1"})), json!({"owned_by": ["Customer/c1"]}));
    let without = written(product(json!({"state": "new"})), json!({"owned_by": []}));
    let deleted = json!({"db_name": "shop", "class_id": "Product", "instance_id": "p1", "predicates": ["owned_by"]});
    given
        .when(("UPDATE_INSTANCE", payload(json!({"owned_by": null}))))
        .then([("INSTANCE_UPDATED", without)])
        .when(("UPDATE_INSTANCE", payload(json!({"owned_by": null}))))
        .then_unchanged()
        .when(("DELETE_INSTANCE", json!({})))
        .then([("INSTANCE_DELETED", deleted)]);
}

#[test]
fn one_command_adds_a_bounded_number_of_references() {
    let list = |count: usize| (0..count).map(|index| format!("Customer/n{index}")).collect::<Vec<_>>();
    let mut given = shop();
    for index in 0..40 {
        given = existing(given, "Customer", &format!("n{index}"));
    }
    let decided = given.when(("CREATE_INSTANCE", payload(product(json!({"liked_by": list(40)})))));
    assert!(decided.reads().len() <= 64);
    let data = product(json!({"state": "new", "liked_by": list(40)}));
    decided.then([("INSTANCE_CREATED", written(data, json!({"liked_by": list(40)})))]);
    create(product(json!({"liked_by": list(41)}))).then_rejected("too-many-references");
    create(product(json!({"liked_by": list(200)}))).then_rejected("too-many-references");
}

#[test]
fn only_what_the_decision_rests_on_is_read() {
    let decided = create(product(json!({"owned_by": "Vip/v1"})));
    let mut read: Vec<String> = decided.reads().iter().map(ToString::to_string).collect();
    read.sort();
    assert_eq!(
        read,
        [
            "Database/shop",
            "Instance/shop:Vip:v1",
            "OntologyClass/shop:Customer",
            "OntologyClass/shop:Party",
            "OntologyClass/shop:Product",
            "OntologyClass/shop:Thing",
            "OntologyClass/shop:Vip",
        ]
    );
    assert_eq!(shop().when(("DELETE_INSTANCE", json!({}))).reads(), []);
}

fn batch(instances: Value) -> Decided<Instance> {
    shop()
        .on("InstanceBatch", &format!("shop:Product:{COMMAND_ID}"))
        .when(("BULK_CREATE_INSTANCES", json!({"db_name": "shop", "class_id": "Product", "instances": instances})))
}

#[test]
fn a_batch_becomes_one_command_for_each_row() {
    let rows =
        json!([{"product_id": "a", "name": "A"}, {"sku_id": 7, "zone_id": "z", "product_id": null}, {"name": "C"}]);
    let decided = batch(rows.clone());
    let derived = {
        let row = carryall_sdk::ids::derived(&format!("carryall:{COMMAND_ID}:command:2"));
        carryall_sdk::ids::derived(&format!("carryall:{row}:instance"))
    };
    let ids = ["a", "7", derived.as_str()];
    for (index, command) in decided.commands().iter().enumerate() {
        assert_eq!(command.name, "CREATE_INSTANCE");
        assert_eq!(command.target.to_string(), format!("Instance/shop:Product:{}", ids[index]));
        assert_eq!(command.expected_seq, None);
        let payload: Value = serde_json::from_str(&command.payload).unwrap();
        let wanted = json!({"db_name": "shop", "class_id": "Product", "instance_id": ids[index], "data": rows[index]});
        assert_eq!(payload, wanted);
    }
    let accepted = json!({"db_name": "shop", "class_id": "Product", "count": 3, "instance_ids": ids});
    decided
        .then([("INSTANCE_BATCH_ACCEPTED", accepted)])
        .when(("BULK_CREATE_INSTANCES", json!({"instances": rows})))
        .then_rejected("already-exists");
}

#[test]
fn the_id_of_a_row_is_the_one_a_single_create_would_get() {
    // By RFC 9562 with the URL namespace; computed by another implementation.
    let row = carryall_sdk::ids::issued_command("00000000-0000-4000-8000-000000000000", 0);
    assert_eq!(row, "31d98834-bcda-54ec-992c-b7bbc76210b3");
}

#[test]
fn a_batch_that_cannot_become_commands_is_refused_whole() {
    batch(json!([])).then_rejected("batch-empty");
    batch(json!(vec![json!({}); 1_001])).then_rejected("batch-too-large");
    let decided = batch(json!([{"product_id": "a"}, {"product_id": "no id"}]));
    assert_eq!(decided.problems()[0].pointer.as_deref(), Some("/instances/1/product_id"));
    decided.then_rejected("invalid-instance-id");
    batch(json!([{"product_id": 1.5}])).then_rejected("invalid-instance-id");
    batch(json!([{"product_id": true}])).then_rejected("invalid-instance-id");
    shop()
        .on("InstanceBatch", "shop:Nothing:b1")
        .when(("BULK_CREATE_INSTANCES", json!({"instances": [{}]})))
        .then_rejected("unknown-class");
    given_nothing::<Instance>()
        .on("InstanceBatch", "shop:Product:b1")
        .when(("BULK_CREATE_INSTANCES", json!({"instances": [{}]})))
        .then_rejected("unknown-database");
    shop().when(("BULK_CREATE_INSTANCES", json!({"instances": [{}]}))).then_rejected("target-mismatch");
}
