//! `/admin/v1/handlers`: upload, list, activate, roll back. The gate in front has seen to the role operator. Bodies of
//! uploads are taken only while few others are under way: each is a whole component in memory (I10).

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::commands::json;
use super::dto::ProblemBody;
use super::problem::Problem;
use super::read::InPath;
use super::request::{self, Params};
use super::{Api, Principal};
use crate::deploy::check::Ask;
use crate::deploy::fold::{Deployment, Entry, Version};
use crate::deploy::record::Finding;
use crate::deploy::{Activation, Deployments, Error, Upload};
use crate::domain::{Digest, Timestamp};
use crate::error::{Classified, Kind};
use crate::query::PAGE_MAX;

/// Greatest component that is read: what the sandbox takes by default.
pub const COMPONENT_BYTES_MAX: usize = 32 << 20;

/// One version of a handler.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionBody {
    /// SHA-256 of the component, 64 hex digits.
    #[schema(value_type = String)]
    digest: Digest,
    version: String,
    world: String,
    /// `uploaded`, `verified`, `active` or `retired`.
    state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    uploaded_at: Timestamp,
    /// Who uploaded it.
    by: String,
    bytes: u64,
    /// What spoke against its activation when it was uploaded.
    #[schema(value_type = Vec<Object>)]
    findings: Vec<Finding>,
}

/// One handler.
#[derive(Debug, Serialize, ToSchema)]
pub struct HandlerBody {
    name: String,
    /// Digest of the version in charge.
    #[schema(value_type = Option<String>)]
    active: Option<Digest>,
    /// How many activations there were.
    revision: u64,
    versions: Vec<VersionBody>,
    /// Why the active version does not serve in this process; absent when it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_serving: Option<String>,
}

/// Handlers, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct HandlersBody {
    handlers: Vec<HandlerBody>,
    /// For `after`, when there are more.
    next: Option<String>,
}

/// Who did what, when and why.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryBody {
    sequence_number: u64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    actor: String,
    /// `HANDLER_UPLOADED`, `HANDLER_VERIFIED`, `HANDLER_ACTIVATED`, `HANDLER_REBUILD_ASKED`.
    event_type: String,
    #[schema(value_type = Option<String>)]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// Whether it went ahead without a green verification report.
    #[serde(skip_serializing_if = "Option::is_none")]
    forced: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    previous: Option<Digest>,
    /// Why the entry has no effect, when this host does not understand it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ignored: Option<String>,
}

/// One handler with its history, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct HandlerHistoryBody {
    #[serde(flatten)]
    handler: HandlerBody,
    history: Vec<HistoryBody>,
    /// For `after`, when the history goes on.
    next: Option<String>,
}

/// A stored version. It serves nothing before it is activated.
#[derive(Debug, Serialize, ToSchema)]
pub struct UploadBody {
    name: String,
    version: String,
    #[schema(value_type = String)]
    digest: Digest,
    world: String,
    /// `uploaded`; for bytes that were uploaded before, what has become of them since.
    state: &'static str,
    /// What speaks against its activation.
    #[schema(value_type = Vec<Object>)]
    findings: Vec<Finding>,
}

/// A version in charge.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActivationBody {
    name: String,
    #[schema(value_type = String)]
    active: Digest,
    revision: u64,
    #[schema(value_type = Option<String>)]
    previous: Option<Digest>,
    /// `false` when it was in charge already.
    changed: bool,
}

/// How to activate or roll back; may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivateBody {
    /// Go ahead only when the handler is at this revision.
    if_revision: Option<u64>,
    /// Go ahead without a green verification report.
    #[serde(default)]
    force: Option<bool>,
    /// For the history.
    reason: Option<String>,
}

/// Why a projection is to be written anew; may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RebuildBody {
    /// For the history.
    reason: Option<String>,
}

/// What is written anew.
#[derive(Debug, Serialize, ToSchema)]
pub struct RebuildingBody {
    name: String,
    /// The build; its consumers have what follows `@` in their names.
    build: String,
    /// The version that writes it.
    #[schema(value_type = String)]
    digest: Digest,
}

