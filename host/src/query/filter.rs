//! Filters of lists: `field<op>value` with `=` `!=` `<` `<=` `>` `>=`. Pure.

use serde_json::Value;

use super::Error;
pub use crate::port::read_model::Filter;
use crate::port::read_model::Operator;

/// Filters one list may have.
pub const FILTERS_MAX: usize = 16;
/// Parts of a dotted path.
const PATH_PARTS_MAX: usize = 16;
/// Bytes of one filter.
const FILTER_BYTES_MAX: usize = 1_024;

/// Two characters first, so that `<=` is not read as `<` and a value that begins with `=`.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// Members of an instance's document.
const OUTER: [&str; 7] = ["data", "instance_id", "class_id", "db_name", "sequence_number", "created_at", "updated_at"];

/// Reads one filter on instances: a name that is no member of the document itself is looked up in its `data`.
pub fn parse_of_instances(text: &str) -> Result<Filter, Error> {
    let mut filter = parse(text)?;
    if !filter.path.first().is_some_and(|first| OUTER.contains(&first.as_str())) {
        filter.path.insert(0, "data".into());
    }
    Ok(filter)
}

/// Reads one filter. The value is JSON where it reads as a number, `true`, `false`, `null` or a quoted string, else a
/// text as it stands.
pub fn parse(text: &str) -> Result<Filter, Error> {
    let refused = |reason: &str| Error::Parameter { name: "filter", reason: format!("{reason}: {:?}", cut(text)) };
    if text.len() > FILTER_BYTES_MAX {
        return Err(refused("longer than 1,024 bytes"));
    }
    let Some(at) = text.find(['=', '<', '>', '!']) else {
        return Err(refused("expected field<op>value with = != < <= > >="));
    };
    let (field, rest) = text.split_at(at);
    let found = OPERATORS.iter().find_map(|(sign, operator)| rest.strip_prefix(sign).map(|value| (*operator, value)));
    let Some((operator, value)) = found else {
        return Err(refused("expected one of = != < <= > >= after the field"));
    };
    let path: Vec<String> = field.split('.').map(str::to_owned).collect();
    if path.len() > PATH_PARTS_MAX || path.iter().any(|part| part.is_empty() || part.chars().any(char::is_control)) {
        return Err(refused("the field must be a name, or names with dots between"));
    }
    Ok(Filter { path, operator, value: literal(value) })
}

fn literal(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(value) if !value.is_array() && !value.is_object() => value,
        _ => Value::String(text.to_owned()),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
