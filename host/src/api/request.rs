//! What routes take out of a request: parameters, headers, bodies. Strict: what is not known is refused, so that a
//! misspelt `expected_seq` never becomes a blind write. Every size and time is bounded (I10).

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Query, Request};
use axum::http::header::{CONTENT_TYPE, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::problem::Problem;
use crate::query::{PAGE_DEFAULT, PAGE_MAX, Token};

/// Makes a retry safe.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Tells that the answer is the first one again.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// A token that a command or status answered with.
pub const CONSISTENCY_TOKEN: HeaderName = HeaderName::from_static("consistency-token");
/// Correlates what belongs together, as the client sees it.
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// RFC 7240.
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
/// RFC 7240.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Greatest wait that `Prefer: wait=N` gets; a greater one is treated as this.
pub const WAIT_SECONDS_MAX: u64 = 60;
/// Wait of a read that brings a consistency token and says nothing: long enough for a projection that keeps up.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(1);
/// Greatest size of a JSON body: an envelope, and what whitespace and names the envelope does not keep.
pub const JSON_BYTES_MAX: usize = 1024 * 1024;
/// A body must be here after so long.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Query parameters, decoded, in order.
#[derive(Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Params, Problem> {
        match Query::<Vec<(String, String)>>::try_from_uri(&parts.uri) {
            Ok(Query(pairs)) => Ok(Params(pairs)),
            Err(_) => Err(Problem::invalid("invalid_parameter", "the query string is malformed")),
        }
    }
}

impl Params {
    /// Refuses parameters that the route does not know.
    pub fn only(&self, known: &[&str]) -> Result<(), Problem> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(80).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(parameter(&name, format!("this route knows no such parameter (known: {known})")))
            }
        }
    }

    /// The value of a parameter that may occur once.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = values.next();
        match values.next() {
            Some(_) => Err(parameter(name, "it may occur only once")),
            None => Ok(first),
        }
    }

    /// The values of a parameter that may occur many times.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.one(name)?.map(|text| number(name, text)).transpose()
    }

    /// Size of a page.
    pub fn limit(&self) -> Result<usize, Problem> {
        match self.number("limit")?.map(usize::try_from) {
            None => Ok(PAGE_DEFAULT),
            Some(Ok(limit)) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
            Some(_) => Err(parameter("limit", format!("it must be from 1 to {PAGE_MAX}"))),
        }
    }
}

/// 400 about one parameter.
pub fn parameter(name: &str, reason: impl std::fmt::Display) -> Problem {
    Problem::invalid("invalid_parameter", format!("{name}: {reason}")).with("field", name)
}

fn number(name: &str, text: &str) -> Result<u64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().ok_or_else(|| parameter(name, "it must be a whole number"))
}

/// The text of a header; refused when it is no UTF-8 or occurs twice.
pub fn text(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(&name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(parameter(name.as_str(), "the header may occur only once"));
    }
    match std::str::from_utf8(first.as_bytes()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(parameter(name.as_str(), "the header is no UTF-8 text")),
    }
}

/// Which sequence the sender bases a change on: query, body and `If-Match` must say the same.
pub fn expected_seq(params: &Params, headers: &HeaderMap, body: Option<u64>) -> Result<Option<u64>, Problem> {
    let query = params.number("expected_seq")?;
    let matched = text(headers, IF_MATCH)?.map(if_match).transpose()?;
    let mut given = [query, matched, body].into_iter().flatten();
    let first = given.next();
    if given.any(|other| Some(other) != first) {
        return Err(Problem::invalid(
            "contradicting_request",
            "expected_seq, If-Match and the body's expected_seq disagree; send one of them",
        ));
    }
    Ok(first)
}

fn if_match(value: &str) -> Result<u64, Problem> {
    let tag = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    tag.and_then(|tag| number("If-Match", tag).ok())
        .ok_or_else(|| parameter("If-Match", "it must be a sequence number in quotes, such as \"3\""))
}

/// How long the caller would wait (`Prefer: wait=N`, in seconds).
pub fn wait(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    for value in headers.get_all(PREFER) {
        let Ok(value) = value.to_str() else { continue };
        for preference in value.split(',') {
            // Parameters of a preference follow a semicolon; none means anything here.
            let preference = preference.split(';').next().unwrap_or_default();
            let Some((name, seconds)) = preference.split_once('=') else { continue };
            if name.trim().eq_ignore_ascii_case("wait") {
                let seconds = number("Prefer", seconds.trim().trim_matches('"'))
                    .map_err(|_| parameter("Prefer", "wait must be a whole number of seconds"))?;
                return Ok(Some(seconds.min(WAIT_SECONDS_MAX)));
            }
        }
    }
    Ok(None)
}

/// The token a read brings.
pub fn consistency(headers: &HeaderMap) -> Result<Option<Token>, Problem> {
    Ok(text(headers, CONSISTENCY_TOKEN)?.map(Token::decode).transpose()?)
}

/// A whole body of JSON, unread. Empty when there is none.
pub async fn json_body(request: Request) -> Result<Bytes, Problem> {
    Ok(headers_and_json(request).await?.1)
}

/// As [`json_body`], with the request's headers.
pub async fn headers_and_json(request: Request) -> Result<(HeaderMap, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let bytes = read(body, JSON_BYTES_MAX).await?;
    if !bytes.is_empty() {
        check_json(&parts.headers)?;
    }
    Ok((parts.headers, bytes))
}

/// Reads a body up to a size and a time.
pub async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let limited = Limited::new(body, bytes_max);
    match tokio::time::timeout(BODY_TIMEOUT, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::too_large(format!("the body is over {bytes_max} bytes")).with("max_bytes", bytes_max))
        }
        Ok(Err(_)) => Err(Problem::invalid("incomplete_body", "the body ended early")),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "The body came too slowly",
            format!("the body was not complete after {} s", BODY_TIMEOUT.as_secs()),
        )),
    }
}

/// A body without a content type is taken as JSON; another type is refused.
fn check_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "The content type is not known",
        "send JSON with `Content-Type: application/json`",
    ))
}

/// Reads a body's members; says which is wrong.
pub fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { "invalid_body" } else { "invalid_json" };
        Problem::invalid(code, format!("the body is not as expected: {error}"))
    })
}
