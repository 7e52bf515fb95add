//! What a request for fuzzing means, and what is compiled for it.
#![allow(clippy::unwrap_used)]

use super::{Request, is_ours};

#[test]
fn a_request_names_a_target_and_its_time() {
    assert_eq!(Request::parse(&["segment"]).unwrap(), Request { target: "segment", seconds: super::SECONDS });
    assert_eq!(Request::parse(&["upload", "--seconds", "5"]).unwrap(), Request { target: "upload", seconds: 5 });
    assert!(Request::parse(&[]).is_err());
    assert!(Request::parse(&["segment", "--seconds", "long"]).is_err());
}

#[test]
fn only_the_projects_own_crates_count_their_branches() {
    let ours = |arguments: &[&str]| is_ours(&arguments.iter().map(Into::into).collect::<Vec<_>>());
    assert!(ours(&["--crate-name", "carryall", "src/lib.rs"]));
    assert!(ours(&["--crate-name", "segment", "fuzz_targets/segment.rs"]));
    assert!(!ours(&["--crate-name", "carryall_code_cache", "src/lib.rs"]));
    assert!(!ours(&["-", "--print=cfg"]));
}
