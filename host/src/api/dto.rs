//! Shapes of answers. What is derived here ends up in the OpenAPI document; members are only ever added.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::{Aggregate, Timestamp};
use crate::port::read_model::Document;
use crate::query::{self, Status};

/// An error (RFC 9457, `application/problem+json`). Members beyond these say what they are about.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemBody {
    /// `urn:carryall:problem:` and the code.
    pub r#type: String,
    pub title: String,
    pub status: u16,
    /// What happened and what to do about it.
    pub detail: String,
    /// Stable name of the problem.
    pub code: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

/// What a command is about.
#[derive(Debug, Serialize, ToSchema)]
pub struct CommandResult<'a> {
    pub message: &'a str,
    pub aggregate_id: &'a str,
    /// Sequence of the command; in a status, of its last outcome event.
    pub sequence_number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_name: Option<&'a str>,
    /// Commands of a batch, in the order of its rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<RowBody>>)]
    pub rows: Option<Vec<RowBody>>,
}

impl<'a> CommandResult<'a> {
    /// With the names that the ids of the bundled types hold.
    pub fn of(message: &'a str, aggregate: &'a Aggregate, sequence_number: u64) -> CommandResult<'a> {
        let mut parts = aggregate.id.as_str().splitn(3, ':');
        let (db_name, class_id, instance_id) = match aggregate.kind.as_str() {
            "Database" => (parts.next(), None, None),
            "OntologyClass" | "InstanceBatch" => (parts.next(), parts.next(), None),
            "Instance" => (parts.next(), parts.next(), parts.next()),
            _ => (None, None, None),
        };
        let aggregate_id = aggregate.id.as_str();
        CommandResult { message, aggregate_id, sequence_number, instance_id, class_id, db_name, rows: None }
    }
}

/// Answer to a command: it is in the log, and will be decided.
#[derive(Debug, Serialize, ToSchema)]
pub struct AcceptedBody<'a> {
    #[schema(value_type = String, format = "uuid")]
    pub command_id: Uuid,
    /// `PENDING`.
    pub status: &'static str,
    pub result: CommandResult<'a>,
    /// Makes a read wait until this command is decided and projected.
    pub consistency_token: String,
}

/// Why a command failed.
#[derive(Debug, Serialize, ToSchema)]
pub struct FailureBody {
    pub code: String,
    pub message: String,
    /// `[{code, message, pointer}]`: what the handler objects to; `pointer` leads into the payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub problems: Option<Box<RawValue>>,
}

impl From<&query::Failure> for FailureBody {
    fn from(failure: &query::Failure) -> FailureBody {
        FailureBody { code: failure.code.clone(), message: failure.message.clone(), problems: failure.problems.clone() }
    }
}

/// An event that a command led to.
#[derive(Debug, Serialize, ToSchema)]
pub struct OutcomeEventBody<'a> {
    #[schema(value_type = String, format = "uuid")]
    pub event_id: Uuid,
    pub event_type: &'a str,
    pub aggregate_type: &'a str,
    pub aggregate_id: &'a str,
    pub sequence_number: u64,
}

/// One command of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct RowBody {
    #[schema(value_type = String, format = "uuid")]
    pub command_id: Uuid,
    /// `COMPLETED`, `FAILED` or `CANCELLED`.
    pub status: &'static str,
    pub aggregate_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    pub sequence_number: u64,
    pub error: Option<FailureBody>,
}

impl From<&query::Row> for RowBody {
    fn from(row: &query::Row) -> RowBody {
        let instance = CommandResult::of("", &row.aggregate, 0).instance_id;
        RowBody {
            command_id: row.command_id,
            status: row.status.as_str(),
            aggregate_id: row.aggregate.id.to_string(),
            instance_id: instance.map(str::to_owned),
            sequence_number: row.sequence,
            error: row.failure.as_ref().map(FailureBody::from),
        }
    }
}

/// Status of a command.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatusBody<'a> {
    #[schema(value_type = String, format = "uuid")]
    pub command_id: Uuid,
    /// `PENDING`, `PROCESSING`, `RETRYING`; then `COMPLETED`, `FAILED` or `CANCELLED` for good.
    pub status: &'static str,
    /// Once the command is completed.
    pub result: Option<CommandResult<'a>>,
    /// Why it failed, or why it is tried again.
    pub error: Option<FailureBody>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub completed_at: Option<Timestamp>,
    /// Attempts beyond the first while it is not decided; 0 afterwards.
    pub retry_count: u32,
    pub events: Vec<OutcomeEventBody<'a>>,
    /// Makes a read wait until the outcome is projected.
    pub consistency_token: String,
}

impl<'a> From<&'a Status> for StatusBody<'a> {
    fn from(status: &'a Status) -> StatusBody<'a> {
        let completed = status.status == query::StatusName::Completed;
        let batch = status.aggregate.kind.as_str() == "InstanceBatch";
        let message = status.events.last().map_or("", |event| event.event_type.as_str());
        let result = completed.then(|| CommandResult {
            rows: batch.then(|| status.rows.iter().map(RowBody::from).collect()),
            ..CommandResult::of(message, &status.aggregate, status.sequence)
        });
        StatusBody {
            command_id: status.command_id,
            status: status.status.as_str(),
            result,
            error: status.failure.as_ref().map(FailureBody::from),
            completed_at: status.completed_at,
            retry_count: status.retry_count,
            events: status.events.iter().map(OutcomeEventBody::from).collect(),
            consistency_token: status.token.encode(),
        }
    }
}

impl<'a> From<&'a query::OutcomeEvent> for OutcomeEventBody<'a> {
    fn from(event: &'a query::OutcomeEvent) -> OutcomeEventBody<'a> {
        OutcomeEventBody {
            event_id: event.event_id,
            event_type: &event.event_type,
            aggregate_type: event.aggregate.kind.as_str(),
            aggregate_id: event.aggregate.id.as_str(),
            sequence_number: event.sequence,
        }
    }
}

/// Folded state of an aggregate.
#[derive(Debug, Serialize, ToSchema)]
pub struct AggregateBody<'a> {
    pub aggregate_type: &'a str,
    pub aggregate_id: &'a str,
    /// Of the last event the state knows of.
    pub sequence_number: u64,
    /// `null` when the aggregate was deleted.
    #[schema(value_type = Option<Object>)]
    pub state: Option<&'a RawValue>,
    pub schema_version: &'a str,
    /// Digest of the handler that folded it.
    pub handler_digest: String,
}

/// One page of instances, by id.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstancesBody {
    /// `{instance_id, class_id, db_name, data, sequence_number, created_at, updated_at}` each.
    #[schema(value_type = Vec<Object>)]
    pub instances: Vec<Arc<RawValue>>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// An answer that holds its substance in `data`.
#[derive(Debug, Serialize, ToSchema)]
pub struct DataBody<T> {
    pub data: T,
}

/// Whether a database exists.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExistsBody {
    pub exists: bool,
}

/// Databases, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatabasesBody {
    #[schema(value_type = Vec<Object>)]
    pub databases: Vec<Arc<RawValue>>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// Classes of a database, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct OntologiesBody {
    #[schema(value_type = Vec<Object>)]
    pub ontologies: Vec<Arc<RawValue>>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// One page of events, each as it is stored.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventsBody {
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<Arc<RawValue>>,
    /// `after` of the next page; `null` when there is no more now.
    pub next: Option<String>,
}

/// Bodies of documents.
pub fn bodies(documents: Vec<Document>) -> Vec<Arc<RawValue>> {
    documents.into_iter().map(|document| document.body).collect()
}
