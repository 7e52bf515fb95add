//! What is wrong with a class definition by itself, before anything else is read.

use carryall_domain::class::{Class, Property, Relationship};
use carryall_domain::names::{is_field, is_name};
use carryall_domain::value;
use carryall_sdk::Problem;
use std::collections::BTreeSet;

/// Far above what a class needs, and within what one decision can check.
pub const PROPERTIES_MAX: usize = 500;
/// Each target is an aggregate to read, and a decision reads at most 64.
pub const RELATIONSHIPS_MAX: usize = 48;

/// All problems found, in the order of the definition.
pub fn check(class: &Class) -> Vec<Problem> {
    let mut problems = Vec::new();
    if class.properties.len() > PROPERTIES_MAX {
        let message = format!("a class has at most {PROPERTIES_MAX} properties");
        return vec![Problem::new("too-many-properties", message).at("/properties")];
    }
    if class.relationships.len() > RELATIONSHIPS_MAX {
        let message = format!("a class has at most {RELATIONSHIPS_MAX} relationships");
        return vec![Problem::new("too-many-relationships", message).at("/relationships")];
    }
    if class.parent.as_deref().is_some_and(|parent| !is_name(parent)) {
        problems.push(Problem::new("invalid-name", "the parent is no class name").at("/parent"));
    }
    let mut names = BTreeSet::new();
    for (index, property) in class.properties.iter().enumerate() {
        let at = format!("/properties/{index}");
        check_name(&property.name, &format!("{at}/name"), &mut names, &mut problems);
        check_property(property, &at, &mut problems);
    }
    for (index, relationship) in class.relationships.iter().enumerate() {
        let at = format!("/relationships/{index}");
        check_name(&relationship.predicate, &format!("{at}/predicate"), &mut names, &mut problems);
        check_relationship(relationship, &at, &mut problems);
    }
    problems
}

fn check_name<'a>(name: &'a str, at: &str, names: &mut BTreeSet<&'a str>, problems: &mut Vec<Problem>) {
    if !is_field(name) {
        let message = format!("`{name}` is no name: a letter or underscore, then letters, digits, _ and -");
        problems.push(Problem::new("invalid-name", message).at(at));
    }
    if !names.insert(name) {
        problems.push(Problem::new("duplicate-name", format!("`{name}` is defined twice")).at(at));
    }
}

fn check_property(property: &Property, at: &str, problems: &mut Vec<Problem>) {
    value::check_constraints(property, &format!("{at}/constraints"), problems);
    if let Some(default) = &property.default {
        let mut found = Vec::new();
        let at = format!("{at}/default");
        value::check(property, default, &at, &mut found);
        problems.extend(found.into_iter().map(|problem| Problem::new("invalid-default", problem.message).at(&at)));
    }
}

fn check_relationship(relationship: &Relationship, at: &str, problems: &mut Vec<Problem>) {
    if !is_name(&relationship.target) {
        let message = format!("`{}` is no class name", relationship.target);
        problems.push(Problem::new("invalid-name", message).at(format!("{at}/target")));
    }
    if relationship.inverse.as_deref().is_some_and(|inverse| !is_field(inverse)) {
        problems.push(Problem::new("invalid-name", "the inverse is no name").at(format!("{at}/inverse")));
    }
}
