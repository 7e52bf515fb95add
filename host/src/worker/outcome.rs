//! From a verdict to what is appended. Pure. Keeps I4 and I6: every id is derived from the command's, so that a re-run
//! writes the same events, and every decided command leaves at least one.

use std::sync::Arc;

use uuid::Uuid;

use crate::codec;
use crate::codec::envelope::{CommandDraft, DomainDraft, Draft, Envelope, HandlerRef, ReadRef};
use crate::codec::json::Json;
use crate::domain::{Sequence, Timestamp, command_topic, derived_id, event_topic};
use crate::event_store::{Append, Expected, Record};
use crate::sandbox::{NewCommand, Verdict};
use crate::state::outcome::{failed, recorded};

/// Writer of the events of a worker, in `metadata.service`.
pub const SERVICE: &str = "worker";

/// A decided command: what the log is to hold.
#[derive(Debug)]
pub struct Decided {
    /// Appended first, so that a crash in between leaves the command undecided, not its commands unissued.
    pub issued: Vec<Append>,
    /// Their names, in the same order.
    pub names: Vec<String>,
    pub outcome: Append,
}

/// Why a command failed without being a handler's business refusal.
#[derive(Debug, Clone)]
pub struct HostRefusal {
    pub code: &'static str,
    pub message: String,
}

/// What became of a command.
#[derive(Debug)]
pub enum Ending {
    Verdict(Verdict),
    Refused(HostRefusal),
}

/// What all events of one decision share.
struct Frame<'a> {
    record: &'a Record,
    actor: &'a str,
    correlation_id: String,
    traceparent: Option<String>,
    handler: Option<&'a HandlerRef>,
    read_set: &'a [ReadRef],
    at: Timestamp,
    topic: Arc<str>,
}

/// Makes the appends of one decision. `last_domain` is the last domain event the decision was made on (I3).
pub fn appends(
    record: &Record,
    envelope: &Envelope<'_>,
    ending: Ending,
    handler: Option<&HandlerRef>,
    read_set: &[ReadRef],
    last_domain: Sequence,
    at: Timestamp,
) -> Result<Decided, codec::Error> {
    let metadata = envelope.metadata()?;
    let frame = Frame {
        record,
        actor: &envelope.actor,
        correlation_id: metadata.correlation_id.map_or_else(|| record.event_id.to_string(), |id| id.into_owned()),
        traceparent: metadata.traceparent.map(|text| text.into_owned()),
        handler,
        read_set,
        at,
        topic: event_topic(&record.aggregate.kind).into(),
    };
    let (events, commands) = match &ending {
        Ending::Verdict(verdict @ Verdict::Accepted(outcome)) => {
            (recorded(record.event_id, verdict)?, outcome.commands.as_slice())
        }
        Ending::Verdict(verdict) => (recorded(record.event_id, verdict)?, &[][..]),
        Ending::Refused(refusal) => (vec![failed(record.event_id, refusal.code, &refusal.message, &[])?], &[][..]),
    };
    let mut issued = Vec::with_capacity(commands.len());
    for (index, command) in commands.iter().enumerate() {
        issued.push(frame.issue(derived_id::issued_command(record.event_id, index), command)?);
    }
    let issued_count = u32::try_from(commands.len()).expect("the sandbox bounds the number of commands");
    let last = events.len().saturating_sub(1);
    let mut drafts = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        let count = (index == last && issued_count > 0).then_some(issued_count);
        drafts.push(frame.draft(index, event.name, event.schema_version, &event.data, count)?);
    }
    let outcome = Append {
        aggregate: record.aggregate.clone(),
        expected: Expected::LastDomain(last_domain),
        drafts,
        outcome_of: Some(record.sequence),
        ids_are_new: false,
    };
    let names = commands.iter().map(|command| command.name.clone()).collect();
    Ok(Decided { issued, names, outcome })
}

impl Frame<'_> {
    fn draft(
        &self,
        index: usize,
        name: &str,
        schema_version: &str,
        data: &Json,
        issued: Option<u32>,
    ) -> Result<Draft, codec::Error> {
        DomainDraft {
            command_id: self.record.event_id,
            index,
            event_type: name,
            aggregate: &self.record.aggregate,
            occurred_at: self.at,
            actor: self.actor,
            data,
            correlation_id: &self.correlation_id,
            causation_id: Some(self.record.event_id),
            handler: self.handler,
            read_set: self.read_set,
            traceparent: self.traceparent.as_deref(),
            schema_version,
            issued,
            extra: None,
            topic: self.topic.clone(),
            service: SERVICE,
        }
        .build()
    }

    fn issue(&self, command_id: Uuid, command: &NewCommand) -> Result<Append, codec::Error> {
        let NewCommand { name, target, expected_seq, payload, headers: _ } = command;
        let draft = CommandDraft {
            command_id,
            command_type: name,
            aggregate: target,
            expected_seq: *expected_seq,
            payload,
            actor: self.actor,
            occurred_at: self.at,
            correlation_id: &self.correlation_id,
            causation_id: Some(self.record.event_id),
            traceparent: self.traceparent.as_deref(),
            extra: None,
            topic: command_topic(&target.kind).into(),
            service: SERVICE,
        }
        .build()?;
        let expected = expected_seq.map_or(Expected::Any, Expected::Client);
        Ok(Append { aggregate: target.clone(), expected, drafts: vec![draft], outcome_of: None, ids_are_new: false })
    }
}
