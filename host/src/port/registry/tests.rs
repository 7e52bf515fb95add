//! The conformance suites on the registry in memory.

use super::conformance;
use super::memory::MemoryRegistry;

#[tokio::test]
async fn the_registry_in_memory_keeps_the_contract() {
    conformance::all(async || MemoryRegistry::default()).await;
}

#[tokio::test]
async fn dead_letters_in_memory_keep_the_contract() {
    conformance::dead_letters(&MemoryRegistry::default()).await;
}
