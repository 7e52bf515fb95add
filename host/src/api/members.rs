//! Bodies that are a thing of the domain (a class, a database) with members about the command among its own: takes them
//! apart. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::commands::Control;
use super::problem::Problem;
use super::request;
use crate::codec::json::Json;
use crate::command;

/// A body, checked and compact.
#[derive(Debug)]
pub struct Checked(Json);

/// The members of a body, and what it says about the command.
#[derive(Debug)]
pub struct Members<'a> {
    pub control: Control<'a>,
    own: BTreeMap<Cow<'a, str>, &'a RawValue>,
}

impl Checked {
    /// Refuses what is no JSON object.
    pub fn parse(body: &[u8]) -> Result<Checked, Problem> {
        let json = Json::parse(body).map_err(command::Error::Json)?;
        if !json.is_object() {
            return Err(Problem::invalid("invalid_body", "the body must be a JSON object"));
        }
        Ok(Checked(json))
    }

    /// Takes the members apart.
    pub fn members(&self) -> Result<Members<'_>, Problem> {
        let mut own: BTreeMap<Cow<'_, str>, &RawValue> = request::parse(self.0.as_str().as_bytes())?;
        let control = Control {
            command_id: take(&mut own, "command_id")?,
            expected_seq: take(&mut own, "expected_seq")?,
            metadata: take(&mut own, "metadata")?,
            actor: take(&mut own, "actor")?,
        };
        Ok(Members { control, own })
    }
}

fn take<'a, T: serde::Deserialize<'a>>(
    members: &mut BTreeMap<Cow<'a, str>, &'a RawValue>,
    name: &str,
) -> Result<Option<T>, Problem> {
    let Some(raw) = members.remove(name) else { return Ok(None) };
    serde_json::from_str(raw.get())
        .map_err(|error| Problem::invalid("invalid_body", format!("{name}: {error}")).with("field", name))
}

impl<'a> Members<'a> {
    /// A member that is a text; refused when it is something else.
    pub fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Problem> {
        let Some(raw) = self.own.get(name) else { return Ok(None) };
        let text = if raw.get().starts_with('"') { serde_json::from_str::<String>(raw.get()).ok() } else { None };
        match text {
            Some(text) => Ok(Some(text.into())),
            None => Err(Problem::invalid("invalid_body", format!("{name} must be a text")).with("field", name)),
        }
    }

    /// The object without what was about the command, with one text member set.
    pub fn object(&self, name: &str, value: &str) -> Result<String, Problem> {
        let value =
            serde_json::value::to_raw_value(value).map_err(|e| Problem::internal("unserialisable_answer", &e))?;
        let mut object: BTreeMap<&str, &RawValue> = self.own.iter().map(|(key, raw)| (key.as_ref(), *raw)).collect();
        object.insert(name, &value);
        serde_json::to_string(&object).map_err(|e| Problem::internal("unserialisable_answer", &e))
    }

    /// Refuses members that are not about the command.
    pub fn nothing_else(&self) -> Result<(), Problem> {
        match self.own.keys().next() {
            None => Ok(()),
            Some(name) => {
                let known = "command_id, expected_seq, metadata, actor";
                Err(Problem::invalid("invalid_body", format!("member {name:?} is not known here (known: {known})")))
            }
        }
    }
}
