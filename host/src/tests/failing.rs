//! A database whose calls fail on demand.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;

use super::database::{Rows, Way};
use crate::port::{Error, Result};

/// Which calls fail: after so many that go well, so many that do not.
#[derive(Debug, Clone, Default)]
pub struct Failures {
    plans: Arc<Mutex<HashMap<&'static str, (usize, usize)>>>,
}

impl Failures {
    /// The next call of this name fails, without an effect.
    pub fn next(&self, call: &'static str) {
        self.after(call, 0, 1);
    }

    /// `well` calls go well, then `failing` fail.
    pub fn after(&self, call: &'static str, well: usize, failing: usize) {
        self.plans.lock().insert(call, (well, failing));
    }

    /// Whether every failure that was asked for has happened.
    pub fn are_over(&self) -> bool {
        self.plans.lock().values().all(|(_, failing)| *failing == 0)
    }

    fn meet(&self, call: &str) -> Result<()> {
        match self.plans.lock().get_mut(call) {
            Some((well, _)) if *well > 0 => *well -= 1,
            Some((_, failing)) if *failing > 0 => {
                *failing -= 1;
                return Err(Error::Unavailable { what: "the database", reason: format!("{call}: an injected fault") });
            }
            _ => {}
        }
        Ok(())
    }
}

/// The way to a database on which calls fail as planned, before their effect, or after it (`claim's answer`).
#[derive(Debug, Clone)]
pub struct Failing {
    pub rows: Arc<Rows>,
    pub failures: Failures,
}

impl Way for Failing {
    fn rows(&self) -> &Rows {
        &self.rows
    }

    async fn call<T: Send>(
        &self,
        call: &'static str,
        _words: impl FnOnce() -> String + Send,
        effect: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.failures.meet(call)?;
        let done = effect.await?;
        self.failures.meet(&format!("{call}'s answer"))?;
        Ok(done)
    }
}