/// Stores a component, the body, after judging it. Never activates.
#[utoipa::path(
    post, path = "/admin/v1/handlers", tag = "handlers", security(("operator" = [])),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses(
        (status = 201, body = UploadBody), (status = 200, description = "the same bytes again", body = UploadBody),
        (status = 413, body = ProblemBody), (status = 422, description = "refused", body = ProblemBody)
    )
)]
pub async fn upload_handler(
    State(api): State<Api>,
    principal: Principal,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let (parts, body) = request.into_parts();
    check_wasm(&parts.headers)?;
    let _place = api.deployments.admit()?;
    let bytes = request::read(body, COMPONENT_BYTES_MAX).await?;
    let Upload { created, name, version, state } = api.deployments.upload(bytes, principal.actor()).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let location = format!("/admin/v1/handlers/{name}");
    let Version { digest, version, world, findings, .. } = version;
    let mut response = json(status, &UploadBody { name, version, digest, world, state: state.as_str(), findings })?;
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Lists handlers with their versions.
#[utoipa::path(
    get, path = "/admin/v1/handlers", tag = "handlers", security(("operator" = [])),
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = HandlersBody))
)]
pub async fn list_handlers(State(api): State<Api>, params: Params) -> Result<Response, Problem> {
    params.only(&["limit", "after"])?;
    let limit = params.limit()?;
    let after = params.one("after")?.unwrap_or_default();
    let all = api.deployments.list().await?;
    let mut rest = all.values().filter(|deployment| deployment.name.as_str() > after);
    let handlers: Vec<_> = rest.by_ref().take(limit).map(|d| handler_body(d, &api.deployments)).collect();
    let next = rest.next().and(handlers.last()).map(|last| last.name.clone());
    json(StatusCode::OK, &HandlersBody { handlers, next })
}

/// One handler: what is in charge, every version and its state, who did what.
#[utoipa::path(
    get, path = "/admin/v1/handlers/{name}", tag = "handlers", security(("operator" = [])),
    params(("name" = String, Path), ("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, body = HandlerHistoryBody), (status = 404, body = ProblemBody))
)]
pub async fn get_handler(
    State(api): State<Api>,
    InPath(name): InPath<String>,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&["limit", "after"])?;
    let limit = params.limit()?;
    let after = params.number("after")?.unwrap_or_default();
    let deployment = api.deployments.get(&name).await?;
    let mut rest = deployment.history.iter().filter(|entry| entry.sequence.0 > after);
    let history: Vec<_> = rest.by_ref().take(limit).map(history_body).collect();
    let next = rest.next().and(history.last()).map(|last| last.sequence_number.to_string());
    let handler = handler_body(&deployment, &api.deployments);
    json(StatusCode::OK, &HandlerHistoryBody { handler, history, next })
}

/// Puts a version in charge.
#[utoipa::path(
    post, path = "/admin/v1/handlers/{name}/versions/{digest}/activate", tag = "handlers", security(("operator" = [])),
    params(("name" = String, Path), ("digest" = String, Path)), request_body = ActivateBody,
    responses(
        (status = 200, body = ActivationBody), (status = 404, body = ProblemBody),
        (status = 409, description = "another revision", body = ProblemBody),
        (status = 422, description = "not verified, or it does not fit what is active", body = ProblemBody)
    )
)]
pub async fn activate_handler(
    State(api): State<Api>,
    principal: Principal,
    InPath((name, digest)): InPath<(String, String)>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let digest: Digest =
        digest.parse().map_err(|error| request::parameter("digest", format!("{error}; it is what the upload gave")))?;
    let ask = ask(request).await?;
    activation(api.deployments.activate(&name, digest, ask, principal.actor()).await?)
}

/// Puts the version in charge that was so before the present one.
#[utoipa::path(
    post, path = "/admin/v1/handlers/{name}/rollback", tag = "handlers", security(("operator" = [])),
    params(("name" = String, Path)), request_body = ActivateBody,
    responses(
        (status = 200, body = ActivationBody), (status = 404, body = ProblemBody),
        (status = 409, description = "another revision, or nothing to go back to", body = ProblemBody)
    )
)]
pub async fn roll_back_handler(
    State(api): State<Api>,
    principal: Principal,
    InPath(name): InPath<String>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let ask = ask(request).await?;
    activation(api.deployments.rollback(&name, ask, principal.actor()).await?)
}

