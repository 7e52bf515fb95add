//! The idempotency contract: every test that a clause names exists.

use super::{none, root};

const DOCUMENT: &str = "docs/IDEMPOTENCY_CONTRACT.md";

#[test]
fn every_test_that_the_idempotency_contract_names_exists() {
    let text = std::fs::read_to_string(root().join(DOCUMENT)).unwrap();
    let named: Vec<(&str, &str)> = text.split('`').filter_map(|word| word.split_once(".rs::")).collect();
    assert!(named.len() > 30, "the document names {} tests", named.len());
    let missing = named.into_iter().filter(|(file, test)| {
        let source = std::fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
        !source.contains(&format!("fn {test}("))
    });
    let missing: Vec<String> = missing.map(|(file, test)| format!("{file}.rs::{test}")).collect();
    none("tests that the contract names and nobody wrote", &missing);
}
