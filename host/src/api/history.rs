//! Folded states and events: one aggregate now or in the past, its events, any event, the whole log. Events are passed
//! on byte for byte as they are stored.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{ACCEPT, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;

use super::commands::json;
use super::dto::{AggregateBody, EventsBody, ProblemBody};
use super::problem::Problem;
use super::read::{InPath, Read, raw};
use super::request::{self, Params, parameter};
use super::{Api, Principal, tail};
use crate::domain::{Aggregate, Timestamp};
use crate::query::{Record, Scope, Source};
use crate::state::At;

/// Event types that one list may ask for.
const TYPES_MAX: usize = 64;

/// State of an aggregate, now or in the past.
#[utoipa::path(
    get, path = "/api/v1/aggregates/{aggregate_type}/{aggregate_id}", tag = "history",
    params(
        ("aggregate_type" = String, Path), ("aggregate_id" = String, Path),
        ("at_seq" = Option<u64>, Query, description = "after the event with this sequence"),
        ("at_time" = Option<String>, Query, description = "after the last event that occurred by this RFC 3339 time"),
    ),
    responses((status = 200, body = AggregateBody<'_>), (status = 404, body = ProblemBody))
)]
pub async fn aggregate(
    State(api): State<Api>,
    principal: Principal,
    InPath((kind, id)): InPath<(String, String)>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&["at_seq", "at_time"])?;
    let aggregate = reachable(&principal, &kind, &id)?;
    let at = match (params.number("at_seq")?, params.one("at_time")?) {
        (Some(_), Some(_)) => return Err(parameter("at_seq", "at_seq and at_time exclude each other")),
        (Some(sequence), None) => Some(At::Sequence(sequence)),
        (None, Some(text)) => Some(At::Time(text.parse::<Timestamp>().map_err(|error| parameter("at_time", error))?)),
        (None, None) => None,
    };
    let read = Read::begin(&api, Source::Log, &headers).await?;
    let folded = api.queries.aggregate(&aggregate, at).await?;
    let state = folded.state.as_ref().map(|state| serde_json::from_str(state.as_str())).transpose();
    let body = AggregateBody {
        aggregate_type: aggregate.kind.as_str(),
        aggregate_id: aggregate.id.as_str(),
        sequence_number: folded.sequence.0,
        state: state.map_err(|error| Problem::internal("state_unreadable", &error))?,
        schema_version: &folded.schema_version,
        handler_digest: folded.handler_digest.to_string(),
    };
    let mut response = json(StatusCode::OK, &body)?;
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", folded.sequence)) {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(read.finish(response))
}

/// Events of an aggregate, commands included, oldest first.
#[utoipa::path(
    get, path = "/api/v1/aggregates/{aggregate_type}/{aggregate_id}/events", tag = "history",
    params(
        ("aggregate_type" = String, Path), ("aggregate_id" = String, Path),
        ("after" = Option<String>, Query, description = "`next` of the page before, or a sequence number"),
        ("limit" = Option<usize>, Query),
    ),
    responses((status = 200, body = EventsBody), (status = 404, body = ProblemBody))
)]
pub async fn aggregate_events(
    State(api): State<Api>,
    principal: Principal,
    InPath((kind, id)): InPath<(String, String)>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&["after", "limit"])?;
    let aggregate = reachable(&principal, &kind, &id)?;
    let (after, limit) = (params.number("after")?.unwrap_or(0), params.limit()?);
    let read = Read::begin(&api, Source::Log, &headers).await?;
    let page = api.queries.stream(&aggregate, after, limit).await?;
    let next = page.more.then(|| page.place.to_string());
    Ok(read.finish(events_response(&page.records, next.as_deref())))
}

/// One event as it is stored.
#[utoipa::path(
    get, path = "/api/v1/events/{event_id}", tag = "history",
    params(("event_id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = ProblemBody))
)]
pub async fn event(
    State(api): State<Api>,
    principal: Principal,
    InPath(event_id): InPath<String>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&[])?;
    let event_id = uuid::Uuid::try_parse(&event_id).map_err(|_| parameter("event_id", "it must be a UUID"))?;
    let read = Read::begin(&api, Source::Log, &headers).await?;
    let record = api.queries.event(event_id).await?;
    principal.check_aggregate(&record.aggregate)?;
    Ok(read.finish(raw(record.line)))
}

/// The whole log, or its live tail with `Accept: text/event-stream`.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "history",
    params(
        ("after" = Option<String>, Query, description = "`next` of the page before, or the id of an event of the tail"),
        ("limit" = Option<usize>, Query),
        ("types" = Option<String>, Query, description = "event types, separated by commas"),
        ("Last-Event-ID" = Option<String>, Header, description = "tail: go on after this id"),
    ),
    responses(
        (status = 200, description = "a page, or with `Accept: text/event-stream` a stream of events", content(
            (EventsBody = "application/json"), (String = "text/event-stream"),
        )),
        (status = 503, description = "too many tails", body = ProblemBody),
    )
)]
pub async fn events(
    State(api): State<Api>,
    principal: Principal,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&["after", "limit", "types"])?;
    let scope = Scope { types: types(&params)?, databases: principal.databases().cloned() };
    let last = request::text(&headers, tail::LAST_EVENT_ID)?.filter(|id| !id.is_empty());
    let streamed = wants_stream(&headers);
    let from = match last.filter(|_| streamed).or(params.one("after")?) {
        Some(text) => api.queries.cursor(text)?,
        None => api.queries.start(),
    };
    if streamed {
        return tail::respond(&api, from, scope);
    }
    let limit = params.limit()?;
    let read = Read::begin(&api, Source::Log, &headers).await?;
    let page = api.queries.events(from, &scope, limit).await?;
    let next = page.more.then(|| page.place.encode());
    Ok(read.finish(events_response(&page.records, next.as_deref())))
}

fn wants_stream(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|part| part.split(';').next().is_some_and(|kind| kind.trim() == "text/event-stream"))
    })
}

fn types(params: &Params) -> Result<Vec<String>, Problem> {
    let types: Vec<String> = params
        .all("types")
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if types.len() > TYPES_MAX {
        return Err(parameter("types", format!("at most {TYPES_MAX} types are allowed")));
    }
    Ok(types)
}

fn reachable(principal: &Principal, kind: &str, id: &str) -> Result<Aggregate, Problem> {
    let aggregate = Aggregate::parse(kind, id)?;
    principal.check_aggregate(&aggregate)?;
    Ok(aggregate)
}

/// `{"events":[…],"next":…}` around the lines as they are; `next` holds nothing that JSON would escape.
fn events_response(records: &[Record], next: Option<&str>) -> Response {
    let bytes: usize = records.iter().map(|record| record.line.len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 128);
    body.extend_from_slice(br#"{"events":["#);
    for (index, record) in records.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&record.line);
    }
    body.extend_from_slice(br#"],"next":"#);
    match next {
        Some(next) => body.extend_from_slice(format!("\"{next}\"").as_bytes()),
        None => body.extend_from_slice(b"null"),
    }
    body.push(b'}');
    raw(Bytes::from(body))
}
