//! Consumers by hand: a test lets one take up what there is and waits until that is done, and time passes when it says
//! so. What both kinds of work have in common is tested here, with work that only notes what it is given.
#![allow(clippy::unwrap_used)]

mod overlap;

use super::*;
use crate::tests::Process;

impl<W: Work> Consumer<W> {
    /// Takes up what there is and waits until it is done; gives whether the log has more.
    pub(crate) async fn work(&mut self) -> Result<bool, Error> {
        let able = self.take_up().await?;
        self.finish().await?;
        Ok(able && self.has_more())
    }

    /// Lets it work, and time pass, until nothing is left to do. Gives how often a part was away.
    pub(crate) async fn settle(&mut self, process: &Process) -> usize {
        let clock = &process.store.clock;
        let mut errors = 0;
        for _ in 0..200 {
            let due = match self.work().await {
                Ok(true) => continue,
                Ok(false) => self.context.course.lock().held.next_due(),
                Err(_) => {
                    errors += 1;
                    continue;
                }
            };
            match due {
                None => return errors,
                Some(due) => clock.advance(due.saturating_sub(clock.monotonic())),
            }
        }
        panic!("the consumer does not come to rest: {:?}", self.context.course.lock());
    }

    /// The checkpoint that is stored when time has passed.
    pub(crate) async fn stored_checkpoint(&mut self, process: &Process) -> Position {
        process.store.clock.advance(CHECKPOINT_INTERVAL);
        self.work().await.unwrap();
        process.store.checkpoint(&self.context.options.consumer).await
    }

    pub(crate) fn checkpoint(&self) -> Position {
        self.context.checkpoint()
    }

    /// Reads the log again from here.
    pub(crate) fn go_back(&mut self, to: Position) {
        self.context.course.lock().cursor = to;
    }
}
