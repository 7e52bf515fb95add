//! Writing envelopes, in the field order of contract §1, straight into the bytes that storage and bus will carry.

use bytes::Bytes;
use uuid::Uuid;

use super::parse::members;
use super::{CommandDraft, DomainDraft, Draft};
use crate::codec::json::{Json, write_string};
use crate::codec::{ENVELOPE_BYTES_MAX, Error, fingerprint};
use crate::domain::{Aggregate, EventKind, Sequence, Timestamp, derived_id};

/// Metadata keys that clients may not send (contract §1).
pub(super) const RESERVED: [&str; 8] =
    ["kind", "kafka_topic", "service", "handler", "read_set", "command_id", "causation_id", "encryption"];
/// Keys with a field of their own in a draft.
const FIELDS: [&str; 2] = ["correlation_id", "traceparent"];
/// The digits of any sequence number and the closing brace.
const TAIL_BYTES_MAX: usize = 21;
/// What the fixed parts of an envelope need beyond its data: a guess that saves growing the buffer.
const FRAME_BYTES: usize = 768;

/// An envelope being written.
struct Line(Vec<u8>);

impl Line {
    fn open(id: Uuid, event_type: &str, aggregate: &Aggregate, at: Timestamp, actor: &str, size: usize) -> Line {
        let mut line = Line(Vec::with_capacity(size + FRAME_BYTES));
        line.raw("{\"event_id\":");
        line.id(id);
        line.member_text(",\"event_type\":", event_type);
        line.member_text(",\"aggregate_type\":", aggregate.kind.as_str());
        line.member_text(",\"aggregate_id\":", aggregate.id.as_str());
        line.raw(",\"occurred_at\":\"");
        line.raw(&at.to_string());
        line.member_text("\",\"actor\":", actor);
        line.raw(",\"data\":");
        line
    }

    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn id(&mut self, id: Uuid) {
        let mut buffer = [0u8; uuid::fmt::Hyphenated::LENGTH];
        let text = id.hyphenated().encode_lower(&mut buffer);
        self.raw("\"");
        self.raw(text);
        self.raw("\"");
    }

    fn member_text(&mut self, key: &str, text: &str) {
        self.raw(key);
        write_string(text, &mut self.0);
    }

    fn member_id(&mut self, key: &str, id: Option<Uuid>) {
        if let Some(id) = id {
            self.raw(key);
            self.id(id);
        }
    }

    fn member_json<T: serde::Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        self.raw(key);
        serde_json::to_writer(&mut self.0, value).expect("plain fields always serialise");
    }

    /// The members of `extra`, after those of the host.
    fn extra(&mut self, extra: Option<&Json>, also_reserved: &[&str]) -> Result<(), Error> {
        let Some(extra) = extra else { return Ok(()) };
        for (key, _) in members(extra)? {
            if [&RESERVED[..], &FIELDS[..], also_reserved].iter().any(|keys| keys.contains(&key.as_str())) {
                return Err(Error::ReservedMetadata { key });
            }
        }
        let inner = &extra.as_str()[1..extra.as_str().len() - 1];
        if !inner.is_empty() {
            self.raw(",");
            self.raw(inner);
        }
        Ok(())
    }

    fn close(mut self, schema_version: &str) -> Result<Bytes, Error> {
        self.member_text("},\"schema_version\":", schema_version);
        self.raw(",\"sequence_number\":");
        let bytes = self.0.len() + TAIL_BYTES_MAX;
        if bytes > ENVELOPE_BYTES_MAX {
            return Err(Error::TooLarge { bytes, max: ENVELOPE_BYTES_MAX });
        }
        Ok(Bytes::from(self.0))
    }
}

impl CommandDraft<'_> {
    /// Writes the line. Refuses reserved metadata keys and an envelope over [`ENVELOPE_BYTES_MAX`].
    pub fn build(self) -> Result<Draft, Error> {
        let event_type = format!("{}_REQUESTED", self.command_type);
        let size = self.payload.as_str().len() + self.extra.map_or(0, |extra| extra.as_str().len());
        let mut line = Line::open(self.command_id, &event_type, self.aggregate, self.occurred_at, self.actor, size);
        line.member_id("{\"command_id\":", Some(self.command_id));
        line.member_text(",\"command_type\":", self.command_type);
        if let Some(expected) = self.expected_seq {
            line.raw(",\"expected_seq\":");
            line.raw(&expected.to_string());
        }
        line.raw(",\"payload\":");
        line.raw(self.payload.as_str());
        line.member_text("},\"metadata\":{\"kind\":\"command\",\"kafka_topic\":", &self.topic);
        line.member_text(",\"service\":", self.service);
        line.member_text(",\"correlation_id\":", self.correlation_id);
        line.member_id(",\"causation_id\":", self.causation_id);
        if let Some(traceparent) = self.traceparent {
            line.member_text(",\"traceparent\":", traceparent);
        }
        line.extra(self.extra, &[])?;
        let content = fingerprint::command(self.command_type, self.aggregate, self.expected_seq, self.payload);
        Ok(Draft {
            event_id: self.command_id,
            aggregate: self.aggregate.clone(),
            kind: EventKind::Command,
            event_type: event_type.into(),
            fingerprint: Some(content),
            command_id: None,
            line_head: line.close("1")?,
            topic: self.topic,
        })
    }
}

impl DomainDraft<'_> {
    /// Writes the line. Refuses reserved metadata keys and an envelope over [`ENVELOPE_BYTES_MAX`].
    pub fn build(self) -> Result<Draft, Error> {
        let event_id = derived_id::domain_event(self.command_id, self.index);
        let size = self.data.as_str().len() + self.extra.map_or(0, |extra| extra.as_str().len());
        let mut line = Line::open(event_id, self.event_type, self.aggregate, self.occurred_at, self.actor, size);
        line.raw(self.data.as_str());
        line.member_text(",\"metadata\":{\"kind\":\"domain\",\"kafka_topic\":", &self.topic);
        line.member_text(",\"service\":", self.service);
        line.member_id(",\"command_id\":", Some(self.command_id));
        line.member_text(",\"correlation_id\":", self.correlation_id);
        line.member_id(",\"causation_id\":", self.causation_id);
        if let Some(handler) = self.handler {
            line.member_json(",\"handler\":", handler);
        }
        if self.handler.is_some() || !self.read_set.is_empty() {
            line.member_json(",\"read_set\":", self.read_set);
        }
        if let Some(traceparent) = self.traceparent {
            line.member_text(",\"traceparent\":", traceparent);
        }
        if let Some(issued) = self.issued {
            line.raw(",\"issued\":");
            line.raw(&issued.to_string());
        }
        line.extra(self.extra, &["issued"])?;
        Ok(Draft {
            event_id,
            aggregate: self.aggregate.clone(),
            kind: EventKind::Domain,
            event_type: self.event_type.into(),
            fingerprint: None,
            command_id: Some(self.command_id),
            line_head: line.close(self.schema_version)?,
            topic: self.topic,
        })
    }
}

impl Draft {
    /// Appends the whole line with this sequence number, without line feed.
    pub fn write_line(&self, sequence: Sequence, out: &mut Vec<u8>) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut rest = sequence.0;
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(rest % 10).expect("a decimal digit fits");
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        out.extend_from_slice(&self.line_head);
        out.extend_from_slice(&digits[at..]);
        out.push(b'}');
    }

    /// Upper bound of the line's length, line feed included.
    pub fn bytes_max(&self) -> usize {
        self.line_head.len() + TAIL_BYTES_MAX + 1
    }
}
