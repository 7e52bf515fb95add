//! Administration: consumers, the relay, dead letters, claims. Every route needs the role operator; the gate sees to
//! that.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::commands::json;
use super::dto::ProblemBody;
use super::problem::Problem;
use super::read::InPath;
use super::request::{self, Params, parameter};
use super::{Api, Principal};
use crate::domain::Timestamp;
use crate::port::registry::{ClaimFilter, ClaimRow, DeadLetter, Status};
use crate::query::{Consumer, What};

/// A parked event.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterBody {
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// The consumer that set it aside.
    pub handler: String,
    #[schema(value_type = Option<String>, format = "uuid")]
    pub event_id: Option<Uuid>,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub sequence_number: u64,
    /// `fault`, `trap`, `limit`, `blocked`, `not-in-log`, `not-an-envelope`.
    pub reason: String,
    pub error: String,
    #[schema(value_type = String, format = DateTime)]
    pub parked_at: Timestamp,
    /// `parked`, `released`, `discarded`.
    pub state: String,
    pub coordinates: Option<String>,
}

impl From<DeadLetter> for DeadLetterBody {
    fn from(letter: DeadLetter) -> DeadLetterBody {
        DeadLetterBody {
            id: letter.id,
            handler: letter.handler,
            event_id: letter.event_id,
            aggregate_type: letter.aggregate_type,
            aggregate_id: letter.aggregate_id,
            sequence_number: letter.sequence_number,
            reason: letter.reason,
            error: letter.error,
            parked_at: letter.parked_at,
            state: letter.state,
            coordinates: letter.coordinates,
        }
    }
}

/// One page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLettersBody {
    pub dead_letters: Vec<DeadLetterBody>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// A row of the registry.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClaimBody {
    pub handler: String,
    #[schema(value_type = String, format = "uuid")]
    pub event_id: Uuid,
    pub aggregate_id: String,
    pub sequence_number: u64,
    /// `processing`, `done`, `failed`, `skipped_stale`, `parked`.
    pub status: String,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    pub owner: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub heartbeat_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub processed_at: Option<Timestamp>,
    pub attempt_count: u32,
    pub last_error: Option<String>,
}

impl From<ClaimRow> for ClaimBody {
    fn from(row: ClaimRow) -> ClaimBody {
        ClaimBody {
            handler: row.handler,
            event_id: row.event_id,
            aggregate_id: row.aggregate_id,
            sequence_number: row.sequence_number,
            status: row.status,
            started_at: row.started_at,
            owner: row.owner,
            heartbeat_at: row.heartbeat_at,
            processed_at: row.processed_at,
            attempt_count: row.attempt_count,
            last_error: row.last_error,
        }
    }
}

/// What to remove.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetireBody {
    /// 1 to 87600.
    pub older_than_hours: u64,
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub struct RetiredBody {
    pub retired: u64,
    /// There may be more: ask again.
    pub more: bool,
}

/// One page of claims.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClaimsBody {
    pub claims: Vec<ClaimBody>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// A consumer on one partition.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConsumerBody {
    /// A projection whose build readers see has its plain name; others have that of their build in theirs.
    pub name: String,
    /// Its name in claims and dead letters, where every build has its own.
    pub handler: String,
    pub partition: u16,
    /// Everything below has had its effect.
    pub position: u64,
    pub lag_events: u64,
    pub lag_ms: u64,
    /// `catching_up`, `running`, `paused`, `stopped`.
    #[schema(value_type = String)]
    pub state: crate::state::ConsumerState,
    pub last_error: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_event_at: Option<Timestamp>,
}

impl From<Consumer> for ConsumerBody {
    fn from(consumer: Consumer) -> ConsumerBody {
        ConsumerBody {
            name: consumer.name,
            handler: consumer.handler,
            partition: consumer.partition.0,
            position: consumer.position.0,
            lag_events: consumer.lag.events,
            lag_ms: consumer.lag.ms,
            state: consumer.state,
            last_error: consumer.last_error,
            last_event_at: consumer.last_event_at,
        }
    }
}

