//! Whether a JSON value is of a type and keeps to its constraints.

use crate::class::{Constraints, Property, ValueType};
use crate::names::split_reference;
use carryall_sdk::Problem;
use regex_lite::Regex;
use serde_json::{Number, Value};

/// Checks a value that is not null; `pointer` says where it is.
pub fn check(property: &Property, value: &Value, pointer: &str, problems: &mut Vec<Problem>) {
    if !is_of_type(property.value_type, value) {
        let message = format!("`{}` must be {}", property.name, expectation(property.value_type));
        problems.push(Problem::new("wrong-type", message).at(pointer));
        return;
    }
    let constraints = &property.constraints;
    let mut refuse = |code: &str, message: String| {
        problems.push(Problem::new(code, format!("`{}` {message}", property.name)).at(pointer));
    };
    if let Some(number) = as_number(property.value_type, value) {
        if constraints.min.as_ref().is_some_and(|min| number < as_f64(min)) {
            refuse("below-min", format!("must be at least {}", text(constraints.min.as_ref())));
        }
        if constraints.max.as_ref().is_some_and(|max| number > as_f64(max)) {
            refuse("above-max", format!("must be at most {}", text(constraints.max.as_ref())));
        }
    }
    if let Some((length, unit)) = length_of(value) {
        if let Some(min) = constraints.length_min.filter(|min| length < *min) {
            refuse("too-short", format!("must have at least {min} {unit}"));
        }
        if let Some(max) = constraints.length_max.filter(|max| length > *max) {
            refuse("too-long", format!("must have at most {max} {unit}"));
        }
    }
    if let (Some(pattern), Value::String(value)) = (&constraints.pattern, value)
        && !Regex::new(pattern).is_ok_and(|regex| regex.is_match(value))
    {
        refuse("pattern-mismatch", format!("must match {pattern}"));
    }
    if let Some(allowed) = &constraints.allowed
        && !allowed.iter().any(|one| same(one, value))
    {
        refuse("not-in-enum", format!("must be one of {}", Value::Array(allowed.clone())));
    }
}

/// Problems of a property's constraints themselves, so that none is silently without effect.
pub fn check_constraints(property: &Property, pointer: &str, problems: &mut Vec<Problem>) {
    let Constraints { min, max, length_min, length_max, pattern, allowed } = &property.constraints;
    let kind = property.value_type;
    let mut refuse = |message: String| problems.push(Problem::new("invalid-constraint", message).at(pointer));
    if (min.is_some() || max.is_some()) && !kind.is_number() {
        refuse(format!("min and max need a number, `{}` is {}", property.name, kind.name()));
    }
    if let (Some(min), Some(max)) = (min, max)
        && as_f64(min) > as_f64(max)
    {
        refuse(format!("min is greater than max in `{}`", property.name));
    }
    if (length_min.is_some() || length_max.is_some()) && !kind.is_text() && kind != ValueType::Array {
        refuse(format!("minLength and maxLength need a text or an array, `{}` is {}", property.name, kind.name()));
    }
    if let (Some(min), Some(max)) = (length_min, length_max)
        && min > max
    {
        refuse(format!("minLength is greater than maxLength in `{}`", property.name));
    }
    if let Some(pattern) = pattern {
        if !kind.is_text() {
            refuse(format!("pattern needs a text, `{}` is {}", property.name, kind.name()));
        }
        if let Err(error) = Regex::new(pattern) {
            refuse(format!("the pattern of `{}` cannot be read: {error}", property.name));
        }
    }
    match allowed {
        Some(allowed) if allowed.is_empty() => refuse(format!("the enum of `{}` is empty", property.name)),
        Some(allowed) => {
            if let Some(odd) = allowed.iter().find(|value| !is_of_type(kind, value)) {
                refuse(format!("{odd} in the enum of `{}` is not {}", property.name, expectation(kind)));
            }
        }
        None if kind == ValueType::Enum => refuse(format!("`{}` is an enum and needs constraints.enum", property.name)),
        None => {}
    }
}

fn is_of_type(kind: ValueType, value: &Value) -> bool {
    match (kind, value) {
        (ValueType::String | ValueType::Text, Value::String(_))
        | (ValueType::Boolean, Value::Bool(_))
        | (ValueType::Array, Value::Array(_))
        | (ValueType::Object, Value::Object(_))
        | (ValueType::Enum, Value::String(_) | Value::Number(_)) => true,
        (ValueType::Json, value) => !value.is_null(),
        (ValueType::Integer | ValueType::Long, Value::Number(number)) => is_whole(number),
        (ValueType::Long, Value::String(text)) => text.parse::<i64>().is_ok_and(|number| number.to_string() == *text),
        (ValueType::Float | ValueType::Double | ValueType::Decimal, Value::Number(_)) => true,
        (ValueType::Decimal, Value::String(text)) => is_decimal(text),
        (ValueType::Date, Value::String(text)) => is_date(text),
        (ValueType::Datetime, Value::String(text)) => is_datetime(text),
        (ValueType::Uuid, Value::String(text)) => is_uuid(text),
        (ValueType::Email, Value::String(text)) => is_email(text),
        (ValueType::Url, Value::String(text)) => is_url(text),
        (ValueType::Link, Value::String(text)) => split_reference(text).is_some(),
        _ => false,
    }
}

