//! The handler components compiled into this binary. They are deployed like uploaded ones at the first start; nothing
//! else distinguishes them.

/// File stem (`instance`, `ontology`, `projection`) and bytes of each; empty when the host was built without
/// `cargo xtask build`.
pub const HANDLERS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/bundled.rs"));
