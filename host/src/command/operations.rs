//! What operators do to consumers: let a dead letter go on, give it up, free a claim. Dead letters are recorded in the
//! log by [`Parking`], so that a rebuilt host knows them; a claim is derived and needs no record.

use std::sync::Arc;

use uuid::Uuid;

use super::Error;
use crate::port::clock::Clock;
use crate::port::registry::{DeadLetter, Registry};
use crate::state::Parking;

/// Greatest length of a reason, in bytes: it is kept for ever.
const REASON_BYTES_MAX: usize = 1_000;

/// The least age of claims that may go, in hours: longer than any statement that may still ask for one.
const RETIRED_HOURS_MIN: u64 = 1;
const RETIRED_HOURS_MAX: u64 = 87_600;
/// Claims removed by one request, and by one statement: the request ends within its time, others get at the rows.
const RETIRED_MAX: u64 = 100_000;
const RETIRED_AT_ONCE: usize = 5_000;

/// Acts on dead letters and claims. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Operations {
    parking: Parking,
    registry: Arc<dyn Registry>,
    clock: Arc<dyn Clock>,
}

impl Operations {
    /// Over the dead letters and the registry of this store.
    pub fn new(parking: Parking, registry: Arc<dyn Registry>, clock: Arc<dyn Clock>) -> Operations {
        Operations { parking, registry, clock }
    }

    /// Lets the aggregate of a dead letter go on, from the parked event, in order.
    pub async fn retry(&self, id: Uuid, actor: &str) -> Result<DeadLetter, Error> {
        Ok(self.parking.retry(id, actor).await?)
    }

    /// Gives the parked event up; a command ends as CANCELLED.
    pub async fn discard(&self, id: Uuid, reason: &str, actor: &str) -> Result<DeadLetter, Error> {
        if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
            let reason = format!("it must have 1 to {REASON_BYTES_MAX} bytes");
            return Err(Error::Field { field: "reason", reason });
        }
        Ok(self.parking.discard(id, reason, actor).await?)
    }

    /// Removes claims that ended longer ago. What was handled is known without them. Gives how many, and whether there
    /// may be more.
    pub async fn retire(&self, older_than_hours: u64) -> Result<(u64, bool), Error> {
        if !(RETIRED_HOURS_MIN..=RETIRED_HOURS_MAX).contains(&older_than_hours) {
            let reason = format!("it must be from {RETIRED_HOURS_MIN} to {RETIRED_HOURS_MAX}");
            return Err(Error::Field { field: "older_than_hours", reason });
        }
        let age_ms = i64::try_from(older_than_hours * 3_600_000).unwrap_or(i64::MAX);
        let before = self.clock.now().plus_ms(-age_ms);
        let mut retired = 0;
        while retired < RETIRED_MAX {
            let gone = self.registry.retire(before, RETIRED_AT_ONCE).await?;
            retired += gone;
            if gone < RETIRED_AT_ONCE as u64 {
                return Ok((retired, false));
            }
        }
        Ok((retired, true))
    }

    /// Makes a claim free at once, whoever holds it; its event is handled again. Refused for what is done.
    pub async fn release(&self, handler: &str, event_id: Uuid) -> Result<(), Error> {
        if self.registry.release(handler, event_id, self.clock.now()).await? {
            Ok(())
        } else {
            Err(Error::NoClaim { handler: super::identity::cut(handler), event_id })
        }
    }
}
