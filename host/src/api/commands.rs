//! Commands: any of them, and their status.

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Duration;
use utoipa::ToSchema;
use uuid::Uuid;

use super::dto::{AcceptedBody, CommandResult, ProblemBody, StatusBody};
use super::problem::Problem;
use super::read::InPath;
use super::request::{self, Params};
use super::{Api, Principal, links};
use crate::codec::json::Json;
use crate::command::bundled::Bundled;
use crate::command::{self, Accepted, Identity, Submission};
use crate::domain::Aggregate;
use crate::query::{self, Status, Token};

/// A command.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandBody<'a> {
    /// A UUID; makes a retry safe for ever. Made when neither it nor `Idempotency-Key` is sent.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, format = "uuid")]
    command_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    command_type: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_type: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'a, str>,
    /// The sequence the change is based on. Creates expect 0 when it is missing; updates and deletes need it.
    #[serde(default)]
    expected_seq: Option<u64>,
    /// What the handler gets; judged by it alone.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    payload: &'a RawValue,
    /// Kept with the command; reserved keys are refused.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<&'a RawValue>,
    /// Who sends it; with a token, the token's subject instead.
    #[serde(borrow, default)]
    actor: Option<Cow<'a, str>>,
}

/// What every route that sends a command takes besides its substance.
#[derive(Debug, Default)]
pub struct Control<'a> {
    pub command_id: Option<Cow<'a, str>>,
    pub expected_seq: Option<u64>,
    pub metadata: Option<&'a RawValue>,
    pub actor: Option<Cow<'a, str>>,
}

/// A route that sends a command: its request without the body.
#[derive(Debug)]
pub struct Sender {
    api: Api,
    principal: Principal,
    params: Params,
    headers: HeaderMap,
}

impl Sender {
    /// Takes the body off a request. No query parameter but `expected_seq` is known to commands.
    pub async fn take(
        api: Api,
        principal: Principal,
        params: Params,
        request: Request,
    ) -> Result<(Sender, Bytes), Problem> {
        params.only(&["expected_seq"])?;
        let (headers, body) = request::headers_and_json(request).await?;
        Ok((Sender { api, principal, params, headers }, body))
    }

    /// The id of the command.
    pub fn identify(&self, control: &Control<'_>) -> Result<Identity, Problem> {
        let key = request::text(&self.headers, request::IDEMPOTENCY_KEY)?;
        Ok(self.api.commands.identify(control.command_id.as_deref(), key)?)
    }

    /// Sends a command of the bundled domain.
    pub async fn send(self, identity: Identity, control: Control<'_>, bundled: Bundled) -> Result<Response, Problem> {
        self.submit(identity, control, bundled.command_type, bundled.aggregate, bundled.payload).await
    }

    async fn submit(
        self,
        identity: Identity,
        control: Control<'_>,
        command_type: &str,
        aggregate: Aggregate,
        payload: Json,
    ) -> Result<Response, Problem> {
        self.principal.check_aggregate(&aggregate)?;
        let headers = &self.headers;
        let expected_seq = request::expected_seq(&self.params, headers, control.expected_seq)?;
        let wait = request::wait(headers)?;
        let accepted = self
            .api
            .commands
            .submit(Submission {
                identity,
                command_type,
                aggregate,
                expected_seq,
                payload,
                metadata: control.metadata,
                actor: self.principal.subject().or(control.actor.as_deref()),
                correlation_id: request::text(headers, request::CORRELATION_ID)?,
                traceparent: request::text(headers, request::TRACEPARENT)?,
            })
            .await?;
        // In warn mode a known id answers with its own command, whatever was sent under it now.
        self.principal.check_aggregate(&accepted.aggregate)?;
        self.answer(&accepted, wait).await
    }

