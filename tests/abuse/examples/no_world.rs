//! A component that exports nothing at all.
#![cfg(target_family = "wasm")]
