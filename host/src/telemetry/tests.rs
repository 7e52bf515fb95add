//! Tests of the log filter.
#![allow(clippy::unwrap_used)]

use super::parse;

#[test]
fn a_bare_level_is_about_this_program() {
    assert_eq!(parse("debug").unwrap().to_string(), "carryall=debug,warn");
    assert_eq!(parse("off").unwrap().to_string(), "off");
}

#[test]
fn filters_are_taken_as_they_are_and_nonsense_is_refused() {
    assert_eq!(parse("error,carryall::api=trace").unwrap().to_string(), "carryall::api=trace,error");
    assert!(parse("carryall=loud").is_err());
}
