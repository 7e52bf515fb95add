//! The merge patch of RFC 7396, by the examples of its appendix that concern objects.
#![allow(clippy::unwrap_used)]

use super::{merge_patch, pointer};
use serde_json::{Map, Value, json};

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn merged(target: Value, patch: Value) -> Value {
    let mut target = object(target);
    merge_patch(&mut target, &object(patch));
    Value::Object(target)
}

#[test]
fn members_are_replaced_added_and_removed() {
    assert_eq!(merged(json!({"a":"b"}), json!({"a":"c"})), json!({"a":"c"}));
    assert_eq!(merged(json!({"a":"b"}), json!({"b":"c"})), json!({"a":"b","b":"c"}));
    assert_eq!(merged(json!({"a":"b","b":"c"}), json!({"a":null})), json!({"b":"c"}));
}

#[test]
fn objects_are_merged_and_arrays_are_replaced() {
    assert_eq!(merged(json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}})), json!({"a":{"b":"d"}}));
    assert_eq!(merged(json!({"a":[1,2]}), json!({"a":[3]})), json!({"a":[3]}));
    assert_eq!(merged(json!({"a":"text"}), json!({"a":{"b":{"c":null}}})), json!({"a":{"b":{}}}));
}

#[test]
fn pointer_segments_are_escaped() {
    assert_eq!(pointer("/data", "a/b~c"), "/data/a~1b~0c");
}
