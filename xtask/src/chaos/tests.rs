//! What is asked for.
#![allow(clippy::unwrap_used)]

use super::{Request, SECONDS};

#[test]
fn scenarios_seed_and_seconds_are_understood() {
    let all = Request { seed: None, seconds: SECONDS, scenarios: Vec::new() };
    assert_eq!(Request::parse(&[]).unwrap(), all);
    let some = Request { seed: Some(7), seconds: 90, scenarios: vec!["soak".into(), "kafka".into()] };
    assert_eq!(Request::parse(&["--seconds", "90", "soak", "--seed", "7", "kafka"]).unwrap(), some);
    assert!(Request::parse(&["--seed"]).is_err());
    assert!(Request::parse(&["--hours", "1"]).is_err());
}
