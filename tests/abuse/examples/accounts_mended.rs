//! The mended version of the other documents of accounts.
#![cfg(target_family = "wasm")]

#[path = "../src/accounts.rs"]
mod accounts;

const VERSION: &str = "3.0.0";
const BROKEN: bool = false;
