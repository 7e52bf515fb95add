//! What an instance holds, as JSON text that is read when somebody looks into it. Folding and projecting pass it on as
//! it is: only a decision looks inside.

use carryall_sdk::Fault;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use std::cell::OnceCell;

/// An object, written with its keys in byte order: equal values have equal bytes (I8).
#[derive(Clone, Debug)]
pub struct Data {
    text: Box<RawValue>,
    map: OnceCell<Map<String, Value>>,
}

impl Data {
    /// From its members.
    pub fn new(map: Map<String, Value>) -> Result<Self, Fault> {
        let text = to_raw_value(&map).map_err(|error| Fault::new("unwritable-json", error.to_string()))?;
        Ok(Self { text, map: OnceCell::from(map) })
    }

    /// Its members; read at the first call.
    pub fn map(&self) -> Result<&Map<String, Value>, Fault> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let map = carryall_sdk::json::read("data", self.text.get())?;
        Ok(self.map.get_or_init(|| map))
    }

    /// Its text.
    pub fn text(&self) -> &RawValue {
        &self.text
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.text.get() == other.text.get()
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { text: Box::deserialize(deserializer)?, map: OnceCell::new() })
    }
}
