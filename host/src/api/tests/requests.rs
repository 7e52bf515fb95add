//! Parameters, headers and bodies; problems.
#![allow(clippy::unwrap_used)]

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request};
use axum::http::header::{CONTENT_TYPE, IF_MATCH, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use serde_json::Value;
use uuid::Uuid;

use crate::api::Problem;
use crate::api::request::{self, JSON_BYTES_MAX, PREFER, Params};
use crate::command;
use crate::domain::Aggregate;

async fn params(query: &str) -> Result<Params, Problem> {
    let request = Request::builder().uri(format!("/x?{query}")).body(()).unwrap();
    Params::from_request_parts(&mut request.into_parts().0, &()).await
}

fn headers(pairs: &[(axum::http::HeaderName, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
}

#[tokio::test]
async fn unknown_and_repeated_parameters_are_refused() {
    let given = params("expected_sequence=1").await.unwrap();
    assert!(given.only(&["expected_seq"]).is_err());
    assert!(given.only(&["expected_sequence"]).is_ok());
    let twice = params("limit=1&limit=2").await.unwrap();
    assert!(twice.limit().is_err());
    let filters = params("filter=a%3D1&filter=b%3C%3D2").await.unwrap();
    assert_eq!(filters.all("filter").collect::<Vec<_>>(), ["a=1", "b<=2"]);
}

#[tokio::test]
async fn pages_have_a_default_and_a_bound() {
    assert_eq!(params("").await.unwrap().limit().unwrap(), 100);
    assert_eq!(params("limit=1000").await.unwrap().limit().unwrap(), 1_000);
    for query in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit="] {
        assert!(params(query).await.unwrap().limit().is_err(), "{query}");
    }
}

#[tokio::test]
async fn the_expected_sequence_is_said_once_or_alike() {
    let none = params("").await.unwrap();
    let three = params("expected_seq=3").await.unwrap();
    let tag = headers(&[(IF_MATCH, "\"3\"")]);
    let nothing = HeaderMap::new();
    assert_eq!(request::expected_seq(&none, &nothing, None).unwrap(), None);
    assert_eq!(request::expected_seq(&three, &nothing, None).unwrap(), Some(3));
    assert_eq!(request::expected_seq(&none, &tag, None).unwrap(), Some(3));
    assert_eq!(request::expected_seq(&three, &tag, Some(3)).unwrap(), Some(3));
    assert!(request::expected_seq(&three, &tag, Some(4)).is_err());
    assert!(request::expected_seq(&none, &tag, Some(4)).is_err());
    for bad in ["3", "*", "W/\"3\"", "\"x\"", "\"3\", \"4\""] {
        assert!(request::expected_seq(&none, &headers(&[(IF_MATCH, bad)]), None).is_err(), "{bad}");
    }
}

#[test]
fn a_wait_is_read_wherever_it_stands_and_bounded() {
    for (value, want) in [
        ("wait=5", Some(5)),
        ("respond-async, wait=5", Some(5)),
        ("Wait=\"5\"; x=1", Some(5)),
        ("wait=100000", Some(60)),
        ("respond-async", None),
        ("wait=0", Some(0)),
    ] {
        assert_eq!(request::wait(&headers(&[(PREFER, value)])).unwrap(), want, "{value}");
    }
    assert!(request::wait(&headers(&[(PREFER, "wait=soon")])).is_err());
}

async fn body(kind: Option<&str>, bytes: usize) -> Result<usize, StatusCode> {
    let mut request = Request::builder();
    if let Some(kind) = kind {
        request = request.header(CONTENT_TYPE, kind);
    }
    let request = request.body(Body::from(vec![b' '; bytes])).unwrap();
    request::json_body(request).await.map(|bytes| bytes.len()).map_err(|problem| problem.status())
}

#[tokio::test]
async fn bodies_are_json_of_a_bounded_size() {
    assert_eq!(body(Some("application/json; charset=utf-8"), 3).await, Ok(3));
    assert_eq!(body(Some("application/merge-patch+json"), 3).await, Ok(3));
    assert_eq!(body(None, 3).await, Ok(3));
    assert_eq!(body(Some("text/plain"), 0).await, Ok(0));
    for kind in ["text/plain", "application/x-www-form-urlencoded", "text/json+xml"] {
        assert_eq!(body(Some(kind), 3).await, Err(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{kind}");
    }
    assert_eq!(body(None, JSON_BYTES_MAX).await, Ok(JSON_BYTES_MAX));
    assert_eq!(body(None, JSON_BYTES_MAX + 1).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
}

async fn answer(problem: impl Into<Problem>) -> (StatusCode, HeaderMap, Value) {
    let response = problem.into().into_response();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn a_conflict_tells_where_the_aggregate_is() {
    let aggregate = Aggregate::parse("Instance", "shop:Product:p1").unwrap();
    let (status, headers, body) = answer(command::Error::Conflict { aggregate, expected: None, actual: 4 }).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
    assert_eq!(body["error"], "optimistic_concurrency_conflict");
    assert_eq!(body["code"], "optimistic_concurrency_conflict");
    assert_eq!(body["type"], "urn:carryall:problem:optimistic_concurrency_conflict");
    assert_eq!((&body["expected_seq"], &body["actual_seq"]), (&Value::Null, &Value::from(4)));
    assert_eq!((&body["aggregate_id"], &body["status"]), (&Value::from("shop:Product:p1"), &Value::from(409)));
    assert_eq!(body["retryable"], false);
}

#[tokio::test]
async fn an_unknown_outcome_says_under_which_id_to_ask_again() {
    let command_id = Uuid::from_u128(7);
    let (status, headers, body) = answer(command::Error::Unknown { command_id }).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["code"], "outcome_unknown");
    assert_eq!(body["command_id"], command_id.to_string());
    assert_eq!(headers[LOCATION], format!("/api/v1/commands/{command_id}/status"));
    assert_eq!(headers[request::IDEMPOTENCY_KEY], command_id.to_string());
    assert!(headers.contains_key(RETRY_AFTER));
    assert_eq!(body["retryable"], true);
}

#[tokio::test]
async fn faults_of_the_host_tell_no_detail() {
    let secret = crate::port::Error::Corrupt { what: "the database", reason: "row 17 of /var/lib".into() };
    let (status, _, body) = answer(command::Error::Port(secret)).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!body.to_string().contains("/var/lib"), "{body}");
    let away = crate::port::Error::Unavailable { what: "the database", reason: "/var/lib is full".into() };
    let (status, headers, body) = answer(command::Error::Port(away)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(headers.contains_key(RETRY_AFTER) && !body.to_string().contains("/var/lib"), "{body}");
}
