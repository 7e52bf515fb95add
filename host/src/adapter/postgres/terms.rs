//! What a document is found by: the words of its texts and its numbers, as the terms of one inverted index. Terms only
//! find candidates; for words they are exact, for filters the one function that every read model uses decides.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::domain::Digest;
use crate::port::read_model::matching::{self, DEPTH_MAX};
use crate::port::read_model::{Filter, Operator};

/// Longer words are kept as their digest: the index takes no entry over some 2,700 bytes.
const WORD_BYTES_MAX: usize = 256;
/// Between the terms of a document on their way; no term holds it.
pub(super) const SEPARATOR: &str = "\n";

/// The terms of a document, each once, joined by [`SEPARATOR`]. One nested deeper than values are read has none: it is
/// found by its key.
pub(super) fn of_document(body: &str) -> String {
    let mut terms = BTreeSet::new();
    if let Ok(body) = serde_json::from_str(body) {
        collect(&body, &mut terms, DEPTH_MAX);
    }
    terms.into_iter().collect::<Vec<_>>().join(SEPARATOR)
}

fn collect(value: &Value, terms: &mut BTreeSet<String>, depth: usize) {
    match value {
        _ if depth == 0 => {}
        Value::String(text) => terms.extend(of_text(text)),
        Value::Number(number) => terms.extend(number.as_f64().map(of_number)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, terms, depth - 1)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, terms, depth - 1)),
        Value::Null | Value::Bool(_) => {}
    }
}

/// The terms of the words of a text.
pub(super) fn of_text(text: &str) -> impl Iterator<Item = String> + '_ {
    matching::words(text).map(|word| match word.len() {
        0..=WORD_BYTES_MAX => word,
        _ => format!("#{}", Digest::of(word.as_bytes())),
    })
}

/// Numbers that compare as equal have one term, which is no word.
fn of_number(number: f64) -> String {
    let bits = if number == 0.0 { 0 } else { number.to_bits() };
    format!("={bits:x}")
}

/// Terms that every document has that passes the filter; none when that cannot be told.
pub(super) fn of_filter(filter: &Filter) -> Vec<String> {
    if filter.operator != Operator::Equal || filter.path.len() >= DEPTH_MAX {
        return Vec::new();
    }
    match &filter.value {
        Value::String(text) => of_text(text).collect(),
        Value::Number(number) => number.as_f64().map(of_number).into_iter().collect(),
        _ => Vec::new(),
    }
}
