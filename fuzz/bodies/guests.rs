//! Hostile guests: components that answer what no handler should, and uploads that are no components. Whatever they do
//! ends as a value, a failure with a word, or a refusal; never in the host.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use carryall::domain::Timestamp;
use carryall::sandbox::{
    AggregateRef, CallContext, Command, Handler, Limits, Options, RecordedEvent, Sandbox, Verdict,
};

/// What the decider of `tests/abuse` does with a payload; the first byte of the input chooses.
const TRICKS: [&str; 9] =
    ["FORGED_TEXT", "ECHO", "DEPOSIT", "BYTES", "EVENTS", "COMMANDS", "HEADERS", "REJECT", "CHATTER"];
/// Fuel of one call: a mutated component may loop, and a fuzzer has no time for that.
const FUEL: u64 = 20_000_000;

/// A component that `cargo xtask build` or the build of `tests/abuse` left.
pub fn component(name: &str) -> Vec<u8> {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = workspace.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let folders = ["handlers", "handlers/examples", "wasm32-wasip2/handler/examples"];
    let paths = folders.map(|folder| target.join(folder).join(format!("{name}.wasm")));
    let found = paths.iter().find_map(|path| std::fs::read(path).ok());
    found.unwrap_or_else(|| panic!("{name} is not built: run `cargo xtask build` and the tests of the sandbox once"))
}

fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let limits = Limits { fuel: FUEL, ..Limits::default() };
        Sandbox::new(Options { limits, cache_folder: None }).expect("a sandbox")
    })
}

fn decider() -> &'static Arc<Handler> {
    static DECIDER: OnceLock<Arc<Handler>> = OnceLock::new();
    DECIDER.get_or_init(|| sandbox().load(&component("decider")).expect("the decider loads"))
}

/// The first byte chooses what the guest does, the rest is the payload: numbers, texts, or where in its memory the
/// guest says that its answer lies.
pub fn lifting(data: &[u8]) {
    let Some((trick, payload)) = data.split_first() else { return };
    let payload = String::from_utf8_lossy(payload);
    call(decider(), TRICKS[usize::from(*trick) % TRICKS.len()], &payload);
}

/// A component with bytes changed: refused with a reason, or a handler that behaves like any other.
pub fn upload(data: &[u8]) {
    if let Ok(handler) = sandbox().load(data) {
        call(&handler, "ECHO", "{\"amount\":1}");
    }
}

/// Runs one command and one fold. What comes back as a verdict was checked: it has no more than the limits allow.
fn call(handler: &Handler, name: &str, payload: &str) {
    let context = CallContext { now: Timestamp(1_765_929_600_000), seed: (1, 2) };
    let target = AggregateRef { kind: "Thing", id: "t-1" };
    let id = "6a7f2a2e-6d7b-4f0e-8a4a-2f4f3a3f0b11";
    let command = Command { id, name, target, expected_seq: None, payload, actor: Some("alice"), headers: &[] };
    if let Ok(decision) = handler.decision(context)
        && let Ok(verdict) = decision.decide(None, &command, &[])
    {
        let limits = Limits::default();
        match verdict {
            Verdict::Accepted(outcome) => {
                assert!(!outcome.events.is_empty() || !outcome.commands.is_empty(), "accepted, and nothing to do");
                for event in &outcome.events {
                    assert!(event.data.as_str().len() <= limits.output_bytes_max);
                    serde_json::from_str::<serde::de::IgnoredAny>(event.data.as_str()).expect("data is JSON");
                }
            }
            Verdict::Rejected(problems) => assert!(!problems.is_empty(), "refused without a reason"),
            Verdict::Unchanged => {}
        }
    }
    let event = RecordedEvent {
        id,
        name: "NOTED",
        schema_version: "1.0.0",
        source: target,
        seq: 1,
        at: context.now,
        data: payload,
        headers: &[],
    };
    if let Ok(Some(state)) = handler.evolve(None, &[event]) {
        serde_json::from_str::<serde::de::IgnoredAny>(state.as_str()).expect("a state is JSON");
    }
}
