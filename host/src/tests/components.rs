//! Real components for tests: those that `cargo xtask build` leaves, the misbehaving ones of `tests/abuse`, and
//! handlers loaded from them.

use std::path::PathBuf;
use std::process::Command as Process;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::domain::Timestamp;
use crate::sandbox::{Active, ActiveHandler, AggregateRef, Handler, Limits, Options, RecordedEvent, Sandbox};

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder that cargo builds in.
fn target() -> PathBuf {
    workspace().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// A component as `cargo xtask build` leaves it under `target/handlers`.
pub fn component(name: &str) -> Bytes {
    let path = target().join("handlers").join(name).with_extension("wasm");
    let bytes = std::fs::read(&path);
    bytes.unwrap_or_else(|error| panic!("{}: {error}: run cargo xtask build", path.display())).into()
}

/// The same component under another digest: a custom section that nobody reads is added.
pub fn variant(component: &Bytes, n: u8) -> Bytes {
    let mut bytes = component.to_vec();
    // Section 0, four bytes long: a name of two bytes, and one byte of content.
    bytes.extend_from_slice(&[0, 4, 2, b'n', b'o', n]);
    bytes.into()
}

/// Builds packages to wasm and gives the folder their components are in. Cargo's own lock keeps test programs that run
/// at the same time apart.
pub fn build(arguments: &[&str]) -> PathBuf {
    let status = Process::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--target", "wasm32-wasip2", "--profile", "handler"])
        .args(arguments)
        .current_dir(workspace())
        .status()
        .unwrap();
    assert!(status.success(), "{arguments:?} do not build: is the wasm target there (`cargo xtask handlers`)?");
    target().join("wasm32-wasip2/handler")
}

/// A component of `tests/abuse`, built once for each test run.
pub fn abuse(name: &str) -> Vec<u8> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| build(&["--package", "carryall-abuse", "--examples"]).join("examples"));
    std::fs::read(folder.join(name).with_extension("wasm")).unwrap()
}

/// One sandbox for all tests: what one compiled the others find, in this run of the tests and the next.
pub fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| open(Limits::default()))
}

/// Longest event or document that [`narrow`] lets pass.
pub const NARROW_BYTES: usize = 2_000;

/// A sandbox with a limit that was set too low.
pub fn narrow() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| open(Limits { item_bytes_max: NARROW_BYTES, ..Limits::default() }))
}

/// A time limit that a stalled machine does not meet: fuel alone bounds guests.
pub const UNHURRIED_MS: u64 = 120_000;

/// With so little fuel in place that of several calls one is cut short, as a slow one is else.
fn open(limits: Limits) -> Sandbox {
    let cache_folder = Some(workspace().join("target/test-components"));
    let limits = Limits { in_place_fuel: 300_000, in_place_ms: UNHURRIED_MS, wall_ms: UNHURRIED_MS, ..limits };
    Sandbox::new(Options { limits, cache_folder }).unwrap()
}

/// A handler in charge under its own name.
pub fn active(handler: Arc<Handler>, revision: u64) -> ActiveHandler {
    ActiveHandler { name: handler.description().name.as_str().into(), revision, handler }
}

/// A set of handlers that are in charge together.
pub fn together(handlers: impl IntoIterator<Item = Arc<Handler>>) -> Active {
    Active::new(handlers.into_iter().map(|handler| active(handler, 1))).unwrap()
}

/// An event of `Thing/t-1`.
pub fn event<'a>(name: &'a str, data: &'a str) -> RecordedEvent<'a> {
    RecordedEvent {
        id: "0d8f3c52-0000-4000-8000-000000000001",
        name,
        schema_version: "1.0.0",
        source: AggregateRef { kind: "Thing", id: "t-1" },
        seq: 2,
        at: Timestamp(1_765_929_600_123),
        data,
        headers: &[],
    }
}
