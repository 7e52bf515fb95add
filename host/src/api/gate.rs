//! What stands in front of every route: who asks, how many ask at once, what an unknown address gets, and the measuring
//! of each request.

use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::Problem;

/// Puts the gate in front of these routes.
pub fn behind(api: Api, routes: Router) -> Router {
    fallbacks(routes).layer(middleware::from_fn_with_state(api, pass))
}

/// Problems for what is no route, or no method of one.
pub fn fallbacks(routes: Router) -> Router {
    methods(routes).fallback(unknown_route)
}

/// Problems for what is no method of a route.
pub fn methods(routes: Router) -> Router {
    routes.method_not_allowed_fallback(wrong_method)
}

async fn unknown_route() -> Problem {
    Problem::not_found("unknown_route", "there is no such address; /openapi.json lists them all")
}

/// Answer to everything but the probes while the process opens its parts.
pub async fn not_yet() -> Problem {
    Problem::unavailable(
        "starting",
        "The host is starting",
        "its parts are not open yet; /ready says what it waits for",
    )
}

/// Ends the connection with each answer.
pub fn closing(routes: Router) -> Router {
    routes.layer(middleware::map_response(async |mut response: Response| {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }))
}

/// The router adds `Allow`.
async fn wrong_method() -> Problem {
    let detail = "the address does not know this method; the header Allow lists those it knows";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Wrong method", detail)
}

async fn pass(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = match admit(&api, &mut request) {
        Ok(_permit) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let route = route.as_ref().map_or("unknown", |matched| matched.as_str());
    api.metrics.http(label(&method), route, response.status().as_u16(), begun.elapsed());
    response
}

/// The method as a metric may have it: clients can send any word for one (I10).
fn label(method: &Method) -> &str {
    match *method {
        Method::GET | Method::POST | Method::PUT | Method::DELETE | Method::HEAD => method.as_str(),
        _ => "other",
    }
}

/// Tails count for themselves once they are answered: the permit covers the time to the answer's head.
fn admit(api: &Api, request: &mut Request) -> Result<tokio::sync::OwnedSemaphorePermit, Problem> {
    let Ok(permit) = api.requests.clone().try_acquire_owned() else {
        return Err(Problem::unavailable("overloaded", "Too many requests", "too many requests are under way"));
    };
    let principal = api.auth.admit(request.method(), request.uri().path(), request.headers())?;
    request.extensions_mut().insert(principal);
    Ok(permit)
}
