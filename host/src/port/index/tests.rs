//! The index in memory passes the suite.
#![allow(clippy::unwrap_used)]

use super::conformance;
use super::memory::MemoryIndex;

#[tokio::test]
async fn the_index_in_memory_conforms() {
    conformance::all(async || MemoryIndex::new()).await;
}
