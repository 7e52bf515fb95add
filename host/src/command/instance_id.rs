//! Which instance a create is about, when the route does not say: `data.<class lower>_id`, else the first other `*_id`
//! member in byte order of the keys, else an id derived from the command's (contract §2). Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::Error;
use crate::domain::{ClassName, InstanceId, derived_id};

/// The id that `data` names, or the derived one. A member that is null names nothing; any other value that is no
/// instance id is refused, since picking another id silently would put the data where nobody looks for it.
pub fn of_create(class: &ClassName, data: &RawValue, command_id: Uuid) -> Result<InstanceId, Error> {
    let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(data.get())
        .map_err(|_| Error::Field { field: "data", reason: "it must be a JSON object".into() })?;
    let own = format!("{}_id", class.as_str().to_ascii_lowercase());
    let named = |key: &str, value: &RawValue| {
        let text = scalar(value).ok_or_else(|| not_an_id(key, value.get()))?;
        InstanceId::parse(&text).map_err(|_| not_an_id(key, &text))
    };
    if let Some(value) = members.get(own.as_str()).filter(|value| value.get() != "null") {
        return named(&own, value);
    }
    let first = members.iter().find(|(key, value)| key.ends_with("_id") && **key != own && value.get() != "null");
    match first {
        Some((key, value)) => named(key, value),
        None => Ok(InstanceId::parse(&derived_id::instance(command_id).to_string()).expect("a UUID is an instance id")),
    }
}

/// The text of a string, or of an integer as it is written.
fn scalar(value: &RawValue) -> Option<Cow<'_, str>> {
    let text = value.get();
    if text.starts_with('"') {
        return serde_json::from_str::<String>(text).ok().map(Cow::Owned);
    }
    text.bytes().all(|b| b.is_ascii_digit()).then_some(Cow::Borrowed(text))
}

fn not_an_id(key: &str, got: &str) -> Error {
    Error::Field {
        field: "data",
        reason: format!(
            "the instance id is taken from {key:?}, but {:?} is none: it must be a letter or digit and at most 254 \
             letters, digits, dots, underscores or hyphens after it (or name the id in `<class in lower case>_id`)",
            super::identity::cut(got)
        ),
    }
}
