//! Who asks, and what they may do. Tokens are known by their SHA-256 only and compared in constant time. `/admin/v1`
//! needs the role operator always; without a tokens file (loopback only, start-up sees to that) everything else is
//! open, but to web pages.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode};

use super::problem::Problem;
use crate::domain::{Aggregate, Digest};

/// What a browser says of where a request comes from.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a token is good for. Roles add up; an operator may do everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads.
    Reader,
    /// Sends commands, and follows their status.
    Commander,
    /// Everything, `/admin/v1` included.
    Operator,
}

/// A token that the host knows.
#[derive(Debug, Clone)]
pub struct Token {
    pub sha256: Digest,
    /// Becomes the `actor` of what is done with it.
    pub subject: String,
    pub roles: Vec<Role>,
    /// The only databases it reaches; all when `None`.
    pub databases: Option<Vec<String>>,
}

/// The tokens of this host.
#[derive(Debug)]
pub struct Auth {
    grants: Vec<(Digest, Principal)>,
    open: bool,
}

/// Who asks.
#[derive(Clone)]
pub struct Principal {
    /// `None` for those who need no token.
    subject: Option<Arc<str>>,
    reader: bool,
    commander: bool,
    operator: bool,
    databases: Option<Arc<[String]>>,
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Read,
    /// Status of a command: for those who read and for those who send.
    Follow,
    Command,
    Operate,
}

impl Auth {
    /// `open`: who brings no token may read and send commands. Only for hosts that listen on loopback alone.
    pub fn new(tokens: Vec<Token>, open: bool) -> Auth {
        let grants = tokens.into_iter().map(|token| (token.sha256, Principal::of(token))).collect();
        Auth { grants, open }
    }

    /// Who may go on to this route, or why not.
    pub fn admit(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Principal, Problem> {
        let need = Need::of(method, path);
        if need == Need::Nothing {
            return Ok(Principal::nobody());
        }
        let principal = match headers.get(AUTHORIZATION) {
            Some(value) => {
                value.to_str().ok().and_then(bearer).and_then(|token| self.known(token)).ok_or_else(|| {
                    unauthorized("the token is not known; send `Authorization: Bearer <token>` with a valid one")
                })?
            }
            None if self.open && need != Need::Operate => {
                refuse_pages_of_others(headers)?;
                Principal::anyone()
            }
            None => return Err(unauthorized("this needs `Authorization: Bearer <token>`")),
        };
        principal.check(need)?;
        Ok(principal)
    }

    /// Compares with every token, whichever matches, so that time tells nothing.
    fn known(&self, token: &str) -> Option<Principal> {
        let given = Digest::of(token.as_bytes());
        let mut found = None;
        for (digest, principal) in &self.grants {
            let difference = digest.0.iter().zip(&given.0).fold(0u8, |acc, (a, b)| acc | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                found = Some(principal);
            }
        }
        found.cloned()
    }
}

/// What is open to this machine is not open to the pages that its browsers show: none sends commands, and none reads
/// under a name of its own that leads here.
fn refuse_pages_of_others(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(HOST);
    let by_another_name = host.is_some_and(|host| !is_this_machine(host));
    let origin = text(ORIGIN).map(|origin| origin.split_once("://").map_or("", |(_, authority)| authority));
    let of_another = origin.is_some_and(|origin| Some(origin) != host)
        || text(FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none");
    if by_another_name || of_another {
        let detail = "without tokens this host answers on localhost or a loopback address only, and no page of another \
                      origin; set CARRYALL_TOKENS_FILE to be reached otherwise";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", "Not for pages of other origins", detail));
    }
    Ok(())
}

fn is_this_machine(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let name = authority.host().to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Who are you?", detail)
        .header(WWW_AUTHENTICATE, r#"Bearer realm="carryall""#)
}

fn forbidden(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", "The token does not allow this", detail)
}

impl Need {
    fn of(method: &Method, path: &str) -> Need {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if path == "/admin" || path.starts_with("/admin/") {
            Need::Operate
        } else if !path.starts_with("/api/") {
            Need::Nothing
        } else if reads && path.starts_with("/api/v1/commands/") {
            Need::Follow
        } else if reads {
            Need::Read
        } else {
            Need::Command
        }
    }
}

impl Principal {
    fn of(token: Token) -> Principal {
        let has = |role| token.roles.contains(&role) || token.roles.contains(&Role::Operator);
        Principal {
            reader: has(Role::Reader),
            commander: has(Role::Commander),
            operator: has(Role::Operator),
            subject: Some(token.subject.into()),
            databases: token.databases.map(Into::into),
        }
    }

    fn anyone() -> Principal {
        Principal { subject: None, reader: true, commander: true, operator: false, databases: None }
    }

    fn nobody() -> Principal {
        Principal { subject: None, reader: false, commander: false, operator: false, databases: None }
    }

    fn check(&self, need: Need) -> Result<(), Problem> {
        match need {
            Need::Nothing => Ok(()),
            Need::Read if self.reader => Ok(()),
            Need::Follow if self.reader || self.commander => Ok(()),
            Need::Command if self.commander => Ok(()),
            Need::Operate if self.operator => self.check_unlimited("administration concerns the whole host"),
            Need::Read | Need::Follow => Err(forbidden("reading needs the role reader")),
            Need::Command => Err(forbidden("sending commands needs the role commander")),
            Need::Operate => Err(forbidden("administration needs the role operator")),
        }
    }

    /// Name of the token's holder, for `actor`.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Name for the history of what operators did.
    pub fn actor(&self) -> &str {
        self.subject.as_deref().unwrap_or("anonymous")
    }

    /// The only databases this caller reaches.
    pub fn databases(&self) -> Option<&Arc<[String]>> {
        self.databases.as_ref()
    }

    /// Refuses another database than the token's.
    pub fn check_database(&self, db: &str) -> Result<(), Problem> {
        match &self.databases {
            Some(allowed) if !allowed.iter().any(|name| name == db) => {
                Err(forbidden(format!("the token does not reach database {db:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses every token that is limited to databases.
    pub fn check_unlimited(&self, why: &str) -> Result<(), Problem> {
        match &self.databases {
            Some(_) => Err(forbidden(format!("{why}; this token is limited to some databases"))),
            None => Ok(()),
        }
    }

    /// Refuses aggregates of another database, and those outside any, to a token that is limited to some.
    pub fn check_aggregate(&self, aggregate: &Aggregate) -> Result<(), Problem> {
        match aggregate.database() {
            Some(db) => self.check_database(db),
            None if self.databases.is_some() => {
                Err(forbidden("the token is limited to databases, and this aggregate belongs to none"))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({})", self.actor())
    }
}

/// Handlers take the caller as an argument; the gate in front of every route has put it there.
impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Principal, Problem> {
        parts.extensions.get::<Principal>().cloned().ok_or_else(|| unauthorized("this needs a token"))
    }
}