    async fn answer(&self, accepted: &Accepted, wait: Option<u64>) -> Result<Response, Problem> {
        let mut response = match wait {
            Some(seconds @ 1..) => self.waited(accepted, seconds).await?,
            _ => accepted_response(accepted)?,
        };
        let headers = response.headers_mut();
        if accepted.replayed {
            headers.insert(request::IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        }
        if let Ok(location) = HeaderValue::from_str(&links::status(accepted.command_id)) {
            headers.insert(LOCATION, location);
        }
        Ok(response)
    }

    async fn waited(&self, accepted: &Accepted, seconds: u64) -> Result<Response, Problem> {
        // The command is in the log whatever happens now: a status that cannot be had is no failure of the command.
        let status = final_status(&self.api, accepted.command_id, seconds).await;
        match status {
            Ok(status) if status.is_final() => {
                let mut response = status_response(&status)?;
                applied(&mut response, seconds);
                Ok(response)
            }
            Ok(_) => accepted_response(accepted),
            Err(error) => {
                let command_id = accepted.command_id;
                tracing::warn!(%error, %command_id, "the status of an accepted command is not available");
                accepted_response(accepted)
            }
        }
    }
}

/// The status once it is final, or as it is after the wait, or when the server stops meanwhile.
async fn final_status(api: &Api, command_id: Uuid, seconds: u64) -> Result<Status, query::Error> {
    tokio::select! {
        status = api.queries.final_status(command_id, Duration::from_secs(seconds)) => status,
        () = api.stop.cancelled() => api.queries.status(command_id).await,
    }
}

/// Says that the wait asked for was granted.
pub fn applied(response: &mut Response, seconds: u64) {
    if let Ok(value) = HeaderValue::from_str(&format!("wait={seconds}")) {
        response.headers_mut().insert(request::PREFERENCE_APPLIED, value);
    }
}

fn accepted_response(accepted: &Accepted) -> Result<Response, Problem> {
    let body = AcceptedBody {
        command_id: accepted.command_id,
        status: "PENDING",
        result: CommandResult::of("Command accepted", &accepted.aggregate, accepted.sequence.0),
        consistency_token: Token::Command(accepted.command_id).encode(),
    };
    json(StatusCode::ACCEPTED, &body)
}

fn status_response(status: &Status) -> Result<Response, Problem> {
    json(StatusCode::OK, &StatusBody::from(status))
}

/// A JSON answer.
pub fn json<T: serde::Serialize>(status: StatusCode, body: &T) -> Result<Response, Problem> {
    let bytes = serde_json::to_vec(body).map_err(|error| Problem::internal("unserialisable_answer", &error))?;
    Ok((status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response())
}

/// Sends any command that a loaded handler takes.
#[utoipa::path(
    post, path = "/api/v1/commands", tag = "commands",
    params(
        ("expected_seq" = Option<u64>, Query, description = "as in the body"),
        ("Idempotency-Key" = Option<String>, Header, description = "a UUID is the command id; 1 to 255 characters"),
        ("If-Match" = Option<String>, Header, description = "expected_seq in quotes"),
        ("Prefer" = Option<String>, Header, description = "wait=N: answer 200 with the final status when done in time"),
    ),
    request_body(content = CommandBody<'_>, content_type = "application/json"),
    responses(
        (status = 202, description = "in the log", body = AcceptedBody<'_>),
        (status = 200, description = "waited for: the final status", body = StatusBody<'_>),
        (status = 400, description = "not valid", body = ProblemBody),
        (status = 409, description = "not at the expected sequence", body = ProblemBody),
        (status = 413, description = "too large", body = ProblemBody),
        (status = 422, description = "the id belongs to another command", body = ProblemBody),
        (status = 503, description = "overloaded, or outcome_unknown", body = ProblemBody),
    )
)]
pub async fn send(
    State(api): State<Api>,
    principal: Principal,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    let (sender, body) = Sender::take(api, principal, params, request).await?;
    let body: CommandBody<'_> = request::parse(&body)?;
    let aggregate = Aggregate::parse(&body.aggregate_type, &body.aggregate_id)?;
    let control = Control {
        command_id: body.command_id,
        expected_seq: body.expected_seq,
        metadata: body.metadata,
        actor: body.actor,
    };
    let identity = sender.identify(&control)?;
    let payload = Json::parse(body.payload.get().as_bytes()).map_err(|mut error| {
        error.pointer.insert_str(0, "/payload");
        command::Error::Json(error)
    })?;
    sender.submit(identity, control, &body.command_type, aggregate, payload).await
}

/// Status of a command.
#[utoipa::path(
    get, path = "/api/v1/commands/{command_id}/status", tag = "commands",
    params(
        ("command_id" = String, Path, description = "id of the command"),
        ("Prefer" = Option<String>, Header, description = "wait=N: answer when it is final, or after N seconds"),
    ),
    responses(
        (status = 200, description = "the status", body = StatusBody<'_>),
        (status = 404, description = "no such command", body = ProblemBody),
    )
)]
pub async fn status(
    State(api): State<Api>,
    principal: Principal,
    InPath(command_id): InPath<String>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let command_id = command::command_id(&command_id)?;
    let wait = request::wait(&headers)?.filter(|seconds| *seconds > 0);
    let status = match wait {
        Some(seconds) => final_status(&api, command_id, seconds).await?,
        None => api.queries.status(command_id).await?,
    };
    principal.check_aggregate(&status.aggregate)?;
    let mut response = status_response(&status)?;
    if let Some(seconds) = wait.filter(|_| status.is_final()) {
        applied(&mut response, seconds);
    }
    Ok(response)
}
