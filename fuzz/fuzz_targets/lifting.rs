//! Fuzzes answers of hostile guests.
#![no_main]

#[allow(dead_code)] // Each target runs one of them.
#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::guests::lifting(data));
