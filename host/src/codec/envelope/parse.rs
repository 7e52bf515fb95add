//! Reading envelopes. Takes every line that any release wrote; unknown fields are no error and stay in the line.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{ClientMetadata, CommandData, Envelope, HandlerRef, Metadata, ReadRef};
use crate::codec::Error;
use crate::codec::json::{Json, write_string};
use crate::domain::{Aggregate, EventKind, Sequence, Timestamp};

#[derive(Deserialize)]
struct EnvelopeFields<'a> {
    event_id: Uuid,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_type: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'a, str>,
    occurred_at: Timestamp,
    #[serde(borrow)]
    actor: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    schema_version: Cow<'a, str>,
    sequence_number: Sequence,
}

#[derive(Deserialize)]
struct CommandFields<'a> {
    command_id: Uuid,
    #[serde(borrow)]
    command_type: Cow<'a, str>,
    #[serde(default)]
    expected_seq: Option<u64>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Deserialize)]
struct MetadataFields<'a> {
    kind: EventKind,
    #[serde(borrow)]
    kafka_topic: Cow<'a, str>,
    #[serde(borrow, default)]
    service: Cow<'a, str>,
    #[serde(default)]
    command_id: Option<Uuid>,
    #[serde(borrow, default)]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(default)]
    causation_id: Option<Uuid>,
    #[serde(default)]
    handler: Option<HandlerRef>,
    #[serde(default)]
    read_set: Vec<ReadRef>,
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    issued: Option<&'a RawValue>,
}

fn refuse(error: impl fmt::Display) -> Error {
    Error::Envelope { reason: error.to_string() }
}

impl<'a> Envelope<'a> {
    /// Reads one line.
    pub fn parse(line: &'a [u8]) -> Result<Envelope<'a>, Error> {
        let line = std::str::from_utf8(line).map_err(refuse)?;
        let fields: EnvelopeFields<'a> = serde_json::from_str(line).map_err(refuse)?;
        Ok(Envelope {
            event_id: fields.event_id,
            event_type: fields.event_type,
            aggregate_type: fields.aggregate_type,
            aggregate_id: fields.aggregate_id,
            occurred_at: fields.occurred_at,
            actor: fields.actor,
            data: fields.data,
            metadata: fields.metadata,
            schema_version: fields.schema_version,
            sequence_number: fields.sequence_number,
        })
    }

    /// The aggregate, checked.
    pub fn aggregate(&self) -> Result<Aggregate, Error> {
        Aggregate::parse(&self.aggregate_type, &self.aggregate_id).map_err(refuse)
    }

    /// `data` as that of a command.
    pub fn command(&self) -> Result<CommandData<'a>, Error> {
        let fields: CommandFields<'a> = serde_json::from_str(self.data.get()).map_err(refuse)?;
        Ok(CommandData {
            command_id: fields.command_id,
            command_type: fields.command_type,
            expected_seq: fields.expected_seq,
            payload: fields.payload,
        })
    }

    /// `metadata`, parsed.
    pub fn metadata(&self) -> Result<Metadata<'a>, Error> {
        let fields: MetadataFields<'a> = serde_json::from_str(self.metadata.get()).map_err(refuse)?;
        // A command's sender may use the key for something of its own.
        let issued = match (fields.kind, fields.issued) {
            (EventKind::Domain, Some(raw)) => serde_json::from_str(raw.get()).map_err(refuse)?,
            _ => None,
        };
        Ok(Metadata {
            kind: fields.kind,
            kafka_topic: fields.kafka_topic,
            service: fields.service,
            command_id: fields.command_id,
            correlation_id: fields.correlation_id,
            causation_id: fields.causation_id,
            handler: fields.handler,
            read_set: fields.read_set,
            traceparent: fields.traceparent,
            issued,
        })
    }
}

impl ClientMetadata {
    /// Refuses reserved keys, and `correlation_id` or `traceparent` that are no strings.
    pub fn parse(metadata: &Json) -> Result<ClientMetadata, Error> {
        let mut parsed = ClientMetadata::default();
        let mut extra: Vec<u8> = Vec::new();
        for (key, value) in members(metadata)? {
            let text = || serde_json::from_str(value.get()).map_err(|_| Error::MetadataNotText { key: key.clone() });
            match key.as_str() {
                "correlation_id" => parsed.correlation_id = Some(text()?),
                "traceparent" => parsed.traceparent = Some(text()?),
                reserved if super::build::RESERVED.contains(&reserved) => {
                    return Err(Error::ReservedMetadata { key });
                }
                other => {
                    extra.push(if extra.is_empty() { b'{' } else { b',' });
                    write_string(other, &mut extra);
                    extra.push(b':');
                    extra.extend_from_slice(value.get().as_bytes());
                }
            }
        }
        if !extra.is_empty() {
            extra.push(b'}');
            parsed.extra = Some(Json::parse(&extra)?);
        }
        Ok(parsed)
    }
}

/// Members of an object, in its order.
pub(super) fn members(object: &Json) -> Result<Vec<(String, &RawValue)>, Error> {
    if !object.is_object() {
        return Err(Error::MetadataNotObject);
    }
    let Members(members) = serde_json::from_str(object.as_str()).map_err(refuse)?;
    Ok(members)
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(entry) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(entry);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