/// Consumers of this process.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConsumersBody {
    pub consumers: Vec<ConsumerBody>,
}

/// The relay of this process.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayBody {
    /// Whether a relay runs here.
    pub running: bool,
    pub partitions: Vec<ConsumerBody>,
}

/// Why an event is given up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiscardBody {
    /// Kept in the history.
    reason: String,
}

/// Dead letters.
#[utoipa::path(
    get, path = "/admin/v1/dead-letters", tag = "admin", security(("operator" = [])),
    params(
        ("state" = Option<String>, Query, description = "parked (default), released, discarded, all"),
        ("limit" = Option<usize>, Query), ("after" = Option<String>, Query),
    ),
    responses((status = 200, body = DeadLettersBody))
)]
pub async fn dead_letters(State(api): State<Api>, params: Params) -> Result<Response, Problem> {
    params.only(&["state", "limit", "after"])?;
    let state = match params.one("state")? {
        None => Some("parked"),
        Some("all") => None,
        Some(state @ ("parked" | "released" | "discarded")) => Some(state),
        Some(_) => return Err(parameter("state", "it must be parked, released, discarded or all")),
    };
    let after = params.one("after")?.map(|text| uuid("after", text)).transpose()?;
    let page = api.queries.dead_letters(state, after, params.limit()?).await?;
    let dead_letters = page.items.into_iter().map(DeadLetterBody::from).collect();
    json(StatusCode::OK, &DeadLettersBody { dead_letters, next: page.next.map(|id| id.to_string()) })
}

/// Lets the aggregate of a dead letter go on, in order.
#[utoipa::path(
    post, path = "/admin/v1/dead-letters/{id}/retry", tag = "admin", security(("operator" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, body = DeadLetterBody),
        (status = 404, body = ProblemBody),
        (status = 409, body = ProblemBody),
    )
)]
pub async fn retry(
    State(api): State<Api>,
    principal: Principal,
    InPath(id): InPath<String>,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let letter = api.operations.retry(uuid("id", &id)?, principal.actor()).await?;
    json(StatusCode::OK, &DeadLetterBody::from(letter))
}

/// Gives a parked event up; a command ends as CANCELLED.
#[utoipa::path(
    post, path = "/admin/v1/dead-letters/{id}/discard", tag = "admin", security(("operator" = [])),
    params(("id" = String, Path)), request_body = DiscardBody,
    responses(
        (status = 200, body = DeadLetterBody),
        (status = 404, body = ProblemBody),
        (status = 409, body = ProblemBody),
    )
)]
pub async fn discard(
    State(api): State<Api>,
    principal: Principal,
    InPath(id): InPath<String>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let id = uuid("id", &id)?;
    let body = request::json_body(request).await?;
    let body: DiscardBody = request::parse(&body)?;
    let letter = api.operations.discard(id, &body.reason, principal.actor()).await?;
    json(StatusCode::OK, &DeadLetterBody::from(letter))
}

/// Rows of the registry.
#[utoipa::path(
    get, path = "/admin/v1/claims", tag = "admin", security(("operator" = [])),
    params(
        ("status" = Option<String>, Query, description = "processing, done, failed, skipped_stale, parked"),
        ("handler" = Option<String>, Query), ("limit" = Option<usize>, Query), ("after" = Option<String>, Query),
    ),
    responses((status = 200, body = ClaimsBody))
)]
pub async fn claims(State(api): State<Api>, params: Params) -> Result<Response, Problem> {
    params.only(&["status", "handler", "limit", "after"])?;
    let status = params.one("status")?.map(claim_status).transpose()?;
    let after = params.one("after")?.map(claim_cursor).transpose()?;
    let handler = params.one("handler")?.map(str::to_owned);
    let filter = ClaimFilter { handler, status, event_ids: Vec::new(), after, limit: params.limit()? };
    let page = api.queries.claims(filter).await?;
    let next = page.next.map(|(handler, event_id)| format!("{event_id}@{handler}"));
    json(StatusCode::OK, &ClaimsBody { claims: page.items.into_iter().map(ClaimBody::from).collect(), next })
}

