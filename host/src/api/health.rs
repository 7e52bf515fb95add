//! Liveness, readiness and metrics: what every process serves, whatever its roles. Readiness speaks of this process
//! alone; it never waits for others.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use utoipa::ToSchema;

use super::commands::json;
use super::problem::Problem;
use crate::metrics::Metrics;

/// State of one part of the process.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Part {
    pub name: String,
    pub ready: bool,
    /// What it does, or what it lacks; no secrets and no paths.
    pub detail: String,
}

type Probe = Arc<dyn Fn() -> Vec<Part> + Send + Sync>;

/// What the probes answer from. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    probe: Probe,
    metrics: Metrics,
}

impl Health {
    /// `probe` gives the state of each part now; it must not block.
    pub fn new(metrics: Metrics, probe: impl Fn() -> Vec<Part> + Send + Sync + 'static) -> Health {
        Health { probe: Arc::new(probe), metrics }
    }

    /// The three routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/health", get(health))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Health")
    }
}

/// Answer of `/health`.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthBody {
    /// `ok`.
    pub status: &'static str,
    pub version: &'static str,
}

/// Answer of `/ready`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReadyBody {
    pub ready: bool,
    pub parts: Vec<Part>,
}

/// The process lives.
#[utoipa::path(get, path = "/health", tag = "probes", responses((status = 200, body = HealthBody)))]
pub async fn health() -> Result<Response, Problem> {
    json(StatusCode::OK, &HealthBody { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// The process can serve its roles.
#[utoipa::path(
    get, path = "/ready", tag = "probes",
    responses(
        (status = 200, body = ReadyBody),
        (status = 503, description = "not yet, or not any more", body = ReadyBody),
    )
)]
pub async fn ready(State(health): State<Health>) -> Result<Response, Problem> {
    let parts = (health.probe)();
    let ready = parts.iter().all(|part| part.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = json(status, &ReadyBody { ready, parts })?;
    if !ready {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Ok(response)
}

/// Metrics in the Prometheus text format.
#[utoipa::path(
    get, path = "/metrics", tag = "probes",
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub async fn metrics(State(health): State<Health>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], health.metrics.render()).into_response()
}
