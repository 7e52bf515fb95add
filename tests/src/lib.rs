//! Drives the built binary from outside, as clients and operators do: starts it, talks HTTP to it, kills it, and reads
//! what it left on the disk. Knows the contract only: nothing of the host's code is used here.

mod abuse;
mod bucket;
mod client;
mod fold;
mod kafka;
mod load;
mod log;
pub mod postgres;
mod problem;
mod proxy;
mod random;
mod server;
mod servers;
pub mod services;
mod settled;
mod shop;
mod site;
mod wire;

pub use abuse::abuse;
pub use bucket::Bucket;
pub use client::{Answer, Client};
pub use fold::read_model_is_the_fold;
pub use kafka::{Kafka, Message};
pub use load::Load;
pub use log::{Event, Log};
pub use postgres::Postgres;
pub use problem::Problem;
pub use proxy::Proxy;
pub use random::Random;
pub use server::{ADMIN_TOKEN, Options, Process, Server, binary, component, run_to_end};
pub use servers::Servers;
pub use settled::{all_completed, consumers_at_the_end, ready, until, until_logged};
pub use shop::{Shop, classes};
pub use site::{Site, end};
pub use wire::Wire;

/// An id that no earlier run used.
#[allow(clippy::disallowed_methods)] // A client outside the host draws its own ids.
pub fn fresh_id() -> uuid::Uuid {
    uuid::Uuid::new_v4()
}
