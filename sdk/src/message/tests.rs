//! Names, versions and shapes of messages.
#![allow(clippy::unwrap_used)]

use super::{Message, same_major};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Old {
    title: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct New {
    name: String,
}

crate::messages! {
    pub enum Event {
        "NAMED" "1.0.0" => NamedOld(Old),
        "NAMED" "2.1.0" => Named(New),
    }
}

#[test]
fn a_version_chooses_the_variant_by_its_major_part() {
    let parse = |version: &str, json: &str| Event::parse("NAMED", Some(version), json);
    assert!(matches!(parse("1", r#"{"title":"a"}"#), Some(Ok(Event::NamedOld(_)))));
    assert!(matches!(parse("2.0.0", r#"{"name":"a"}"#), Some(Ok(Event::Named(_)))));
    assert!(matches!(parse("2.9.3", r#"{"name":"a","more":1}"#), Some(Ok(Event::Named(_)))));
    assert!(parse("3.0.0", r#"{"name":"a"}"#).is_none());
    assert!(Event::parse("RENAMED", None, "{}").is_none());
}

#[test]
fn data_of_another_shape_says_what_is_wrong() {
    let Some(Err(message)) = Event::parse("NAMED", Some("2"), "{}") else { panic!("the field is missing") };
    assert!(message.contains("name"), "{message}");
}

#[test]
fn major_parts_are_compared_as_a_whole() {
    assert!(same_major("1", "1.0.0"));
    assert!(!same_major("1.0.0", "10.0.0"));
}
