//! Carryall: an event-sourcing and CQRS host whose domain logic is WebAssembly components.
//!
//! Modules are layers; imports go downwards only (`docs/architecture.md` has the table, a tidy test checks it):
//! domain, error → codec → port → event_store, sandbox → state → command, worker, projection, relay, deploy,
//! replay, query → api → adapter → app, cli.

pub mod adapter;
pub mod api;
pub mod app;
pub mod bundled;
pub mod cli;
pub mod codec;
pub mod command;
pub mod config;
pub mod deploy;
pub mod domain;
pub mod error;
pub mod event_store;
pub mod failpoint;
pub mod metrics;
pub mod port;
pub mod projection;
pub mod query;
pub mod relay;
pub mod replay;
pub mod sandbox;
pub mod state;
pub mod telemetry;
pub mod worker;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
