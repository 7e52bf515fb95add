//! From a verdict to what is appended. Pure. Keeps I4 and I6: every id is derived from the command's, so that a re-run
//! writes the same events, and every decided command leaves at least one.

use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use crate::codec;
use crate::codec::envelope::{CommandDraft, DomainDraft, Draft, Envelope, HandlerRef, ReadRef};
use crate::codec::json::Json;
use crate::domain::{Aggregate, Sequence, Timestamp, command_topic, derived_id, event_topic, event_type};
use crate::event_store::{Append, Expected, Record};
use crate::sandbox::{Outcome, Problem, Verdict};

/// Writer of the events of a worker, in `metadata.service`.
pub const SERVICE: &str = "worker";

/// A decided command: what the log is to hold.
#[derive(Debug)]
pub struct Decided {
    /// Appended first, so that a crash in between leaves the command undecided, not its commands unissued.
    pub issued: Vec<Append>,
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
    let (drafts, issued) = match ending {
        Ending::Verdict(Verdict::Accepted(outcome)) => frame.accepted(outcome)?,
        Ending::Verdict(Verdict::Unchanged) => {
            let data = Json::from_value(&json!({"command_id": record.event_id}))?;
            (vec![frame.draft(0, event_type::COMMAND_UNCHANGED, "1.0.0", &data, None)?], Vec::new())
        }
        Ending::Verdict(Verdict::Rejected(problems)) => {
            let first = problems.first();
            let code = first.map_or("rejected", |p| &p.code).to_owned();
            let message = first.map_or("refused by the handler", |p| &p.message).to_owned();
            (vec![frame.failed(&code, &message, &problems)?], Vec::new())
        }
        Ending::Refused(refusal) => (vec![frame.failed(refusal.code, &refusal.message, &[])?], Vec::new()),
    };
    let outcome = Append {
        aggregate: record.aggregate.clone(),
        expected: Expected::LastDomain(last_domain),
        drafts,
        outcome_of: Some(record.sequence),
        ids_are_new: false,
    };
    Ok(Decided { issued, outcome })
}

impl Frame<'_> {
    fn accepted(&self, outcome: Outcome) -> Result<(Vec<Draft>, Vec<Append>), codec::Error> {
        let issued_count = u32::try_from(outcome.commands.len()).expect("the sandbox bounds the number of commands");
        let mut issued = Vec::with_capacity(outcome.commands.len());
        for (index, command) in outcome.commands.into_iter().enumerate() {
            let id = derived_id::issued_command(self.record.event_id, index);
            issued.push(self.issue(id, &command.name, command.target, command.expected_seq, &command.payload)?);
        }
        let last = outcome.events.len().saturating_sub(1);
        let mut drafts = Vec::with_capacity(outcome.events.len().max(1));
        for (index, event) in outcome.events.into_iter().enumerate() {
            let count = (index == last && issued_count > 0).then_some(issued_count);
            drafts.push(self.draft(index, &event.name, &event.schema_version, &event.data, count)?);
        }
        if drafts.is_empty() {
            let data = Json::from_value(&json!({"command_id": self.record.event_id, "issued": issued_count}))?;
            drafts.push(self.draft(0, event_type::COMMAND_UNCHANGED, "1.0.0", &data, Some(issued_count))?);
        }
        Ok((drafts, issued))
    }

    fn failed(&self, code: &str, message: &str, problems: &[Problem]) -> Result<Draft, codec::Error> {
        let problems: Vec<_> =
            problems.iter().map(|p| json!({"code": p.code, "message": p.message, "pointer": p.pointer})).collect();
        let data = json!({
            "command_id": self.record.event_id,
            "code": code,
            "message": message,
            "problems": problems,
        });
        self.draft(0, event_type::COMMAND_FAILED, "1.0.0", &Json::from_value(&data)?, None)
    }

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

    fn issue(
        &self,
        command_id: Uuid,
        name: &str,
        target: Aggregate,
        expected_seq: Option<u64>,
        payload: &Json,
    ) -> Result<Append, codec::Error> {
        let draft = CommandDraft {
            command_id,
            command_type: name,
            aggregate: &target,
            expected_seq,
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
        Ok(Append { aggregate: target, expected, drafts: vec![draft], outcome_of: None, ids_are_new: false })
    }
}
