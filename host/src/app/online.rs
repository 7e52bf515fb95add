//! Online checks: now and then a handful of what was written since the last look is decided again, and looked for in
//! the read model. A divergence is an error of the log and a metric; it stops nothing, since it harms nobody by
//! itself.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::parts::Parts;
use crate::deploy::Deployments;
use crate::domain::{EventKind, Partition, Position, event_type};
use crate::error::{Classified as _, Kind};
use crate::event_store::{EventStore, Record};
use crate::metrics::Metrics;
use crate::port::clock::Clock;
use crate::port::read_model::ReadModel;
use crate::port::read_model::builds::{Build, Builds, State};
use crate::replay::{self, Again, Checked, Decisions, Invariant, Load};
use crate::sandbox::Catalog;
use crate::state::{Parking, Progress};

/// Places looked at each time, and events at each: about ten milliseconds of guests.
const PLACES: u64 = 8;
const EVENTS_A_PLACE: usize = 2;
/// A longer history is folded from its begin to decide one command again: left to `carryall check`.
const SEQUENCE_MAX: u64 = 2_000;

/// What the watch looks at.
pub struct Watch {
    events: EventStore,
    catalog: Arc<Catalog>,
    read_model: Arc<dyn ReadModel>,
    builds: Arc<dyn Builds>,
    deployments: Deployments,
    progress: Progress,
    parking: Parking,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    load: Load,
    /// Everything below was looked at, by partition.
    at: Vec<Position>,
}

impl Watch {
    /// A watch over what is written from now on.
    pub fn new(parts: &Parts) -> Watch {
        Watch {
            events: parts.events.clone(),
            catalog: parts.catalog.clone(),
            read_model: parts.read_model.clone(),
            builds: parts.builds.clone(),
            deployments: parts.deployments.clone(),
            progress: parts.progress.clone(),
            parking: parts.parking.clone(),
            clock: parts.clock.clone(),
            metrics: parts.metrics.clone(),
            load: parts.load(),
            at: (0..parts.events.partitions()).map(|partition| parts.events.end(Partition(partition))).collect(),
        }
    }

    /// Looks at intervals until told to stop.
    pub async fn run(mut self, interval: Duration, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.clock.sleep(interval) => {}
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the online checks could not look; they look again later");
            }
        }
    }

    async fn look(&mut self) -> Result<(), replay::Error> {
        let mut determinism = Checked::new(Invariant::Determinism);
        let mut reads = Checked::new(Invariant::ReadYourWrites);
        let mut live = self.builds.builds().await?;
        live.retain(|build| build.state == State::Live);
        for partition in 0..self.at.len() {
            let from = self.at[partition];
            let on = Partition(u16::try_from(partition).expect("partitions are counted by a u16"));
            // What every consumer of this process is past: decided, and projected.
            let settled =
                self.progress.settled().iter().filter(|one| one.partition == on).map(|one| one.position).min();
            let Some(settled) = settled.filter(|settled| *settled > from) else { continue };
            let mut decisions = Decisions::new(self.events.clone(), self.load.clone());
            let step = ((settled.0 - from.0) / PLACES).max(EVENTS_A_PLACE as u64);
            let mut place = from;
            while place < settled {
                for record in self.events.read(on, place, EVENTS_A_PLACE).await? {
                    self.judge(&record, &live, &mut decisions, &mut determinism, &mut reads).await?;
                }
                place = Position(place.0 + step);
            }
            self.at[partition] = settled;
        }
        self.tell(&determinism);
        self.tell(&reads);
        Ok(())
    }

    async fn judge(
        &self,
        record: &Record,
        live: &[Build],
        decisions: &mut Decisions,
        determinism: &mut Checked,
        reads: &mut Checked,
    ) -> Result<(), replay::Error> {
        if record.sequence.0 > SEQUENCE_MAX {
            return Ok(());
        }
        if record.kind == EventKind::Command {
            let key = format!("{}#{}", record.aggregate, record.sequence);
            match decisions.again(record).await {
                Ok(Again::Same) => determinism.checked += 1,
                Ok(Again::NotJudged(_)) => determinism.skipped += 1,
                Ok(Again::Differs { code, message }) => determinism.add(key, code, message),
                // A part is away: the same place again at the next look.
                Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                Err(error) => determinism.add(key, error.code(), error.to_string()),
            }
            return Ok(());
        }
        let consumers = self.progress.settled();
        let aside = consumers.iter().any(|one| {
            self.parking.is_parked(&one.consumer, &record.aggregate)
                || self.parking.is_discarded(&one.consumer, record.event_id)
        });
        if aside || event_type::is_host_outcome(&record.event_type) {
            return Ok(());
        }
        let together = self.catalog.active();
        let handlers = self.deployments.handlers();
        for active in together.projection_handlers(record.aggregate.kind.as_str()) {
            let wanted = handlers.get(&*active.name).and_then(|deployment| deployment.wanted_build());
            // Until then readers see what another version writes.
            if !wanted.is_some_and(|wanted| live.iter().any(|build| build.name == wanted.name)) {
                reads.skipped += 1;
                continue;
            }
            replay::seen(&self.events, &*self.read_model, &together, active, record, reads).await?;
        }
        Ok(())
    }

    fn tell(&self, checked: &Checked) {
        let (looked_at, divergences) = self.metrics.checks(checked.invariant.as_str());
        looked_at.add(checked.checked);
        divergences.add(checked.divergences);
        if let Some(first) = &checked.first {
            let (invariant, count) = (checked.invariant.as_str(), checked.divergences);
            let (key, code, message) = (&first.key, first.code, &first.message);
            tracing::error!(invariant, count, key, code, message, "history diverges from what the code makes of it");
        }
    }
}
