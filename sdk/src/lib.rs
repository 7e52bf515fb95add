//! Everything a Rust handler for Carryall is written with.
//!
//! A handler is a set of pure functions: `decide` turns a command into events, `evolve` folds events into
//! state, `project` turns events into documents. Nothing is read from the world; whatever a function needs
//! is an argument, and whatever it wants is its return value, so the same inputs give the same outputs for
//! ever (I8).
//!
//! ```
//! use carryall_sdk::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Debug, Serialize, Deserialize)]
//! pub struct Step { by: u32 }
//!
//! #[derive(Clone, Debug, Serialize, Deserialize)]
//! pub struct Counted { total: u32 }
//!
//! carryall_sdk::messages! {
//!     pub enum Command { "COUNT" "1.0.0" => Count(Step) }
//! }
//! carryall_sdk::messages! {
//!     pub enum Event { "COUNTED" "1.0.0" => Counted(Counted) }
//! }
//!
//! pub struct Counter;
//!
//! impl InstanceHandler for Counter {
//!     type State = u32;
//!     type Command = Command;
//!     type Event = Event;
//!
//!     fn manifest() -> Manifest {
//!         Manifest::new("counter", "0.1.0").kind("Counter").state("counter", "1.0.0")
//!     }
//!
//!     fn decide(_: &Context, state: Option<&u32>, command: &Received<Command>) -> Result<Decision<Event>, Fault> {
//!         let Command::Count(step) = &command.body;
//!         if step.by == 0 {
//!             return Ok(Decision::reject(Problem::new("nothing-to-count", "`by` must be at least 1").at("/by")));
//!         }
//!         Ok(Decision::accept(Event::Counted(Counted { total: state.unwrap_or(&0) + step.by })))
//!     }
//!
//!     fn evolve(_: Option<u32>, event: Recorded<Event>) -> Result<Option<u32>, Fault> {
//!         let Event::Counted(counted) = event.body;
//!         Ok(Some(counted.total))
//!     }
//! }
//!
//! carryall_sdk::export!(instance: Counter);
//!
//! use carryall_sdk::testing::given;
//! given::<Counter>([Event::Counted(Counted { total: 1 })])
//!     .when(Command::Count(Step { by: 2 }))
//!     .then([Event::Counted(Counted { total: 3 })]);
//! ```
//!
//! Natively the crate holds only the plain types, the traits and the harness, so that a handler's unit tests
//! run like any other; the bindings, the allocator and `memcmp` exist for `wasm32` alone.

#[cfg(all(target_arch = "wasm32", feature = "arena-allocator"))]
mod arena;
mod glue;
mod handler;
pub mod ids;
pub mod json;
mod manifest;
mod memcmp;
mod memo;
mod message;
mod model;
pub mod testing;
mod time;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;

pub use handler::{
    Comparison, Decision, Documents, InstanceHandler, Level, OntologyHandler, ProjectionHandler, Reads, Received,
    Recorded, UpcasterHandler,
};
pub use manifest::{Collection, Contract, Description, Manifest};
pub use message::{Message, Named, same_major};
pub use model::{
    Aggregate, Change, Command, Context, DocKey, Document, Edges, Fault, Header, NewCommand, NewEvent, Node, Outcome,
    Problem, ReadValue, RecordedEvent, Stored, Timestamp, Verdict, Write,
};

// Named by the macros, so that a handler crate needs no dependency of its own for them.
#[doc(hidden)]
pub use serde_json;

/// What nearly every handler uses.
pub mod prelude {
    pub use crate::{
        Aggregate, Comparison, Context, Decision, DocKey, Documents, Edges, Fault, InstanceHandler, Level, Manifest,
        NewCommand, Node, OntologyHandler, Problem, ProjectionHandler, Reads, Received, Recorded, Stored, Timestamp,
        UpcasterHandler, Write,
    };
}

/// Makes a handler type the component's export. Once per crate, at its top level:
/// `carryall_sdk::export!(instance: MyHandler);` with `instance`, `ontology`, `projection` or `upcaster`.
/// Expands to nothing on native targets.
#[macro_export]
macro_rules! export {
    (instance: $handler:ty) => {
        $crate::__export!(instance, InstanceGuest, $handler);
    };
    (ontology: $handler:ty) => {
        $crate::__export!(ontology, OntologyGuest, $handler);
    };
    (projection: $handler:ty) => {
        $crate::__export!(projection, ProjectionGuest, $handler);
    };
    (upcaster: $handler:ty) => {
        $crate::__export!(upcaster, UpcasterGuest, $handler);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($world:ident, $guest:ident, $handler:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "the symbols a component exports are generated as unsafe extern functions")]
        const _: () = {
            type Guest = $crate::guest::$guest<$handler>;
    $crate::guest::manifest::export!(Guest with_types_in $crate::guest::manifest);
    $crate::guest::$world::export!(Guest with_types_in $crate::guest::$world);
        };
    };
}