/// Makes a claim free at once: its event is handled again.
#[utoipa::path(
    post, path = "/admin/v1/claims/{handler}/{event_id}/release", tag = "admin", security(("operator" = [])),
    params(("handler" = String, Path), ("event_id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = ProblemBody))
)]
pub async fn release(
    State(api): State<Api>,
    principal: Principal,
    InPath((handler, event_id)): InPath<(String, String)>,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let event_id = uuid("event_id", &event_id)?;
    api.operations.release(&handler, event_id).await?;
    tracing::info!(%event_id, handler, actor = principal.actor(), "a claim was released by an operator");
    json(StatusCode::OK, &serde_json::json!({ "handler": handler, "event_id": event_id, "released": true }))
}

/// Removes claims that ended long ago. What was handled stays known, and is never handled again.
#[utoipa::path(
    post, path = "/admin/v1/claims/retire", tag = "admin", security(("operator" = [])), request_body = RetireBody,
    responses((status = 200, body = RetiredBody), (status = 400, body = ProblemBody))
)]
pub async fn retire(
    State(api): State<Api>,
    principal: Principal,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let body = request::json_body(request).await?;
    let body: RetireBody = request::parse(&body)?;
    let (retired, more) = api.operations.retire(body.older_than_hours).await?;
    tracing::info!(retired, hours = body.older_than_hours, actor = principal.actor(), "old claims were removed");
    json(StatusCode::OK, &RetiredBody { retired, more })
}

/// Consumers of this process, and how far behind they are.
#[utoipa::path(
    get, path = "/admin/v1/consumers", tag = "admin", security(("operator" = [])),
    responses((status = 200, body = ConsumersBody))
)]
pub async fn consumers(State(api): State<Api>, params: Params) -> Result<Response, Problem> {
    params.only(&[])?;
    let consumers = api.queries.consumers().await?.into_iter().map(ConsumerBody::from).collect();
    json(StatusCode::OK, &ConsumersBody { consumers })
}

/// The relay: how much of the log the bus has acknowledged.
#[utoipa::path(
    get, path = "/admin/v1/relay", tag = "admin", security(("operator" = [])),
    responses((status = 200, body = RelayBody))
)]
pub async fn relay(State(api): State<Api>, params: Params) -> Result<Response, Problem> {
    params.only(&[])?;
    let partitions: Vec<_> = api.queries.relay().await?.into_iter().map(ConsumerBody::from).collect();
    json(StatusCode::OK, &RelayBody { running: !partitions.is_empty(), partitions })
}

/// Progress of a long operation. This build starts none.
#[utoipa::path(
    get, path = "/admin/v1/operations/{id}", tag = "admin", security(("operator" = [])),
    params(("id" = String, Path)), responses((status = 404, body = ProblemBody))
)]
pub async fn operation(InPath(id): InPath<String>) -> Result<Response, Problem> {
    let id = uuid("id", &id)?.to_string();
    Err(crate::query::Error::NotFound { what: What::Operation, id }.into())
}

/// Cancels a long operation. This build starts none.
#[utoipa::path(
    delete, path = "/admin/v1/operations/{id}", tag = "admin", security(("operator" = [])),
    params(("id" = String, Path)), responses((status = 404, body = ProblemBody))
)]
pub async fn cancel_operation(id: InPath<String>) -> Result<Response, Problem> {
    operation(id).await
}

fn uuid(name: &str, text: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(text).map_err(|_| parameter(name, "it must be a UUID"))
}

fn claim_status(text: &str) -> Result<Status, Problem> {
    let all = [Status::Processing, Status::Done, Status::Failed, Status::SkippedStale, Status::Parked];
    all.into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| parameter("status", "it must be processing, done, failed, skipped_stale or parked"))
}

fn claim_cursor(text: &str) -> Result<(String, Uuid), Problem> {
    let (event_id, handler) = text.split_once('@').ok_or_else(|| parameter("after", "it is no `next` of this list"))?;
    Ok((handler.to_owned(), uuid("after", event_id)?))
}
