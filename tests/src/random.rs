//! Random numbers from a seed, so that a run can be repeated.

use std::sync::atomic::{AtomicU64, Ordering};

/// The generator splitmix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct Random(AtomicU64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(AtomicU64::new(seed))
    }

    /// A number from 0 to `below` - 1.
    pub fn below(&self, below: u64) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15;
        let mut word = self.0.fetch_add(step, Ordering::SeqCst).wrapping_add(step);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % below
    }
}
