//! What `cargo xtask sim` understands.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_seed_alone_is_one_run() {
    let request = Request::parse(&["--seed", "7", "--tail", "20"]).unwrap();
    assert_eq!(request, Request { seed: 7, seeds: Some(1), threads: None, tail: Some(20) });
    let request = Request::parse(&["--seeds", "50", "--seed", "7", "--threads", "1"]).unwrap();
    assert_eq!(request, Request { seed: 7, seeds: Some(50), threads: Some(1), tail: None });
}

#[test]
fn what_is_no_option_is_refused() {
    for arguments in [&["--seed"][..], &["--seeds", "many"], &["--sneeds", "1"]] {
        assert!(Request::parse(arguments).is_err(), "{arguments:?}");
    }
}
