//! The OpenAPI document and the table of routes say the same.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::Value;

use crate::api::{openapi, routes};

fn document() -> Value {
    serde_json::from_str(openapi::text()).unwrap()
}

#[test]
fn document_names_exactly_the_routes_there_are() {
    let document = document();
    let documented: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut routed: BTreeSet<&str> = routes::all().patterns.into_iter().collect();
    routed.extend(["/health", "/ready", "/metrics"]);
    assert_eq!(documented, routed);
}

#[test]
fn document_is_openapi_3_1_and_its_references_lead_somewhere() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "$ref" => found.push(text.clone()),
                    other => collect(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

#[test]
fn administration_says_that_it_needs_a_token() {
    let document = document();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let secured = operation.get("security").is_some();
            assert_eq!(secured, path.starts_with("/admin/"), "{method} {path}");
        }
    }
}

#[test]
fn every_error_is_a_problem() {
    let document = document();
    let mut errors = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                if path != "/ready" && !status.starts_with('2') {
                    let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                    assert_eq!(schema, "#/components/schemas/ProblemBody", "{method} {path} {status}");
                    errors += 1;
                }
            }
        }
    }
    assert!(errors > 50, "{errors}");
}
