//! What every read does: waits for what its consistency token means, and tells in headers how far the projection is.

use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::Api;
use super::commands::applied;
use super::problem::Problem;
use super::request;
use crate::port::read_model::Document;
use crate::query::{Freshness, Source};

/// Position of the projection that a read was served from: `partition=position`, separated by commas.
pub const PROJECTION_POSITION: HeaderName = HeaderName::from_static("projection-position");
/// When the last event that this projection handled was recorded.
pub const PROJECTION_TIME: HeaderName = HeaderName::from_static("projection-time");

/// A read under way.
#[derive(Debug)]
pub struct Read {
    freshness: Freshness,
    waited: Option<u64>,
}

impl Read {
    /// Waits as the request asks. Taken before the read model is asked: the headers never promise too much.
    pub async fn begin(api: &Api, source: Source<'_>, headers: &HeaderMap) -> Result<Read, Problem> {
        let token = request::consistency(headers)?;
        let asked = request::wait(headers)?;
        let wait = asked.map_or(request::WAIT_DEFAULT, Duration::from_secs);
        tokio::select! {
            reached = api.queries.consistent(source, token.as_ref(), wait, api.deployments.learn()) => reached?,
            // The server stops: who would have waited is told how far it is.
            () = api.stop.cancelled() => {
                api.queries.consistent(source, token.as_ref(), Duration::ZERO, api.deployments.learn()).await?;
            }
        }
        Ok(Read { freshness: api.queries.freshness(source), waited: asked.filter(|_| token.is_some()) })
    }

    /// Adds the headers.
    pub fn finish(self, mut response: Response) -> Response {
        let places: Vec<String> = self.freshness.positions.iter().map(|(p, at)| format!("{p}={at}")).collect();
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&places.join(",")) {
            headers.insert(PROJECTION_POSITION, value);
        }
        if let Some(value) = self.freshness.at.and_then(|at| HeaderValue::from_str(&at.to_string()).ok()) {
            headers.insert(PROJECTION_TIME, value);
        }
        if let Some(seconds) = self.waited {
            applied(&mut response, seconds);
        }
        response
    }
}

/// A document as it was projected; its version is the `ETag`.
pub fn document(document: &Document) -> Result<Response, Problem> {
    let mut response = raw(document.body.get().to_owned());
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", document.version)) {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

/// A JSON text as it is.
pub fn raw(body: impl Into<axum::body::Body>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.into()).into_response()
}

/// Parts of the address, decoded.
#[derive(Debug)]
pub struct InPath<T>(pub T);

impl<S: Sync + Send, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<InPath<T>, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(InPath(value)),
            Err(_) => Err(Problem::invalid("invalid_path", "the address is no UTF-8 text")),
        }
    }
}
