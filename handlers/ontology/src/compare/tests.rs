//! Each kind of change, with the level it has.
#![allow(clippy::unwrap_used)]

use super::compare;
use carryall_sdk::Level;
use serde_json::{Value, json};

fn level(older: Value, newer: Value) -> (Level, Vec<String>) {
    let class = |parts: Value| serde_json::from_value(parts).unwrap();
    let comparison = compare(&class(older), &class(newer));
    (comparison.level, comparison.findings.into_iter().map(|finding| finding.code).collect())
}

fn property(parts: Value) -> Value {
    let mut property = json!({"name": "p", "type": "string"});
    for (key, value) in parts.as_object().unwrap() {
        property[key] = value.clone();
    }
    json!({"id": "A", "properties": [property]})
}

fn relationship(target: &str, cardinality: &str) -> Value {
    json!({"id": "A", "relationships": [{"predicate": "r", "target": target, "cardinality": cardinality}]})
}

fn breaking(older: Value, newer: Value, code: &str) {
    assert_eq!(level(older, newer), (Level::Breaking, vec![code.to_owned()]));
}

fn compatible(older: Value, newer: Value, codes: &[&str]) {
    let codes = codes.iter().map(ToString::to_string).collect();
    assert_eq!(level(older, newer), (Level::Compatible, codes));
}

#[test]
fn words_for_people_change_nothing_stored() {
    compatible(json!({"id": "A"}), json!({"id": "A", "label": "x", "description": "y"}), &[]);
    compatible(property(json!({})), property(json!({"label": "x", "default": "d"})), &[]);
}

#[test]
fn properties_may_come_and_not_go() {
    let none = json!({"id": "A"});
    compatible(none.clone(), property(json!({})), &["property-added"]);
    compatible(none.clone(), property(json!({"required": true, "default": "d"})), &["property-added"]);
    breaking(none.clone(), property(json!({"required": true})), "required-added");
    breaking(property(json!({})), none, "property-removed");
}

#[test]
fn required_needs_a_default() {
    breaking(property(json!({})), property(json!({"required": true})), "made-required");
    compatible(property(json!({})), property(json!({"required": true, "default": "d"})), &["made-required"]);
    compatible(property(json!({"required": true})), property(json!({})), &[]);
}

#[test]
fn types_may_widen() {
    for (was, now) in
        [("integer", "long"), ("float", "double"), ("email", "text"), ("date", "json"), ("text", "string")]
    {
        compatible(property(json!({"type": was})), property(json!({"type": now})), &["type-widened"]);
    }
    for (was, now) in [("long", "integer"), ("string", "date"), ("json", "string"), ("boolean", "integer")] {
        breaking(property(json!({"type": was})), property(json!({"type": now})), "type-changed");
    }
}

#[test]
fn constraints_may_loosen() {
    let with = |constraints: Value| property(json!({"constraints": constraints}));
    let cases = [
        (json!({"min": 1}), json!({"min": 2})),
        (json!({"max": 2}), json!({"max": 1})),
        (json!({"minLength": 1}), json!({"minLength": 2})),
        (json!({"maxLength": 2}), json!({"maxLength": 1})),
        (json!({"enum": ["a", "b"]}), json!({"enum": ["a"]})),
    ];
    for (loose, tight) in cases {
        breaking(with(loose.clone()), with(tight.clone()), "constraint-narrowed");
        breaking(with(json!({})), with(tight.clone()), "constraint-narrowed");
        compatible(with(tight.clone()), with(loose), &[]);
        compatible(with(tight), with(json!({})), &[]);
    }
    breaking(with(json!({"pattern": "a"})), with(json!({"pattern": "b"})), "constraint-narrowed");
    compatible(with(json!({"pattern": "a"})), with(json!({})), &[]);
}

#[test]
fn relationships_may_come_and_loosen() {
    let none = json!({"id": "A"});
    compatible(none.clone(), relationship("B", "n:1"), &["relationship-added"]);
    breaking(relationship("B", "n:1"), none, "relationship-removed");
    breaking(relationship("B", "n:1"), relationship("C", "n:1"), "target-changed");
    compatible(relationship("B", "1:1"), relationship("B", "n:1"), &["cardinality-loosened"]);
    compatible(relationship("B", "1:n"), relationship("B", "n:m"), &["cardinality-loosened"]);
    for (was, now) in [("n:1", "1:1"), ("n:m", "1:n"), ("n:1", "n:m"), ("n:m", "n:1")] {
        breaking(relationship("B", was), relationship("B", now), "cardinality-changed");
    }
}

#[test]
fn abstract_and_parent() {
    breaking(json!({"id": "A"}), json!({"id": "A", "abstract": true}), "made-abstract");
    compatible(json!({"id": "A", "abstract": true}), json!({"id": "A"}), &["made-concrete"]);
    breaking(json!({"id": "A"}), json!({"id": "A", "parent": "B"}), "parent-changed");
    breaking(json!({"id": "A"}), json!({"id": "B"}), "id-changed");
}
