//! The claims of one consumer: the registry's rows, and which of them this consumer holds itself. A batch that was cut
//! short leaves claims behind that nobody else may take for the length of a lease; this consumer takes them up again at
//! once, with the attempt it has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use super::Error;
use crate::domain::Timestamp;
use crate::event_store::Record;
use crate::failpoint;
use crate::port;
use crate::port::clock::Clock;
use crate::port::registry::{Claim, ClaimFilter, Claimed, Finished, Owner, Registry, Status};

/// How often the registry is asked for its time within the length of a lease.
const ASKED_IN_A_LEASE: i64 = 4;

/// Claims of one consumer in this run of the process.
#[derive(Debug)]
pub struct Claims {
    registry: Arc<dyn Registry>,
    clock: Arc<dyn Clock>,
    consumer: String,
    owner: Owner,
    lease_ms: i64,
    /// The registry's time when it was last asked for it, and the moment of that on this process's monotonic clock.
    asked: Mutex<Option<(Timestamp, Duration)>>,
    /// Claims held and not settled, with their attempt. Bounded by what a consumer claims at once and holds back.
    open: Mutex<HashMap<Uuid, u32>>,
}

impl Claims {
    /// No claims yet.
    pub fn new(
        registry: Arc<dyn Registry>,
        clock: Arc<dyn Clock>,
        consumer: &str,
        owner: Owner,
        lease_ms: i64,
    ) -> Claims {
        Claims {
            registry,
            clock,
            consumer: consumer.to_owned(),
            owner,
            lease_ms,
            asked: Mutex::default(),
            open: Mutex::default(),
        }
    }

    /// The time by which leases are held. A wall clock here that is wrong, or jumps, makes no lease longer or shorter.
    pub async fn now(&self) -> port::Result<Timestamp> {
        let asked = *self.asked.lock();
        if let Some((time, at)) = asked {
            let passed = i64::try_from((self.clock.monotonic() - at).as_millis()).unwrap_or(i64::MAX);
            if passed < self.lease_ms / ASKED_IN_A_LEASE {
                return Ok(time.plus_ms(passed));
            }
        }
        let time = self.registry.time(self.clock.now()).await?;
        *self.asked.lock() = Some((time, self.clock.monotonic()));
        Ok(time)
    }

    /// Claims events, in order.
    pub async fn claim<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Result<Vec<Claimed>, Error> {
        let claims: Vec<Claim> = records
            .map(|record| Claim {
                event_id: record.event_id,
                aggregate_id: record.aggregate.id.as_str().to_owned(),
                sequence: record.sequence,
            })
            .collect();
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        port::fail_at("claim.before")?;
        let now = self.now().await?;
        let mut answers = self.registry.claim(&self.consumer, &self.owner, &claims, self.lease_ms, now).await?;
        failpoint::pass("claim.after");
        let mut unknown = Vec::new();
        {
            let mut open = self.open.lock();
            for (claim, answer) in claims.iter().zip(&mut answers) {
                match (&answer, open.get(&claim.event_id)) {
                    (Claimed::Yes { attempt }, _) => {
                        open.insert(claim.event_id, *attempt);
                    }
                    (Claimed::InProgress, Some(attempt)) => *answer = Claimed::Yes { attempt: *attempt },
                    (Claimed::InProgress, None) => unknown.push(claim.event_id),
                    (Claimed::DuplicateDone | Claimed::Stale | Claimed::Parked, _) => {
                        open.remove(&claim.event_id);
                    }
                }
            }
        }
        if !unknown.is_empty() {
            self.adopt(unknown).await?;
            let open = self.open.lock();
            for (claim, answer) in claims.iter().zip(&mut answers) {
                if let (Claimed::InProgress, Some(attempt)) = (&answer, open.get(&claim.event_id)) {
                    *answer = Claimed::Yes { attempt: *attempt };
                }
            }
        }
        Ok(answers)
    }

