//! Chaos: real processes on real servers of their own, which are stopped, killed, slowed down, cut off and filled up
//! while clients send commands. However it went, in the end every command that was accepted is in the log once, has one
//! outcome and was published; the read model is the fold of the log; and the checkers find nothing.
//!
//! `cargo xtask test` runs each scenario for some seconds, `cargo xtask chaos` for as long as it is told.
#![allow(clippy::unwrap_used)]

mod brokers;
mod crashes;
mod disk;
mod outages;
mod site;
mod soak;

use std::io::Write as _;
use std::time::Duration;

/// How long a scenario goes on when nothing is said.
const SECONDS: u64 = 4;

/// How long a scenario's failures go on.
fn length() -> Duration {
    Duration::from_secs(number("CARRYALL_CHAOS_SECONDS").unwrap_or(SECONDS))
}

/// Whether it is `cargo xtask chaos` that runs this: one scenario at a time, and nothing beside it.
fn alone() -> bool {
    number("CARRYALL_CHAOS_SECONDS").is_some()
}

/// What random choices are drawn from when nothing is said: `cargo xtask chaos` draws another one each time.
const SEED: u64 = 14_511_491_780_533_308_275;

fn seed() -> u64 {
    number("CARRYALL_CHAOS_SEED").unwrap_or(SEED)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Tells whoever watches what is done to the processes, and whoever looks into it after a failure.
fn note(words: &str) {
    let mut out = std::io::stderr().lock();
    writeln!(out, "chaos: {words}").unwrap();
}
