//! Who may do what.
#![allow(clippy::unwrap_used)]

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::api::{Auth, Principal, Problem, Role, Token};
use crate::domain::{Aggregate, Digest};

fn token(text: &str, roles: &[Role], databases: Option<&[&str]>) -> Token {
    Token {
        sha256: Digest::of(text.as_bytes()),
        subject: format!("{text}@example"),
        roles: roles.to_vec(),
        databases: databases.map(|names| names.iter().map(ToString::to_string).collect()),
    }
}

fn auth(open: bool) -> Auth {
    let tokens = vec![
        token("read", &[Role::Reader], None),
        token("send", &[Role::Commander], None),
        token("both", &[Role::Reader, Role::Commander], Some(&["shop"])),
        token("root", &[Role::Operator], None),
        token("half-root", &[Role::Operator], Some(&["shop"])),
    ];
    Auth::new(tokens, open)
}

fn admit(auth: &Auth, token: Option<&str>, method: Method, path: &str) -> Result<Principal, Problem> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    }
    auth.admit(&method, path, &headers)
}

#[test]
fn an_open_host_is_closed_to_pages_that_a_browser_shows() {
    let auth = auth(true);
    let admitted = |named: &[(&'static str, &str)]| {
        let headers: HeaderMap = named
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        auth.admit(&Method::POST, "/api/v1/commands", &headers).is_ok()
    };
    for host in ["localhost:8000", "LOCALHOST", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000", "carryall.localhost"] {
        assert!(admitted(&[("host", host)]), "{host}");
        let origin = format!("http://{host}");
        assert!(admitted(&[("host", host), ("origin", &origin), ("sec-fetch-site", "same-origin")]), "{host}");
    }
    for host in ["evil.example:8000", "10.0.0.1", "localhost.evil.example", "", "0.0.0.0:8000"] {
        assert!(!admitted(&[("host", host)]), "{host}");
    }
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost:3000"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        assert!(!admitted(&[("host", "localhost:8000"), (name, value)]), "{name}: {value}");
    }
    let token = [("host", "api.example"), ("authorization", "Bearer send"), ("origin", "https://shop.example")];
    assert!(admitted(&token), "who has a token is nobody's page");
}

#[test]
fn roles_open_what_they_name_and_nothing_else() {
    let auth = auth(false);
    let routes = [
        (Method::GET, "/api/v1/events"),
        (Method::GET, "/api/v1/commands/x/status"),
        (Method::POST, "/api/v1/commands"),
        (Method::DELETE, "/api/v1/database/shop"),
        (Method::GET, "/admin/v1/handlers"),
        (Method::POST, "/admin/v1/handlers"),
    ];
    for (token, want) in [
        (None, [401, 401, 401, 401, 401, 401]),
        (Some("wrong"), [401, 401, 401, 401, 401, 401]),
        (Some("read"), [200, 200, 403, 403, 403, 403]),
        (Some("send"), [403, 200, 200, 200, 403, 403]),
        (Some("both"), [200, 200, 200, 200, 403, 403]),
        (Some("root"), [200, 200, 200, 200, 200, 200]),
        (Some("half-root"), [200, 200, 200, 200, 403, 403]),
    ] {
        for ((method, path), want) in routes.iter().zip(want) {
            let got = admit(&auth, token, method.clone(), path);
            let status = got.map_or_else(|problem| problem.status().as_u16(), |_| 200);
            assert_eq!(status, want, "{token:?} {method} {path}");
        }
    }
}

#[test]
fn an_open_host_needs_a_token_for_administration_only() {
    let auth = auth(true);
    assert!(admit(&auth, None, Method::POST, "/api/v1/commands").unwrap().subject().is_none());
    let refused = |result: Result<Principal, Problem>| result.unwrap_err().status();
    assert_eq!(refused(admit(&auth, None, Method::GET, "/admin/v1/consumers")), StatusCode::UNAUTHORIZED);
    assert_eq!(refused(admit(&auth, Some("wrong"), Method::GET, "/api/v1/events")), StatusCode::UNAUTHORIZED);
    assert_eq!(admit(&auth, Some("send"), Method::POST, "/api/v1/commands").unwrap().subject(), Some("send@example"));
    for path in ["/health", "/ready", "/metrics", "/openapi.json", "/nowhere"] {
        assert!(admit(&auth, None, Method::GET, path).is_ok(), "{path}");
    }
}

#[test]
fn an_authorization_header_of_another_form_is_refused() {
    let auth = auth(true);
    for value in ["Basic cm9vdA==", "Bearer", "Bearer ", "root", "Bearer root root"] {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        let refused = auth.admit(&Method::GET, "/api/v1/events", &headers).unwrap_err();
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{value:?}");
    }
}

#[test]
fn a_token_reaches_its_databases_only() {
    let both = admit(&auth(false), Some("both"), Method::GET, "/api/v1/events").unwrap();
    assert!(both.check_database("shop").is_ok());
    assert_eq!(both.check_database("bank").unwrap_err().status(), StatusCode::FORBIDDEN);
    let aggregate = |kind, id| Aggregate::parse(kind, id).unwrap();
    assert!(both.check_aggregate(&aggregate("Instance", "shop:Product:p1")).is_ok());
    assert!(both.check_aggregate(&aggregate("OntologyClass", "bank:Account")).is_err());
    assert!(both.check_aggregate(&aggregate("Account", "a1")).is_err());
    let read = admit(&auth(false), Some("read"), Method::GET, "/api/v1/events").unwrap();
    assert!(read.check_aggregate(&aggregate("Account", "a1")).is_ok());
}
