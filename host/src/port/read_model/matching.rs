//! What a search means, the same for every read model: words, and typed comparison of fields.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Filter, Operator};

/// Nesting of values that is looked into; deeper text is not found.
pub const DEPTH_MAX: usize = 64;

/// The words of a text: runs of letters and digits, in lower case.
pub fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// Whether every word occurs in the string values of a document. True for no words.
pub fn has_words(body: &Value, wanted: &[String]) -> bool {
    let mut missing: Vec<&String> = wanted.iter().collect();
    strip_found(body, &mut missing, DEPTH_MAX);
    missing.is_empty()
}

fn strip_found(value: &Value, missing: &mut Vec<&String>, depth: usize) {
    match value {
        _ if missing.is_empty() || depth == 0 => {}
        Value::String(text) => {
            for found in words(text) {
                missing.retain(|wanted| **wanted != found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| strip_found(item, missing, depth - 1)),
        Value::Object(fields) => fields.values().for_each(|field| strip_found(field, missing, depth - 1)),
        _ => {}
    }
}

/// Whether the document passes all filters. A part of a path that is a number also reaches into lists. Numbers compare
/// with numbers and texts (by bytes) with texts; `<`, `<=`, `>` and `>=` of anything else is false, and `=` means the
/// same JSON value. A field that is absent passes `!=` only.
pub fn passes(body: &Value, filters: &[Filter]) -> bool {
    filters.iter().all(|filter| {
        let field = filter.path.iter().try_fold(body, |value, part| match value {
            Value::Object(fields) => fields.get(part),
            Value::Array(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        });
        let Some(field) = field else { return filter.operator == Operator::NotEqual };
        let order = compare(field, &filter.value);
        match filter.operator {
            Operator::Equal => order == Some(Ordering::Equal) || (order.is_none() && *field == filter.value),
            Operator::NotEqual => order != Some(Ordering::Equal) && (order.is_some() || *field != filter.value),
            Operator::Less => order == Some(Ordering::Less),
            Operator::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Operator::Greater => order == Some(Ordering::Greater),
            Operator::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    })
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.as_bytes().cmp(right.as_bytes())),
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
        },
        _ => None,
    }
}

/// The least text above every text that begins with the prefix, in byte order; `None` when there is none.
pub fn prefix_end(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}
