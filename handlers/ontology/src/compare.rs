//! Would what is stored under the older definition fit the newer one?
//!
//! Judged by the definitions alone: a change is breaking as soon as *some* instance could stop fitting, whether
//! or not one exists.

use carryall_domain::class::{Cardinality, Class, Constraints, Property, Relationship, ValueType};
use carryall_sdk::{Comparison, Level, Problem};
use serde_json::Number;

/// The worst level found; the findings of compatible changes are reported too.
pub fn compare(older: &Class, newer: &Class) -> Comparison {
    if older == newer {
        return Comparison { level: Level::Identical, findings: Vec::new() };
    }
    let mut report = Report { breaking: false, findings: Vec::new() };
    if older.id != newer.id {
        report.breaking("id-changed", "the class has another id", "/id");
    }
    if older.parent != newer.parent {
        report.breaking("parent-changed", "the class inherits from another parent", "/parent");
    }
    match (older.is_abstract, newer.is_abstract) {
        (false, true) => report.breaking("made-abstract", "the class may have instances", "/abstract"),
        (true, false) => report.compatible("made-concrete", "the class can have instances now", "/abstract"),
        _ => {}
    }
    report.properties(older, newer);
    report.relationships(older, newer);
    let level = if report.breaking { Level::Breaking } else { Level::Compatible };
    Comparison { level, findings: report.findings }
}

struct Report {
    breaking: bool,
    findings: Vec<Problem>,
}

impl Report {
    fn breaking(&mut self, code: &str, message: impl Into<String>, at: impl Into<String>) {
        self.breaking = true;
        self.findings.push(Problem::new(code, message).at(at));
    }

    fn compatible(&mut self, code: &str, message: impl Into<String>, at: impl Into<String>) {
        self.findings.push(Problem::new(code, message).at(at));
    }

    fn properties(&mut self, older: &Class, newer: &Class) {
        for was in &older.properties {
            if newer.properties.iter().all(|property| property.name != was.name) {
                self.breaking("property-removed", format!("`{}` is gone", was.name), "/properties");
            }
        }
        for (index, now) in newer.properties.iter().enumerate() {
            let at = format!("/properties/{index}");
            match older.properties.iter().find(|was| was.name == now.name) {
                Some(was) => self.property(was, now, &at),
                None if now.required && now.default.is_none() => {
                    let message = format!("`{}` is required and has no default", now.name);
                    self.breaking("required-added", message, at);
                }
                None => self.compatible("property-added", format!("`{}` is new", now.name), at),
            }
        }
    }

    fn property(&mut self, was: &Property, now: &Property, at: &str) {
        if was == now {
            return;
        }
        let name = &now.name;
        if was.value_type != now.value_type {
            let message = format!("`{name}` was {} and is {}", was.value_type.name(), now.value_type.name());
            if widens(was.value_type, now.value_type) {
                self.compatible("type-widened", message, format!("{at}/type"));
            } else {
                self.breaking("type-changed", message, format!("{at}/type"));
            }
        }
        if now.required && !was.required {
            let at = format!("{at}/required");
            if now.default.is_none() {
                self.breaking("made-required", format!("`{name}` is required now and has no default"), at);
            } else {
                self.compatible("made-required", format!("`{name}` is required now and has a default"), at);
            }
        }
        for narrowed in narrowed(&was.constraints, &now.constraints) {
            let message = format!("{narrowed} of `{name}` is narrower");
            self.breaking("constraint-narrowed", message, format!("{at}/constraints/{narrowed}"));
        }
    }

    fn relationships(&mut self, older: &Class, newer: &Class) {
        for was in &older.relationships {
            if newer.relationships.iter().all(|relationship| relationship.predicate != was.predicate) {
                self.breaking("relationship-removed", format!("`{}` is gone", was.predicate), "/relationships");
            }
        }
        for (index, now) in newer.relationships.iter().enumerate() {
            let at = format!("/relationships/{index}");
            match older.relationships.iter().find(|was| was.predicate == now.predicate) {
                Some(was) => self.relationship(was, now, &at),
                None => self.compatible("relationship-added", format!("`{}` is new", now.predicate), at),
            }
        }
    }

    fn relationship(&mut self, was: &Relationship, now: &Relationship, at: &str) {
        if was.target != now.target {
            let message = format!("`{}` pointed to {} and points to {}", now.predicate, was.target, now.target);
            self.breaking("target-changed", message, format!("{at}/target"));
        }
        if was.cardinality != now.cardinality {
            let message =
                format!("`{}` was {} and is {}", now.predicate, was.cardinality.name(), now.cardinality.name());
            if loosens(was.cardinality, now.cardinality) {
                self.compatible("cardinality-loosened", message, format!("{at}/cardinality"));
            } else {
                self.breaking("cardinality-changed", message, format!("{at}/cardinality"));
            }
        }
    }
}

/// Whether every value of the old type is one of the new.
fn widens(was: ValueType, now: ValueType) -> bool {
    use ValueType::{
        Date, Datetime, Decimal, Double, Email, Float, Integer, Json, Link, Long, String, Text, Url, Uuid,
    };
    matches!(
        (was, now),
        (_, Json)
            | (Integer, Long | Float | Double | Decimal)
            | (Long, Decimal)
            | (Float, Double | Decimal)
            | (Double, Float | Decimal)
            | (String, Text)
            | (Text, String)
            | (Date | Datetime | Uuid | Email | Url | Link, String | Text)
    )
}

fn loosens(was: Cardinality, now: Cardinality) -> bool {
    matches!(
        (was, now),
        (Cardinality::OneToOne, Cardinality::ManyToOne) | (Cardinality::OneToMany, Cardinality::ManyToMany)
    )
}

/// The names of the constraints that allow less than before.
fn narrowed(was: &Constraints, now: &Constraints) -> Vec<&'static str> {
    let number = |number: &Option<Number>| number.as_ref().and_then(Number::as_f64);
    let raised = |was: Option<f64>, now: Option<f64>| now.is_some_and(|now| was.is_none_or(|was| now > was));
    let lowered = |was: Option<f64>, now: Option<f64>| now.is_some_and(|now| was.is_none_or(|was| now < was));
    let fewer = match (&was.allowed, &now.allowed) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(was), Some(now)) => was.iter().any(|value| !now.contains(value)),
    };
    let length = |length: Option<u64>| length.map(|length| length as f64);
    [
        ("min", raised(number(&was.min), number(&now.min))),
        ("max", lowered(number(&was.max), number(&now.max))),
        ("minLength", raised(length(was.length_min), length(now.length_min))),
        ("maxLength", lowered(length(was.length_max), length(now.length_max))),
        ("pattern", now.pattern.is_some() && was.pattern != now.pattern),
        ("enum", fewer),
    ]
    .into_iter()
    .filter_map(|(name, narrower)| narrower.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests;
