//! Errors as RFC 9457 `application/problem+json`: stable `type` and `code`, whether a retry helps, and what to do. The
//! one place that turns a kind of failure into an HTTP status. Never tells a stack, a path or a secret: what only the
//! operator may know goes to the log.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::request::IDEMPOTENCY_KEY;
use crate::domain::{IdError, Partition, Position};
use crate::error::{Classified, Kind};
use crate::query::Wanted;
use crate::{command, query};

/// Before the code in `type`.
const TYPE_PREFIX: &str = "urn:carryall:problem:";
/// Seconds after which a retry is worth it when a part is away or overloaded.
const RETRY_AFTER_SECONDS: &str = "1";

/// An error answer. Boxed: it is the error of nearly every function here, and rarely made.
#[derive(Debug)]
pub struct Problem(Box<Fields>);

#[derive(Debug)]
struct Fields {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    retryable: bool,
    members: Map<String, Value>,
    headers: HeaderMap,
}

impl Problem {
    /// A problem that no retry helps.
    pub fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem(Box::new(Fields {
            status,
            code,
            title,
            detail: detail.into(),
            retryable: false,
            members: Map::new(),
            headers: HeaderMap::new(),
        }))
    }

    /// 400: something in the request is wrong.
    pub fn invalid(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, code, "The request is not valid", detail)
    }

    /// 404.
    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, code, "There is no such thing", detail)
    }

    /// 413: a body is over a limit.
    pub fn too_large(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request is too large", detail)
    }

    /// 503 with `Retry-After`.
    pub fn unavailable(code: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, title, detail).retry()
    }

    /// 500: the client gets no detail, the log does.
    pub fn internal(code: &'static str, error: &dyn std::error::Error) -> Problem {
        tracing::error!(code, error = %Chain(error), "a request failed");
        let detail = "the host met a fault of its own; its log has the details, tell its operator";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, code, "Internal fault", detail)
    }

    /// Adds a member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header; one that cannot be sent is left out.
    pub fn header(mut self, name: HeaderName, value: &str) -> Problem {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.insert(name, value);
        }
        self
    }

    fn retry(mut self) -> Problem {
        self.0.retryable = true;
        self.header(RETRY_AFTER, RETRY_AFTER_SECONDS)
    }

    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Any classified error, when nothing more is to be said than its words.
    pub fn of(error: &(impl Classified + 'static)) -> Problem {
        let (code, detail) = (error.code(), error.to_string());
        match error.kind() {
            Kind::Rejected => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, "Refused", detail),
            Kind::Conflict => Problem::new(StatusCode::CONFLICT, code, "The state does not allow it", detail),
            Kind::Invalid => Problem::invalid(code, detail),
            Kind::NotFound => Problem::not_found(code, detail),
            Kind::Unknown => Problem::unavailable(code, "The outcome is not known yet", detail),
            Kind::Unavailable => {
                tracing::warn!(code, error = %Chain(error), "a part is not available");
                Problem::unavailable(code, "A part of the host is not available", "try again later")
            }
            Kind::Poison | Kind::Corrupt | Kind::Bug => Problem::internal(code, error),
        }
    }

    /// The body.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "type": format!("{TYPE_PREFIX}{}", self.0.code),
            "title": self.0.title,
            "status": self.0.status.as_u16(),
            "detail": self.0.detail,
            "code": self.0.code,
            "retryable": self.0.retryable,
        });
        if let Value::Object(fields) = &mut body {
            fields.extend(self.0.members.clone());
        }
        body
    }
}

/// An error and what caused it, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.0.status, Json(self.body())).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.headers_mut().extend(self.0.headers);
        response
    }
}

impl From<IdError> for Problem {
    fn from(error: IdError) -> Problem {
        Problem::invalid("invalid_identifier", error.to_string()).with("field", error.what)
    }
}

impl From<command::Error> for Problem {
    fn from(error: command::Error) -> Problem {
        use command::Error;
        match &error {
            Error::Field { field, .. } => Problem::of(&error).with("field", *field),
            Error::Id(id) => id.clone().into(),
            Error::Json(json) => Problem::of(&error).with("pointer", json.pointer.as_str()),
            Error::Conflict { aggregate, expected, actual } => {
                let title = "The aggregate is not at the expected sequence";
                let advice = match expected {
                    Some(_) => "read the aggregate again, then send the command with the sequence it is at",
                    None => "send expected_seq (query, body or If-Match): the sequence your change is based on",
                };
                Problem::new(StatusCode::CONFLICT, error.code(), title, format!("{error}; {advice}"))
                    .with("error", "optimistic_concurrency_conflict")
                    .with("aggregate_type", aggregate.kind.as_str())
                    .with("aggregate_id", aggregate.id.as_str())
                    .with("expected_seq", *expected)
                    .with("actual_seq", *actual)
            }
            Error::Mismatch { command_id } => {
                let title = "The id belongs to another command";
                let detail = format!("{error}; nothing was written: send a new command under a new id");
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.code(), title, detail)
                    .with("command_id", command_id.to_string())
            }
            Error::TooLarge { max, .. } => Problem::too_large(error.to_string()).with("max_bytes", *max),
            Error::Busy => Problem::unavailable(error.code(), "Too much waits already", error.to_string()),
            Error::Unknown { command_id } => {
                let id = command_id.to_string();
                Problem::of(&error)
                    .retry()
                    .header(LOCATION, &super::links::status(*command_id))
                    .header(IDEMPOTENCY_KEY, &id)
                    .with("command_id", id)
            }
            _ => Problem::of(&error),
        }
    }
}

impl From<query::Error> for Problem {
    fn from(error: query::Error) -> Problem {
        use query::Error;
        match &error {
            Error::Parameter { name, .. } => Problem::of(&error).with("field", *name),
            Error::Id(id) => id.clone().into(),
            Error::Behind { wanted, reached } => {
                let problem = Problem::unavailable(error.code(), "The projection is behind", error.to_string())
                    .with("projection_position", positions(reached));
                match wanted {
                    Wanted::Outcome(id) => {
                        problem.with("wanted_outcome_of", id.to_string()).with("wanted_position", Value::Null)
                    }
                    Wanted::Positions(places) => problem.with("wanted_position", positions(places)),
                }
            }
            _ => Problem::of(&error),
        }
    }
}

/// Positions by partition, as members of an object.
pub fn positions(places: &[(Partition, Position)]) -> Value {
    places.iter().map(|(partition, position)| (partition.to_string(), json!(position.0))).collect::<Map<_, _>>().into()
}
