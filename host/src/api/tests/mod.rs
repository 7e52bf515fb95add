//! The interface: pure parts here, the router over a whole log in `router`.
#![allow(clippy::unwrap_used)]

mod access;
mod document;
mod host;
mod log;
mod model;
mod requests;
mod router;
mod server;
