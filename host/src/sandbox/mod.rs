//! Runs handler components: pure functions in WebAssembly, chosen by digest. Knows nothing of logs, stores or HTTP.
//!
//! A component is judged once, when it is [loaded](Sandbox::load): imports by name, exports, size, and the description
//! it gives of itself. After that every call gets a **fresh instance** from a pooled copy-on-write image, so nothing
//! leaks from one call into the next; only the `needs` rounds and the `decide` of one command share an instance.
//!
//! Keeps I8 (an output depends on the inputs and the digest alone): no clock, no entropy, no environment and no files
//! reach a guest, NaNs are canonical, relaxed SIMD is deterministic, threads are off. Keeps I10: fuel, time, memory,
//! tables, stack, copies and counts are bounded; `docs/sandbox.md` lists the numbers. No guest failure poisons the
//! host: an instance that failed is thrown away, the next call gets another.
//!
//! WIT bindings live in one adapter per minor version (`wit_0_1`); everything else here is free of versions. This
//! module is the only place that names the engine.

mod catalog;
mod check;
mod compiled;
mod describe;
mod engine;
mod failure;
mod handler;
mod limits;
mod state;
mod ticker;
mod turn;
mod types;
mod wasi;
mod wit_0_1;

#[cfg(test)]
mod tests;

pub use catalog::{Active, ActiveHandler, Catalog, CatalogError, NotTaken};
pub use describe::{Collection, Contract, Description, Ordering, RESERVED_KINDS, Version};
pub use engine::{Options, Sandbox};
pub use failure::{Error, Failure, LimitKind};
pub use handler::{CallContext, Decision, Handler, Projecting, World};
pub use limits::Limits;
pub use turn::{in_place, is_cut_short};
pub use types::{
    AggregateRef, CausedChange, Command, Comparison, FetchedDocument, Header, Level, NewCommand, NewEvent, Outcome,
    OwnedHeader, Problem, ReadValue, RecordedEvent, Stored, StoredRef, Verdict,
};
