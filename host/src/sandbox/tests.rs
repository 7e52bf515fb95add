//! The sandbox against components that do what no handler should (`tests/abuse`).
#![allow(clippy::unwrap_used)]

mod abuse;
mod active;
mod descriptions;
mod determinism;
mod loading;
mod real;
mod turns;

use std::sync::{Arc, OnceLock};

use super::*;
use crate::domain::Timestamp;
use crate::tests::components::{UNHURRIED_MS, abuse as component, build, event};

const NOW: Timestamp = Timestamp(1_765_929_600_123);
const CONTEXT: CallContext = CallContext { now: NOW, seed: (7, 9) };

fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    let limits = Limits { wall_ms: UNHURRIED_MS, ..Limits::default() };
    SANDBOX.get_or_init(|| Sandbox::new(Options { limits, ..Options::default() }).unwrap())
}

fn decider() -> Arc<Handler> {
    static DECIDER: OnceLock<Arc<Handler>> = OnceLock::new();
    DECIDER.get_or_init(|| sandbox().load(&component("decider")).unwrap()).clone()
}

fn command<'a>(name: &'a str, payload: &'a str) -> Command<'a> {
    Command {
        id: "7f2d6a3e-9d53-4c8e-a4a1-64a6d6f5b0aa",
        name,
        target: AggregateRef { kind: "Thing", id: "t-1" },
        expected_seq: Some(3),
        payload,
        actor: Some("somebody"),
        headers: &[Header { name: "correlation_id", value: "c-1" }],
    }
}

fn decide_with(context: CallContext, name: &str, payload: &str) -> Result<Verdict, Failure> {
    decider().decision(context)?.decide(None, &command(name, payload), &[])
}

fn decide(name: &str, payload: &str) -> Result<Verdict, Failure> {
    decide_with(CONTEXT, name, payload)
}

/// The data of the only event of an accepted decision.
fn noted(verdict: Result<Verdict, Failure>) -> String {
    match verdict.unwrap() {
        Verdict::Accepted(outcome) if outcome.events.len() == 1 => outcome.events[0].data.as_str().to_owned(),
        other => panic!("one event was expected: {other:?}"),
    }
}

#[track_caller]
fn assert_limit<T: std::fmt::Debug>(result: Result<T, Failure>, wanted: LimitKind) {
    match result {
        Err(Failure::Limit { which, message }) => assert_eq!(which, wanted, "{message}"),
        other => panic!("the {wanted} limit was expected: {other:?}"),
    }
}

#[track_caller]
fn assert_trap<T: std::fmt::Debug>(result: Result<T, Failure>, words: &str) {
    match result {
        Err(Failure::Trap { message }) => {
            assert!(message.contains(words), "{message:?} does not say {words:?}");
            assert!(message.len() < 300 && !message.contains(".rs"), "{message:?} is long or names a file");
        }
        other => panic!("a trap was expected: {other:?}"),
    }
}

#[track_caller]
fn assert_fault<T: std::fmt::Debug>(result: Result<T, Failure>, wanted: &str, words: &str) {
    match result {
        Err(Failure::Fault { code, message }) => {
            assert_eq!(code, wanted, "{message}");
            assert!(message.contains(words), "{message:?} does not say {words:?}");
        }
        other => panic!("a fault was expected: {other:?}"),
    }
}
