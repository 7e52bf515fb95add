//! Fail points: each that is named is placed in the host, and the crash matrix kills it.

use std::collections::BTreeSet;

use super::{is_test, none, root, rust_files};

const TABLE: &str = "host/src/failpoint.rs";
const MATRIX: &str = "tests/tests/crash_matrix/main.rs";

/// The quoted texts after a mark.
fn quoted(text: &str, mark: &str) -> BTreeSet<String> {
    let after = text.match_indices(mark).map(|(at, found)| &text[at + found.len()..]);
    after.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn every_fail_point_is_placed_and_met_by_the_crash_matrix() {
    let named: BTreeSet<String> =
        quoted(&read(TABLE), "(\"").into_iter().filter(|name| name.contains('.') && !name.contains(' ')).collect();
    assert!(!named.is_empty(), "the table of fail points cannot be read");
    let mut placed = BTreeSet::new();
    for (path, text) in rust_files().into_iter().filter(|(path, _)| path.starts_with("host/src") && !is_test(path)) {
        for mark in ["failpoint::pass(\"", "fail_at(\""] {
            for name in quoted(&text, mark) {
                assert!(named.contains(&name), "{}: {name} is not in {TABLE}", path.display());
                placed.insert(name);
            }
        }
    }
    let met = quoted(&read(MATRIX), "(\"");
    let idle: Vec<String> = named.difference(&placed).map(|name| format!("{name} is placed nowhere")).collect();
    let unmet = named.difference(&met).map(|name| format!("{name} is not in {MATRIX}"));
    none("fail points without effect or proof", &idle.into_iter().chain(unmet).collect::<Vec<_>>());
}
