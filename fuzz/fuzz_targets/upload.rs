//! Fuzzes uploads that are no components, or strange ones.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::guests::upload(data));
