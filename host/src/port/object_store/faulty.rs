//! A decorator that makes any store behave as badly as the contract allows: lost answers, writes that land late, errors
//! before and after. Faults come from a script or a seed, so that a run repeats exactly.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Listing, ObjectStore, PutIf, PutNew};
use crate::port::{Error, Result};

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// An error; nothing is written.
    ErrorBefore,
    /// Nothing is written; a conditional write says `Unknown`.
    LostRequest,
    /// The call takes effect; a conditional write says `Unknown`, any other an error.
    LostResponse,
    /// A conditional write says `Unknown` and lands only after so many further calls, if its key is still free.
    LandsLate {
        calls: u32,
    },
    /// The call gives way to other tasks so many times, then goes on.
    Delay {
        yields: u32,
    },
}

/// Chances of the seeded faults, in per mille; what is left goes well.
#[derive(Debug, Clone, Copy)]
pub struct Chances {
    pub error_before: u32,
    pub lost_request: u32,
    pub lost_response: u32,
    pub lands_late: u32,
    pub delay: u32,
}

#[derive(Debug)]
struct State {
    script: VecDeque<Fault>,
    chances: Option<Chances>,
    random: u64,
    late: Vec<(u32, String, Bytes)>,
}

/// A store that fails on demand.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    state: Mutex<State>,
}

impl Faulty {
    /// The first calls meet these faults in turn, later ones none.
    pub fn scripted(inner: Arc<dyn ObjectStore>, faults: impl IntoIterator<Item = Fault>) -> Faulty {
        let state = State { script: faults.into_iter().collect(), chances: None, random: 0, late: Vec::new() };
        Faulty { inner, state: Mutex::new(state) }
    }

    /// Every call draws its fault from a seed.
    pub fn seeded(inner: Arc<dyn ObjectStore>, seed: u64, chances: Chances) -> Faulty {
        let state = State { script: VecDeque::new(), chances: Some(chances), random: seed, late: Vec::new() };
        Faulty { inner, state: Mutex::new(state) }
    }

    /// From now on every call draws its fault from a seed.
    pub fn seed(&self, seed: u64, chances: Chances) {
        let mut state = self.state.lock();
        state.random = seed;
        state.chances = Some(chances);
    }

    /// From now on calls meet these faults in turn, before anything else.
    pub fn push(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().script.extend(faults);
    }

    /// No more faults; writes under way land now.
    pub async fn heal(&self) -> Result<()> {
        let late = {
            let mut state = self.state.lock();
            state.script.clear();
            state.chances = None;
            std::mem::take(&mut state.late)
        };
        for (_, key, bytes) in late {
            self.inner.put_new(&key, bytes).await?;
        }
        Ok(())
    }

    /// Draws the fault of a call; writes that are due land first.
    async fn next(&self) -> Result<Fault> {
        let (fault, due) = {
            let mut state = self.state.lock();
            let (due, late) = std::mem::take(&mut state.late).into_iter().partition(|(calls, _, _)| *calls == 0);
            state.late = late;
            state.late.iter_mut().for_each(|(calls, _, _)| *calls -= 1);
            (state.draw(), due)
        };
        let due: Vec<(u32, String, Bytes)> = due;
        for (_, key, bytes) in due {
            self.inner.put_new(&key, bytes).await?;
        }
        if let Fault::Delay { yields } = fault {
            for _ in 0..yields {
                tokio::task::yield_now().await;
            }
        }
        Ok(fault)
    }
}

impl State {
    /// The generator splitmix64 (Steele, Lea, Flood 2014): one word of state, good enough for drawing faults.
    fn random(&mut self, below: u32) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        u32::try_from(word % u64::from(below.max(1))).expect("a remainder of a u32 fits a u32")
    }

    fn draw(&mut self) -> Fault {
        if let Some(fault) = self.script.pop_front() {
            return fault;
        }
        let Some(chances) = self.chances else { return Fault::None };
        let mut left = self.random(1000);
        let calls = self.random(12);
        for (chance, fault) in [
            (chances.error_before, Fault::ErrorBefore),
            (chances.lost_request, Fault::LostRequest),
            (chances.lost_response, Fault::LostResponse),
            (chances.lands_late, Fault::LandsLate { calls }),
            (chances.delay, Fault::Delay { yields: calls }),
        ] {
            if left < chance {
                return fault;
            }
            left -= chance;
        }
        Fault::None
    }
}

fn away() -> Error {
    Error::Unavailable { what: "the object store", reason: "an injected fault".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<PutNew> {
        match self.next().await? {
            Fault::None | Fault::Delay { .. } => self.inner.put_new(key, bytes).await,
            Fault::ErrorBefore => Err(away()),
            Fault::LostRequest => Ok(PutNew::Unknown),
            Fault::LostResponse => self.inner.put_new(key, bytes).await.map(|_| PutNew::Unknown),
            Fault::LandsLate { calls } => {
                self.state.lock().late.push((calls, key.to_owned(), bytes));
                Ok(PutNew::Unknown)
            }
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match self.next().await? {
            Fault::None | Fault::Delay { .. } => self.inner.get(key).await,
            _ => Err(away()),
        }
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        match self.next().await? {
            Fault::None | Fault::Delay { .. } => self.inner.put(key, bytes).await,
            Fault::LostResponse => {
                self.inner.put(key, bytes).await?;
                Err(away())
            }
            _ => Err(away()),
        }
    }

    async fn put_if(&self, key: &str, expected: Option<Bytes>, bytes: Bytes) -> Result<PutIf> {
        match self.next().await? {
            Fault::None | Fault::Delay { .. } => self.inner.put_if(key, expected, bytes).await,
            Fault::LostResponse => {
                self.inner.put_if(key, expected, bytes).await?;
                Err(away())
            }
            _ => Err(away()),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing> {
        match self.next().await? {
            Fault::None | Fault::Delay { .. } => self.inner.list(prefix, after, limit).await,
            _ => Err(away()),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.next().await? {
            Fault::None | Fault::Delay { .. } => self.inner.delete(key).await,
            _ => Err(away()),
        }
    }
}
