//! The live tail as server-sent events: each frame is one envelope on one line, its id the place to go on from. The
//! client's own speed is the only buffer: nothing is read from the log before it took what was sent.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::problem::Problem;
use crate::query::{Cursor, Scope, Tail, TailStep};

/// Where a client goes on that was cut off.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Events of one step: few enough that a frame's worth of memory per tail is small.
const STEP_EVENTS_MAX: usize = 100;
/// Silence after which a sign of life is sent; proxies cut at 60 s and more.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Milliseconds a client waits before it comes back.
const RETRY_MS: u32 = 1_000;

struct State {
    tail: Tail,
    stop: CancellationToken,
    begun: bool,
    /// One of the places for tails; free again when the client leaves.
    _permit: OwnedSemaphorePermit,
}

/// Starts a tail, unless there are too many.
pub fn respond(api: &Api, from: Cursor, scope: Scope) -> Result<Response, Problem> {
    let Ok(permit) = api.tails.clone().try_acquire_owned() else {
        return Err(Problem::unavailable("overloaded", "Too many tails", "too many clients follow the log; try later"));
    };
    let state = State { tail: api.queries.tail(from, scope), stop: api.stop.clone(), begun: false, _permit: permit };
    let frames = stream::unfold(state, |mut state| async move {
        let frame = next(&mut state).await?;
        Some((Ok::<_, Infallible>(frame), state))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, Body::from_stream(frames)).into_response())
}

/// The next bytes; `None` ends the stream, and the client comes back with its last id.
async fn next(state: &mut State) -> Option<Bytes> {
    if !state.begun {
        state.begun = true;
        return Some(Bytes::from(format!("retry: {RETRY_MS}\n\n")));
    }
    let step = tokio::select! {
        () = state.stop.cancelled() => return None,
        step = state.tail.step(STEP_EVENTS_MAX, KEEP_ALIVE) => step,
    };
    match step {
        Ok(TailStep::Events(events)) => {
            let mut frames = Vec::with_capacity(events.iter().map(|(record, _)| record.line.len() + 64).sum());
            for (record, place) in &events {
                frames.extend_from_slice(b"id: ");
                frames.extend_from_slice(place.encode().as_bytes());
                frames.extend_from_slice(b"\ndata: ");
                frames.extend_from_slice(&record.line);
                frames.extend_from_slice(b"\n\n");
            }
            Some(Bytes::from(frames))
        }
        // A frame with an id and no data is no event, and moves the place past what the client does not want to see.
        Ok(TailStep::Idle) => Some(Bytes::from(format!(": keep-alive\nid: {}\n\n", state.tail.place().encode()))),
        Err(error) => {
            tracing::warn!(%error, "a tail ended; its client may come back");
            None
        }
    }
}
