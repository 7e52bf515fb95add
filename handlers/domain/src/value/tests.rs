//! Types and constraints, each with values that fit and values that do not.
#![allow(clippy::unwrap_used)]

use super::{check, check_constraints};
use crate::class::Property;
use serde_json::{Value, json};

fn property(kind: &str, constraints: Value) -> Property {
    serde_json::from_value(json!({"name": "it", "type": kind, "constraints": constraints})).unwrap()
}

fn codes(kind: &str, constraints: Value, value: Value) -> Vec<String> {
    let mut problems = Vec::new();
    check(&property(kind, constraints), &value, "/data/it", &mut problems);
    problems.into_iter().map(|problem| problem.code).collect()
}

fn constraint_problems(kind: &str, constraints: Value) -> usize {
    let mut problems = Vec::new();
    check_constraints(&property(kind, constraints), "/properties/0", &mut problems);
    assert!(problems.iter().all(|problem| problem.code == "invalid-constraint"));
    problems.len()
}

#[test]
fn every_type_takes_its_values_and_no_others() {
    let cases = [
        ("string", vec![json!("a"), json!("")], vec![json!(1), json!(["a"])]),
        ("text", vec![json!("a\nb")], vec![json!(true)]),
        ("integer", vec![json!(3), json!(-3), json!(3.0)], vec![json!(3.5), json!("3")]),
        ("long", vec![json!(3), json!("9223372036854775807")], vec![json!("9223372036854775808"), json!("03")]),
        ("float", vec![json!(3), json!(3.5)], vec![json!("3.5")]),
        ("double", vec![json!(3.5)], vec![json!(false)]),
        (
            "decimal",
            vec![json!(3.5), json!("-0.10"), json!("7")],
            vec![json!("1."), json!(".1"), json!("1e3"), json!("")],
        ),
        ("boolean", vec![json!(true)], vec![json!("true"), json!(0)]),
        (
            "date",
            vec![json!("2024-02-29")],
            vec![json!("2023-02-29"), json!("2024-13-01"), json!("2024-1-1"), json!("2024-02-29x")],
        ),
        (
            "datetime",
            vec![json!("2024-02-29T23:59:60Z"), json!("2024-02-29t01:02:03.25+05:30")],
            vec![
                json!("2024-02-29"),
                json!("2024-02-29T24:00:00Z"),
                json!("2024-02-29T01:02:03"),
                json!("2024-02-29T01:02:03.Z"),
            ],
        ),
        ("uuid", vec![json!("7b1f2f4e-64a5-4c53-9d5c-2f0f5d1c9a10")], vec![json!("7b1f2f4e64a54c539d5c2f0f5d1c9a10")]),
        (
            "email",
            vec![json!("a.b@example.org")],
            vec![json!("a@b"), json!("@example.org"), json!("a@b@c.d"), json!("a@b..c")],
        ),
        (
            "url",
            vec![json!("https://example.org/a?b")],
            vec![json!("example.org"), json!("https://"), json!("https://a b")],
        ),
        ("array", vec![json!([]), json!([1, "a"])], vec![json!({})]),
        ("object", vec![json!({"a": 1})], vec![json!([])]),
        ("json", vec![json!(1), json!([null]), json!({})], vec![json!(null)]),
        ("link", vec![json!("Customer/c-1")], vec![json!("Customer"), json!("Customer/"), json!("1/2")]),
    ];
    for (kind, fitting, odd) in cases {
        for value in fitting {
            assert_eq!(codes(kind, json!({}), value.clone()), Vec::<String>::new(), "{kind} takes {value}");
        }
        for value in odd {
            assert_eq!(codes(kind, json!({}), value.clone()), ["wrong-type"], "{kind} does not take {value}");
        }
    }
}

#[test]
fn numbers_keep_to_min_and_max() {
    let range = json!({"min": 0, "max": 9.5});
    assert!(codes("double", range.clone(), json!(0)).is_empty());
    assert!(codes("double", range.clone(), json!(9.5)).is_empty());
    assert_eq!(codes("double", range.clone(), json!(-0.1)), ["below-min"]);
    assert_eq!(codes("integer", range.clone(), json!(10)), ["above-max"]);
    assert_eq!(codes("decimal", range, json!("9.51")), ["above-max"]);
}

#[test]
fn lengths_count_characters_and_elements() {
    let lengths = json!({"minLength": 2, "maxLength": 3});
    assert!(codes("string", lengths.clone(), json!("äöü")).is_empty());
    assert_eq!(codes("string", lengths.clone(), json!("a")), ["too-short"]);
    assert_eq!(codes("string", lengths.clone(), json!("abcd")), ["too-long"]);
    assert_eq!(codes("array", lengths, json!([1])), ["too-short"]);
}

#[test]
fn patterns_are_found_anywhere_unless_anchored() {
    assert!(codes("string", json!({"pattern": "[0-9]{2}"}), json!("a42b")).is_empty());
    assert_eq!(codes("string", json!({"pattern": "^[0-9]{2}$"}), json!("a42b")), ["pattern-mismatch"]);
}

#[test]
fn enums_list_what_is_allowed() {
    let allowed = json!({"enum": ["red", 1]});
    assert!(codes("enum", allowed.clone(), json!("red")).is_empty());
    assert!(codes("enum", allowed.clone(), json!(1.0)).is_empty());
    assert_eq!(codes("enum", allowed, json!("blue")), ["not-in-enum"]);
    assert_eq!(codes("string", json!({"enum": ["a"]}), json!("b")), ["not-in-enum"]);
}

#[test]
fn a_constraint_that_could_not_hold_is_a_problem() {
    for (kind, constraints) in [
        ("string", json!({"min": 1})),
        ("integer", json!({"minLength": 1})),
        ("integer", json!({"pattern": "a"})),
        ("string", json!({"pattern": "("})),
        ("integer", json!({"min": 2, "max": 1})),
        ("string", json!({"minLength": 2, "maxLength": 1})),
        ("enum", json!({})),
        ("enum", json!({"enum": []})),
        ("integer", json!({"enum": [1, "two"]})),
    ] {
        assert_eq!(constraint_problems(kind, constraints.clone()), 1, "{kind} {constraints}");
    }
    assert_eq!(constraint_problems("array", json!({"maxLength": 5})), 0);
    assert_eq!(constraint_problems("enum", json!({"enum": ["a"]})), 0);
}
