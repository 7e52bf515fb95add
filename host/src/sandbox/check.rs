//! Judges what a handler answers before anything else of the host sees it: counts, sizes, names, identifiers, JSON.
//! An answer that breaks the contract is a [`Failure::Fault`] with code `invalid-output`, one that is too much of
//! something a [`Failure::Limit`].

use std::sync::Arc;

use serde_json::value::RawValue;

use super::describe::{Description, RESERVED_KINDS, Version, is_message_name};
use super::failure::{Failure, LimitKind, short};
use super::limits::{HEADER_BYTES_MAX, HEADERS_MAX, Limits, PROBLEMS_MAX};
use super::types::{CausedChange, NewCommand, NewEvent, Outcome, OwnedHeader, Problem, Stored, Verdict};
use crate::codec::json::Json;
use crate::domain::{Aggregate, event_type};
use crate::port::read_model::{Change, DocumentKey, Node};

/// Longest name of a collection, predicate or node kind, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Longest id of a document or node, in bytes: an aggregate id (512) and some more.
const ID_BYTES_MAX: usize = 1_024;

/// Code of the fault that an answer outside the contract becomes.
const INVALID_OUTPUT: &str = "invalid-output";

/// The rules for one handler.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checker<'a> {
    pub(super) limits: &'a Limits,
    pub(super) description: &'a Description,
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::fault(INVALID_OUTPUT, message)
}

