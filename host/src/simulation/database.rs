//! The way of one process to the database: calls fail before or after their effect, and the database is away for a
//! while. Every effect and every checkpoint is told to the auditor.

use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::clock::{SimClock, Skew};
use super::world::{World, away};
use crate::domain::Timestamp;
use crate::port::Result;
use crate::port::clock::Clock as _;
use crate::port::read_model::ReadModel as _;
use crate::tests::database::{Effect, Rows, Way};

const WHAT: &str = "the database";

#[derive(Debug, Clone)]
pub struct SimWay {
    pub world: Arc<World>,
    pub who: String,
}

impl Way for SimWay {
    fn rows(&self) -> &Rows {
        &self.world.database
    }

    async fn call<T: Send>(
        &self,
        call: &'static str,
        words: impl FnOnce() -> String + Send,
        effect: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.world.sim.hop().await;
        if *self.world.database_away.lock() || self.world.strikes(|faults| faults.before) {
            self.world.sim.note(&self.who, call, 0, || "fails".into());
            return away(WHAT);
        }
        self.world.sim.note(&self.who, call, 1, words);
        let done = effect.await;
        self.world.sim.hop().await;
        if self.world.strikes(|faults| faults.after) {
            self.world.sim.note(&self.who, call, 2, || "answer lost".into());
            return away(WHAT);
        }
        done
    }

    /// A clock of its own, that no process has.
    fn time(&self, _: Timestamp) -> Timestamp {
        SimClock { sim: self.world.sim.clone(), skew: Skew::default() }.now()
    }

    fn saw(&self, effect: Effect<'_>) {
        let (world, sim) = (&self.world, &self.world.sim);
        let passed = |consumer: &str, (partition, position)| {
            if world.is_written(consumer) {
                world.truth.lock().checkpoint(consumer, partition, position, &world.database.effects.lock());
            }
        };
        match effect {
            Effect::Reset { done } => sim.note(&self.who, "was reset", u64::from(done), String::new),
            Effect::Claimed(answers) => {
                sim.note(&self.who, "claimed", answers.len() as u64, || format!("{answers:?}"));
            }
            Effect::Done { consumer, ids } => {
                let truth = world.truth.lock();
                ids.into_iter().for_each(|id| truth.done(consumer, id));
            }
            Effect::Applied { consumer, again, checkpoint } => {
                if let Some(id) = again.first() {
                    sim.broken("I6", format!("{consumer} applied {id} twice"));
                }
                if let Some(at) = checkpoint {
                    passed(consumer, at);
                }
            }
            Effect::Checkpoint { consumer, at } => passed(consumer, at),
            Effect::TookOver { successors } => {
                sim.note(&self.who, "took over", successors.len() as u64, || format!("{successors:?}"));
                let checkpoints = world.database.model.checkpoints().now_or_never().expect("it is in memory");
                for (consumer, partition, position) in checkpoints.expect("it never fails") {
                    for (_, new) in successors.iter().filter(|(old, _)| *old == consumer) {
                        passed(new, (partition, position));
                    }
                }
            }
        }
    }
}
