//! The HTTP interface (contract §2): routes, shapes of answers, errors as problems, tokens, limits, the live tail.
//! Decides nothing: it parses at the edge and calls the services. Keeps I10: bodies, headers, waits, tails and requests
//! under way are bounded, and overload is answered, never queued.

mod admin;
mod admin_handlers;
mod auth;
mod commands;
mod documents;
mod dto;
mod gate;
mod health;
mod history;
mod instances;
mod links;
mod members;
mod ontology;
mod openapi;
mod problem;
mod read;
mod request;
mod routes;
mod server;
mod tail;

pub use auth::{Auth, Principal, Role, Token};
pub use health::{Health, Part};
pub use problem::Problem;
pub use server::serve;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::deploy::Deployments;
use crate::metrics::Metrics;
use crate::{command, query};

#[cfg(test)]
mod tests;

/// Bounds of the interface.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests under way, waits included; more are answered 503.
    pub requests_max: usize,
    /// Clients that follow the log.
    pub tails_max: usize,
}

impl Default for Limits {
    /// Enough for every connection a client of one host sensibly opens, few enough that their bodies (1 MiB each at
    /// most) fit into memory.
    fn default() -> Limits {
        Limits { requests_max: 2_048, tails_max: 256 }
    }
}

/// What the routes work with.
#[derive(Debug)]
pub struct Services {
    pub commands: command::Service,
    pub operations: command::Operations,
    pub queries: query::Service,
    pub deployments: Deployments,
    pub auth: Auth,
    pub metrics: Metrics,
    pub health: Health,
    pub limits: Limits,
    /// Tails end when this is cancelled, so that a server can drain.
    pub stop: CancellationToken,
}

/// State of the routes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api(Arc<Inner>);

/// [`Services`], and what the interface keeps itself.
#[derive(Debug)]
pub struct Inner {
    services: Services,
    requests: Arc<Semaphore>,
    tails: Arc<Semaphore>,
}

impl Deref for Inner {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

impl Deref for Api {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// The whole interface of a process with the role `api`.
pub fn router(services: Services) -> Router {
    let requests = Arc::new(Semaphore::new(services.limits.requests_max));
    let tails = Arc::new(Semaphore::new(services.limits.tails_max));
    let probes = services.health.clone().router();
    let api = Api(Arc::new(Inner { services, requests, tails }));
    gate::behind(api.clone(), routes::all().router.with_state(api)).merge(gate::methods(probes))
}

/// The interface of a process without it: probes only.
pub fn probes(health: Health) -> Router {
    gate::fallbacks(health.router())
}

/// The interface of a process whose parts are not open yet: probes, and 503 for everything else. Its connections end
/// with each answer, so that the next request finds the interface that holds then.
pub fn starting(health: Health) -> Router {
    gate::closing(gate::methods(health.router()).fallback(gate::not_yet))
}