impl Checker<'_> {
    pub(super) fn count(&self, what: &str, count: usize, max: usize) -> Result<(), Failure> {
        if count > max {
            return Err(Failure::limit(LimitKind::Count, format!("{count} {what}, {max} are allowed")));
        }
        Ok(())
    }

    fn bytes(&self, what: &str, text: &str, max: usize) -> Result<(), Failure> {
        if text.len() > max {
            let message = format!("{what} has {} bytes, {max} are allowed", text.len());
            return Err(Failure::limit(LimitKind::Output, message));
        }
        Ok(())
    }

    fn json(&self, what: &str, text: &str, max: usize) -> Result<Json, Failure> {
        self.bytes(what, text, max)?;
        Json::parse(text.as_bytes()).map_err(|error| invalid(format!("{what}: {error}")))
    }

    pub(super) fn state(&self, state: Option<String>) -> Result<Option<Json>, Failure> {
        state.map(|text| self.json("the state", &text, self.limits.state_bytes_max)).transpose()
    }

    pub(super) fn aggregate(&self, kind: &str, id: &str) -> Result<Aggregate, Failure> {
        Aggregate::parse(kind, id).map_err(|error| invalid(error.to_string()))
    }

    pub(super) fn headers(
        &self,
        headers: impl ExactSizeIterator<Item = (String, String)>,
    ) -> Result<Vec<OwnedHeader>, Failure> {
        self.count("headers", headers.len(), HEADERS_MAX)?;
        headers
            .map(|(name, value)| {
                self.bytes("a header's name", &name, HEADER_BYTES_MAX)?;
                self.bytes("a header's value", &value, HEADER_BYTES_MAX)?;
                if name.is_empty() {
                    return Err(invalid("a header without a name"));
                }
                Ok(OwnedHeader { name, value })
            })
            .collect()
    }

    /// An event must be declared, with its version, in `emits`.
    fn declared(&self, name: &str, schema_version: &str) -> Result<(), Failure> {
        let Some(version) = Version::parse(schema_version) else {
            return Err(invalid(format!("event {name}: {schema_version:?} is no version MAJOR.MINOR.PATCH")));
        };
        let contract = self.description.emits.iter().find(|contract| contract.name == name);
        if contract.is_some_and(|contract| contract.versions.contains(&version)) {
            return Ok(());
        }
        Err(invalid(format!("event {name} {version} is not declared in emits")))
    }

    pub(super) fn event(
        &self,
        name: String,
        schema_version: String,
        data: &str,
        headers: Vec<OwnedHeader>,
    ) -> Result<NewEvent, Failure> {
        if event_type::is_host_outcome(&name) {
            return Err(invalid(format!("event {name}: names that begin with COMMAND_ belong to the host")));
        }
        self.declared(&name, &schema_version)?;
        let data = self.json(&format!("the data of {name}"), data, self.limits.item_bytes_max)?;
        Ok(NewEvent { name, schema_version, data, headers })
    }

    pub(super) fn command(
        &self,
        name: String,
        target: Aggregate,
        expected_seq: Option<u64>,
        payload: &str,
        headers: Vec<OwnedHeader>,
    ) -> Result<NewCommand, Failure> {
        if !is_message_name(&name) {
            return Err(invalid(format!("issued command {name:?} is no name such as CREATE_ORDER")));
        }
        if RESERVED_KINDS.contains(&target.kind.as_str()) {
            return Err(invalid(format!(
                "issued command {name}: the host writes the streams of {} itself",
                target.kind
            )));
        }
        let payload = self.json(&format!("the payload of {name}"), payload, self.limits.item_bytes_max)?;
        Ok(NewCommand { name, target, expected_seq, payload, headers })
    }

    pub(super) fn outcome(&self, outcome: Outcome) -> Result<Verdict, Failure> {
        let bytes: usize = outcome.events.iter().map(|event| event.data.as_str().len()).sum();
        let max = self.limits.events_bytes_max;
        if bytes > max {
            return Err(Failure::limit(LimitKind::Output, format!("events of {bytes} bytes, {max} are allowed")));
        }
        if outcome.events.is_empty() && outcome.commands.is_empty() {
            return Err(invalid("accepted without an event or command: answer `unchanged`"));
        }
        Ok(Verdict::Accepted(outcome))
    }

    /// Keeps the first [`PROBLEMS_MAX`] and says how many there were, since a refusal must reach its sender.
    pub(super) fn problems(&self, problems: Vec<Problem>) -> Vec<Problem> {
        let count = problems.len();
        let mut kept: Vec<Problem> = problems
            .into_iter()
            .take(PROBLEMS_MAX)
            .map(|problem| Problem {
                code: short(&problem.code),
                message: short(&problem.message),
                pointer: problem.pointer.as_deref().map(short),
            })
            .collect();
        if count > PROBLEMS_MAX {
            let message = format!("{} more problems are not shown", count - PROBLEMS_MAX);
            kept.push(Problem { code: "more-problems".into(), message, pointer: None });
        }
        kept
    }

    pub(super) fn rejected(&self, problems: Vec<Problem>) -> Result<Verdict, Failure> {
        if problems.is_empty() {
            return Err(invalid("rejected without a problem"));
        }
        if problems.iter().any(|problem| problem.code.is_empty()) {
            return Err(invalid("a problem without a code"));
        }
        Ok(Verdict::Rejected(self.problems(problems)))
    }

    fn text(&self, what: &str, text: String, max: usize) -> Result<String, Failure> {
        self.bytes(what, &text, max)?;
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(invalid(format!("{what} is empty or has control characters")));
        }
        Ok(text)
    }

    pub(super) fn key(&self, collection: String, id: String) -> Result<DocumentKey, Failure> {
        if !self.description.collections.iter().any(|declared| declared.name == collection) {
            return Err(invalid(format!("collection {collection:?} is not declared")));
        }
        Ok(DocumentKey { collection, id: self.text("a document's id", id, ID_BYTES_MAX)? })
    }

    pub(super) fn body(&self, text: String) -> Result<Arc<RawValue>, Failure> {
        let body = self.json("a document", &text, self.limits.item_bytes_max)?;
        if !body.is_object() {
            return Err(invalid("a document is no JSON object"));
        }
        Ok(Arc::from(body.to_raw()))
    }

    pub(super) fn node(&self, kind: String, id: String) -> Result<Node, Failure> {
        Ok(Node {
            kind: self.text("a node's kind", kind, NAME_BYTES_MAX)?,
            id: self.text("a node's id", id, ID_BYTES_MAX)?,
        })
    }

    pub(super) fn predicate(&self, text: String) -> Result<String, Failure> {
        self.text("a predicate", text, NAME_BYTES_MAX)
    }

    /// `latest`: the cause of the change before.
    pub(super) fn change(
        &self,
        cause: u32,
        latest: &mut usize,
        events: usize,
        change: Change,
    ) -> Result<CausedChange, Failure> {
        let cause = usize::try_from(cause).map_err(|_| invalid("a cause beyond all events"))?;
        if cause >= events || cause < *latest {
            return Err(invalid(format!(
                "cause {cause} of {events} events after cause {latest}: causes never decrease"
            )));
        }
        *latest = cause;
        Ok(CausedChange { cause, change })
    }

    pub(super) fn upcast(&self, name: String, schema_version: String, data: &str) -> Result<Stored, Failure> {
        if event_type::is_host_outcome(&name) {
            return Err(invalid(format!("event {name}: names that begin with COMMAND_ belong to the host")));
        }
        self.declared(&name, &schema_version)?;
        let data = self.json(&format!("the data of {name}"), data, self.limits.item_bytes_max)?;
        Ok(Stored { name, schema_version, data })
    }
}
