//! The claims of one consumer: the registry's rows, and which of them this consumer holds itself. A batch that was cut
//! short leaves claims behind that nobody else may take for the length of a lease; this consumer takes them up again at
//! once, with the attempt it has.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::Error;
use crate::domain::Aggregate;
use crate::event_store::Record;
use crate::failpoint;
use crate::port;
use crate::port::clock::Clock;
use crate::port::registry::{Claim, Claimed, Finished, Owner, Registry, Status};

/// Claims of one consumer in this run of the process.
#[derive(Debug)]
pub struct Claims {
    registry: Arc<dyn Registry>,
    clock: Arc<dyn Clock>,
    consumer: String,
    owner: Owner,
    lease_ms: i64,
    /// Claims held and not settled. Bounded by what a consumer claims at once and holds back.
    open: HashMap<Uuid, (Aggregate, Finished)>,
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
        Claims { registry, clock, consumer: consumer.to_owned(), owner, lease_ms, open: HashMap::new() }
    }

    /// Claims events, in order.
    pub async fn claim<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> Result<Vec<Claimed>, Error> {
        let records: Vec<&Record> = records.collect();
        let claims: Vec<Claim> = records
            .iter()
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
        let now = self.clock.now();
        let mut answers = self.registry.claim(&self.consumer, &self.owner, &claims, self.lease_ms, now).await?;
        failpoint::pass("claim.after");
        for (record, answer) in records.into_iter().zip(&mut answers) {
            match answer {
                Claimed::Yes { attempt } => {
                    let claim = (record.aggregate.clone(), finished(record, *attempt));
                    self.open.insert(record.event_id, claim);
                }
                Claimed::InProgress => {
                    if let Some((_, held)) = self.open.get(&record.event_id) {
                        *answer = Claimed::Yes { attempt: held.attempt };
                    }
                }
                Claimed::DuplicateDone | Claimed::Stale | Claimed::Parked => {
                    self.open.remove(&record.event_id);
                }
            }
        }
        Ok(answers)
    }

    /// Claims held of one aggregate.
    pub fn open_of(&self, aggregate: &Aggregate) -> Vec<Finished> {
        self.open.values().filter(|(of, _)| of == aggregate).map(|(_, claim)| claim.clone()).collect()
    }

    /// Renews claims while something takes long. A lost one is found out when it is settled.
    pub async fn heartbeat(&self, ids: &[Uuid]) -> Result<(), Error> {
        self.registry.heartbeat(&self.consumer, &self.owner, ids, self.clock.now()).await?;
        Ok(())
    }

    /// Marks events done; gives how many were still ours.
    pub async fn done(&mut self, finished: &[Finished]) -> Result<usize, Error> {
        if finished.is_empty() {
            return Ok(0);
        }
        port::fail_at("done.before")?;
        let fenced = self.registry.done(&self.consumer, &self.owner, finished, self.clock.now()).await?;
        failpoint::pass("done.after");
        self.settled(finished);
        if !fenced.is_empty() {
            tracing::info!(consumer = self.consumer, claims = fenced.len(), "claims were taken over");
        }
        Ok(finished.len() - fenced.len())
    }

    /// Notes claims that a sink settled in its own transaction.
    pub fn settled(&mut self, finished: &[Finished]) {
        for event in finished {
            self.open.remove(&event.event_id);
        }
    }

    /// Ends an attempt without an effect.
    pub async fn fail(&mut self, event: &Finished, status: Status, error: &str) -> Result<(), Error> {
        port::fail_at("fail.before")?;
        self.registry.fail(&self.consumer, &self.owner, event, status, error, self.clock.now()).await?;
        failpoint::pass("fail.after");
        self.open.remove(&event.event_id);
        Ok(())
    }

    /// Claims events behind a parked one, and gives them rows that say so.
    pub async fn park_behind(&mut self, records: &[Record]) -> Result<(), Error> {
        let answers = self.claim(records.iter()).await?;
        for (record, claimed) in records.iter().zip(answers) {
            if let Claimed::Yes { attempt } = claimed {
                let error = "waits for an earlier event of this aggregate, which is in the dead letters";
                self.fail(&finished(record, attempt), Status::Parked, error).await?;
            }
        }
        Ok(())
    }

    /// Makes an event claimable again, whatever its row says but `done`.
    pub async fn release(&mut self, event_id: Uuid) -> Result<(), Error> {
        self.open.remove(&event_id);
        self.registry.release(&self.consumer, event_id, self.clock.now()).await?;
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