/// Has everything that a projection writes written anew, while readers see what is there.
#[utoipa::path(
    post, path = "/admin/v1/handlers/{name}/rebuild", tag = "handlers", security(("operator" = [])),
    params(("name" = String, Path)), request_body = RebuildBody,
    responses(
        (status = 202, body = RebuildingBody), (status = 404, body = ProblemBody),
        (status = 409, description = "no active projection", body = ProblemBody)
    )
)]
pub async fn rebuild_projection(
    State(api): State<Api>,
    principal: Principal,
    InPath(name): InPath<String>,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let RebuildBody { reason } = body_or_default(request).await?;
    let build = api.deployments.rebuild(&name, reason, principal.actor()).await?;
    json(StatusCode::ACCEPTED, &RebuildingBody { name, build: build.name, digest: build.digest })
}

/// A body that may be left out.
async fn body_or_default<T: Default + DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let body = request::json_body(request).await?;
    if body.is_empty() { Ok(T::default()) } else { request::parse(&body) }
}

async fn ask(request: Request) -> Result<Ask, Problem> {
    let body: ActivateBody = body_or_default(request).await?;
    Ok(Ask { if_revision: body.if_revision, force: body.force.unwrap_or(false), reason: body.reason })
}

fn activation(done: Activation) -> Result<Response, Problem> {
    let Activation { name, digest: active, revision, previous, changed } = done;
    json(StatusCode::OK, &ActivationBody { name, active, revision, previous, changed })
}

/// A component is sent as what it is, or as bytes, or without a word.
fn check_wasm(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let known = ["application/wasm", "application/octet-stream"];
    if known.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "The content type is not known",
        "send the component with `Content-Type: application/wasm`",
    ))
}

/// With the newest versions, as many as a page may have.
fn handler_body(deployment: &Deployment, deployments: &Deployments) -> HandlerBody {
    let skipped = deployment.versions.len().saturating_sub(PAGE_MAX);
    let version_body = |version: &Version| VersionBody {
        digest: version.digest,
        version: version.version.clone(),
        world: version.world.clone(),
        state: deployment.state(version.digest).map_or("uploaded", |state| state.as_str()),
        uploaded_at: version.uploaded_at,
        by: version.by.clone(),
        bytes: version.bytes,
        findings: version.findings.clone(),
    };
    HandlerBody {
        name: deployment.name.clone(),
        active: deployment.active,
        revision: deployment.revision,
        versions: deployment.versions.iter().skip(skipped).map(version_body).collect(),
        not_serving: deployments.trouble().remove(&deployment.name).map(|trouble| trouble.reason),
    }
}

fn history_body(entry: &Entry) -> HistoryBody {
    HistoryBody {
        sequence_number: entry.sequence.0,
        at: entry.at,
        actor: entry.actor.clone(),
        event_type: entry.event_type.clone(),
        digest: entry.digest,
        revision: entry.revision,
        forced: entry.forced,
        reason: entry.reason.clone(),
        previous: entry.previous,
        ignored: entry.ignored.clone(),
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let refused = |title| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.code(), title, error.to_string());
        if let Some(max) = error.over_bytes_max() {
            return Problem::too_large(error.to_string()).with("max_bytes", max);
        }
        match &error {
            Error::Component(_) if error.kind() == Kind::Rejected => {
                let problem = refused("The component is refused");
                match error.culprit() {
                    Some((what, name)) => problem.with(what, name),
                    None => problem,
                }
            }
            Error::Contract { .. } => refused("The component is refused").with("findings", findings(&error)),
            Error::Incompatible { .. } => refused("The version does not fit").with("findings", findings(&error)),
            Error::NotVerified { .. } => refused("The version is not verified"),
            Error::Revision { expected, actual, .. } => {
                Problem::new(StatusCode::CONFLICT, error.code(), "Another revision", error.to_string())
                    .with("expected_revision", *expected)
                    .with("actual_revision", *actual)
            }
            Error::Busy { .. } | Error::Contended { .. } => {
                Problem::unavailable(error.code(), "Too much is under way", error.to_string())
            }
            // The operator can repair this one.
            Error::DamagedComponent { .. } | Error::Reload { .. } => Problem::new(
                StatusCode::CONFLICT,
                error.code(),
                "The stored component cannot be used",
                error.to_string(),
            ),
            _ => Problem::of(&error),
        }
    }
}

fn findings(error: &Error) -> serde_json::Value {
    serde_json::json!(error.findings())
}