fn expectation(kind: ValueType) -> &'static str {
    match kind {
        ValueType::String | ValueType::Text => "a string",
        ValueType::Integer => "a whole number",
        ValueType::Long => "a whole number, or one of 64 bits as a string",
        ValueType::Float | ValueType::Double => "a number",
        ValueType::Decimal => "a number, or a decimal number as a string",
        ValueType::Boolean => "true or false",
        ValueType::Date => "a date YYYY-MM-DD",
        ValueType::Datetime => "an RFC 3339 date and time with offset",
        ValueType::Uuid => "a UUID",
        ValueType::Email => "an e-mail address",
        ValueType::Url => "an absolute URL",
        ValueType::Enum => "a string or a number",
        ValueType::Array => "an array",
        ValueType::Object => "an object",
        ValueType::Json => "any value but null",
        ValueType::Link => "a reference Class/id",
    }
}

/// Equal as JSON values: 1 and 1.0 are the same number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || as_f64(one) == as_f64(other),
        _ => one == other,
    }
}

fn text(number: Option<&Number>) -> String {
    number.map(ToString::to_string).unwrap_or_default()
}

fn as_f64(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN)
}

fn as_number(kind: ValueType, value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) if kind.is_number() => Some(as_f64(number)),
        Value::String(text) if kind.is_number() => text.parse().ok(),
        _ => None,
    }
}

fn length_of(value: &Value) -> Option<(u64, &'static str)> {
    match value {
        Value::String(text) => Some((text.chars().count() as u64, "characters")),
        Value::Array(elements) => Some((elements.len() as u64, "elements")),
        _ => None,
    }
}

fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_decimal(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    match unsigned.split_once('.') {
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction),
        None => all_digits(unsigned),
    }
}

fn number_at(text: &str, from: usize, digits: usize) -> Option<u32> {
    text.get(from..from + digits).filter(|part| all_digits(part))?.parse().ok()
}

fn is_date(text: &str) -> bool {
    let (Some(year), Some(month), Some(day)) = (number_at(text, 0, 4), number_at(text, 5, 2), number_at(text, 8, 2))
    else {
        return false;
    };
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => 0,
    };
    text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-' && (1..=days).contains(&day)
}

/// `date T hh:mm:ss[.fraction] (Z | ±hh:mm)`; a leap second is accepted, as RFC 3339 does.
fn is_datetime(text: &str) -> bool {
    let (Some(date), Some(clock)) = (text.get(..10), text.get(11..)) else {
        return false;
    };
    let separator = text.as_bytes()[10];
    let (Some(hour), Some(minute), Some(second)) =
        (number_at(clock, 0, 2), number_at(clock, 3, 2), number_at(clock, 6, 2))
    else {
        return false;
    };
    let colons = clock.as_bytes()[2] == b':' && clock.as_bytes()[5] == b':';
    let rest = &clock[8..];
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => {
            let offset = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
            (offset.len() < fraction.len()).then_some(offset)
        }
        None => Some(rest),
    };
    is_date(date)
        && matches!(separator, b'T' | b't')
        && colons
        && hour < 24
        && minute < 60
        && second <= 60
        && offset.is_some_and(is_offset)
}

fn is_offset(text: &str) -> bool {
    match text.as_bytes() {
        b"Z" | b"z" => true,
        [b'+' | b'-', _, _, b':', _, _] => {
            number_at(text, 1, 2).is_some_and(|hour| hour < 24)
                && number_at(text, 4, 2).is_some_and(|minute| minute < 60)
        }
        _ => false,
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// What can be said without sending a mail: one `@`, something before it, a dotted domain behind it.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    let labels_are_full = domain.split('.').all(|label| !label.is_empty());
    let plain = |part: &str| !part.bytes().any(|byte| byte <= b' ' || byte == b'@' || byte == 127);
    !local.is_empty() && text.len() <= 254 && domain.contains('.') && labels_are_full && plain(local) && plain(domain)
}

/// `scheme://rest`, without spaces or control characters.
fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let mut letters = scheme.bytes();
    let scheme_is_right = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    scheme_is_right && !host.is_empty() && !rest.bytes().any(|byte| byte <= b' ' || byte == 127)
}

#[cfg(test)]
mod tests;
