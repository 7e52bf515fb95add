//! The conformance suite on the read model in memory.

use super::conformance;
use super::memory::MemoryReadModel;
use crate::port::registry::MemoryRegistry;

#[tokio::test]
async fn the_read_model_in_memory_keeps_the_contract() {
    let empty = async || {
        let registry = MemoryRegistry::default();
        (MemoryReadModel::new(registry.clone()), registry)
    };
    conformance::all(empty).await;
}