    /// Finds claims of this run whose answer was lost: nobody else could take them before their lease is over.
    async fn adopt(&self, event_ids: Vec<Uuid>) -> Result<(), Error> {
        let filter = ClaimFilter {
            handler: Some(self.consumer.clone()),
            status: Some(Status::Processing),
            limit: event_ids.len(),
            event_ids,
            ..ClaimFilter::default()
        };
        let owner = self.owner.to_string();
        let rows = self.registry.rows(&filter).await?;
        let ours = rows.into_iter().filter(|row| row.owner.as_deref() == Some(&*owner));
        self.open.lock().extend(ours.map(|row| (row.event_id, row.attempt_count)));
        Ok(())
    }

    /// Whether some are held and not settled.
    pub fn are_open(&self) -> bool {
        !self.open.lock().is_empty()
    }

    /// Renews every claim that is held. A lost one is found out when it is settled.
    pub async fn heartbeat(&self) -> Result<(), Error> {
        let ids: Vec<Uuid> = self.open.lock().keys().copied().collect();
        if !ids.is_empty() {
            self.registry.heartbeat(&self.consumer, &self.owner, &ids, self.now().await?).await?;
        }
        Ok(())
    }

    /// Marks events done; gives how many were still ours.
    pub async fn done(&self, finished: &[Finished]) -> Result<usize, Error> {
        if finished.is_empty() {
            return Ok(0);
        }
        port::fail_at("done.before")?;
        let fenced = self.registry.done(&self.consumer, &self.owner, finished, self.now().await?).await?;
        failpoint::pass("done.after");
        self.settled(finished);
        if !fenced.is_empty() {
            tracing::info!(consumer = self.consumer, claims = fenced.len(), "claims were taken over");
        }
        Ok(finished.len() - fenced.len())
    }

    /// Notes claims that are settled: here, or by a sink in its own transaction.
    pub fn settled(&self, finished: &[Finished]) {
        let mut open = self.open.lock();
        for event in finished {
            open.remove(&event.event_id);
        }
    }

    /// Ends attempts without an effect.
    pub async fn fail(&self, events: &[Finished], status: Status, error: &str) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        port::fail_at("fail.before")?;
        self.registry.fail(&self.consumer, &self.owner, events, status, error, self.now().await?).await?;
        failpoint::pass("fail.after");
        self.settled(events);
        Ok(())
    }

    /// Gives back what claiming events changed: of each an earlier one is not free yet. Nobody else could take them
    /// while they are renewed here, and whoever has the earlier one may come to decide these as well.
    pub async fn give_back(&self, claims: &[(Record, Claimed)]) -> Result<(), Error> {
        let mut ours = Vec::new();
        for (record, claimed) in claims {
            match claimed {
                Claimed::Yes { attempt } => ours.push(finished(record, *attempt)),
                Claimed::Parked => self.release(record.event_id).await?,
                Claimed::DuplicateDone | Claimed::Stale | Claimed::InProgress => {}
            }
        }
        self.fail(&ours, Status::Failed, "an earlier event of this aggregate is not free yet").await
    }

    /// Claims events behind a parked one, and gives them rows that say so.
    pub async fn park_behind(&self, records: &[Record]) -> Result<(), Error> {
        let answers = self.claim(records.iter()).await?;
        let ours = records.iter().zip(answers).filter_map(|(record, claimed)| match claimed {
            Claimed::Yes { attempt } => Some(finished(record, attempt)),
            _ => None,
        });
        let error = "waits for an earlier event of this aggregate, which is in the dead letters";
        self.fail(&ours.collect::<Vec<_>>(), Status::Parked, error).await
    }

    /// Makes an event claimable again, whatever its row says but `done`.
    pub async fn release(&self, event_id: Uuid) -> Result<(), Error> {
        self.open.lock().remove(&event_id);
        self.registry.release(&self.consumer, event_id, self.now().await?).await?;
        Ok(())
    }
}

/// The end of an attempt at an event.
pub fn finished(record: &Record, attempt: u32) -> Finished {
    Finished {
        event_id: record.event_id,
        aggregate_id: record.aggregate.id.as_str().to_owned(),
        sequence: record.sequence,
        attempt,
    }
}
