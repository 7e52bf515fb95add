//! The broken version of the handler of notebooks.
#![cfg(target_family = "wasm")]

#[path = "../src/fragile.rs"]
mod fragile;

const VERSION: &str = "0.1.0";
const BROKEN: bool = true;
