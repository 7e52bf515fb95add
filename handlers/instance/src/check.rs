//! Whether data fits a class: fields, types, constraints, cardinality. Says nothing of what references point to.

use crate::Target;
use carryall_domain::class::Relationship;
use carryall_domain::lineage::Lineage;
use carryall_domain::names::{identifier_field, split_reference};
use carryall_domain::value;
use carryall_sdk::Problem;
use carryall_sdk::json::pointer;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Enough to correct a payload by; a refusal is recorded for ever and must stay small.
const PROBLEMS_MAX: usize = 50;

/// Which absent properties get their default.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Defaults {
    All,
    OfRequired,
}

/// Fills in the defaults of absent properties.
pub fn with_defaults(lineage: &Lineage, mut data: Map<String, Value>, which: Defaults) -> Map<String, Value> {
    for property in lineage.properties() {
        if let Some(default) = &property.default
            && (which == Defaults::All || property.required)
            && !data.contains_key(&property.name)
        {
            data.insert(property.name.clone(), default.clone());
        }
    }
    data
}

/// The references by predicate, and all that is wrong.
pub(crate) fn check(
    lineage: &Lineage,
    target: Target<'_>,
    data: &Map<String, Value>,
) -> (BTreeMap<String, Vec<String>>, Vec<Problem>) {
    let mut relationships = BTreeMap::new();
    let mut problems = Vec::new();
    let identifier = identifier_field(target.class);
    for (field, value) in data {
        let at = pointer("/data", field);
        let is_id = holds_id(value, target.id);
        if *field == identifier && !is_id {
            let message = format!("`{field}` names the instance, whose id is {}", target.id);
            problems.push(Problem::new("identifier-mismatch", message).at(&at));
        } else if let Some(property) = lineage.property(field) {
            value::check(property, value, &at, &mut problems);
        } else if let Some(relationship) = lineage.relationship(field) {
            let references = references_of(relationship, value, &at, &mut problems);
            relationships.insert(field.clone(), references);
        } else if !(is_id && field.ends_with("_id")) {
            let message = format!("{} has neither a property nor a relationship `{field}`", target.class);
            problems.push(Problem::new("unknown-field", message).at(&at));
        }
    }
    for property in lineage.properties() {
        if property.required && !data.contains_key(&property.name) {
            let message = format!("`{}` is required", property.name);
            problems.push(Problem::new("required", message).at(pointer("/data", &property.name)));
        }
    }
    problems.truncate(PROBLEMS_MAX);
    (relationships, problems)
}

/// Whether a value is the id as text, or as the whole number it was made of.
fn holds_id(value: &Value, id: &str) -> bool {
    match value {
        Value::String(text) => text == id,
        Value::Number(number) => number.to_string() == id,
        _ => false,
    }
}

/// One reference for 1:1 and n:1, a list without repetition for 1:n and n:m.
fn references_of(relationship: &Relationship, value: &Value, at: &str, problems: &mut Vec<Problem>) -> Vec<String> {
    let predicate = &relationship.predicate;
    let cardinality = relationship.cardinality;
    let mut references = Vec::new();
    let mut take = |value: &Value, at: String| match value.as_str().filter(|text| split_reference(text).is_some()) {
        Some(text) => references.push(text.to_owned()),
        None => problems.push(Problem::new("invalid-reference", format!("`{predicate}` holds no Class/id")).at(at)),
    };
    match (cardinality.is_list(), value) {
        (true, Value::Array(elements)) => {
            for (index, element) in elements.iter().enumerate() {
                take(element, format!("{at}/{index}"));
            }
        }
        (false, value) if !value.is_array() => take(value, at.to_owned()),
        (is_list, _) => {
            let wanted = if is_list { "a list of references" } else { "one reference" };
            let message = format!("`{predicate}` is {} and takes {wanted}", cardinality.name());
            problems.push(Problem::new("cardinality", message).at(at));
        }
    }
    if references.iter().collect::<BTreeSet<_>>().len() < references.len() {
        problems.push(Problem::new("cardinality", format!("`{predicate}` names a reference twice")).at(at));
    }
    references
}
