//! Fuzzes lines of the log and JSON from clients.
#![no_main]

#[allow(dead_code)] // Each target runs one of them.
#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::envelope(data));
