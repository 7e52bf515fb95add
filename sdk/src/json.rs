//! JSON in and out. Objects keep their keys in byte order (`serde_json::Map` is a `BTreeMap` here), so equal
//! values have equal bytes (I8).

use crate::Fault;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// One line of JSON. A value that JSON cannot say (a map whose keys are no strings) is the handler's fault.
pub fn write<T: Serialize + ?Sized>(value: &T) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::new("unwritable-json", error.to_string()))
}

/// Reads what the host keeps for the handler; `what` names it in the fault.
pub fn read<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::new("unreadable-json", format!("{what}: {error}")))
}

/// RFC 7396: members of `patch` replace those of `target`, objects are merged, null removes.
pub fn merge_patch(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, change) in patch {
        match change {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(change) => {
                let slot = target.entry(key).or_insert(Value::Null);
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(inner) = slot {
                    merge_patch(inner, change);
                }
            }
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

/// Appends one segment to a JSON pointer, escaped as RFC 6901 wants it.
pub fn pointer(base: &str, segment: &str) -> String {
    let mut pointer = String::with_capacity(base.len() + 1 + segment.len());
    pointer.push_str(base);
    pointer.push('/');
    let mut rest = segment;
    while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'~' | b'/')) {
        let (plain, special) = rest.split_at(at);
        pointer.push_str(plain);
        pointer.push_str(if special.starts_with('~') { "~0" } else { "~1" });
        rest = &special[1..];
    }
    pointer.push_str(rest);
    pointer
}

#[cfg(test)]
mod tests;
