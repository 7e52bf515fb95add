//! The bus of a process: within it, or Kafka. What only one of them has is told apart here and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::adapter::kafka::{KafkaBus, Options, SESSION_TIMEOUT};
use crate::config::{Config, Kafka};
use crate::port;
use crate::port::bus::{Bus, InProcessBus};

/// Topics of the bundled domain, and of what the host itself records.
const TOPICS: [&str; 9] = [
    "instance_commands",
    "ontology_commands",
    "database_commands",
    "instance_events",
    "ontology_events",
    "database_events",
    "handler_events",
    "operations_events",
    "projection_failures_dlq",
];

/// Opens the bus. A Kafka that is away does not keep the process from starting; one that cannot carry the log does.
pub(super) async fn open(config: &Config, store: Uuid, partitions: u16) -> anyhow::Result<Arc<dyn Bus>> {
    let Some(Kafka { bootstrap_servers, prefix }) = config.kafka.clone() else {
        return Ok(Arc::new(InProcessBus::default()));
    };
    let bus = KafkaBus::new(Options {
        bootstrap_servers,
        prefix,
        slots: partitions,
        store,
        flush_messages: config.publisher.flush_events,
        flush_timeout: Duration::from_millis(config.publisher.flush_timeout_ms),
    })?;
    match bus.ensure(&TOPICS.map(str::to_owned)).await {
        Ok(()) => {}
        Err(port::Error::Unavailable { reason, .. }) => {
            tracing::warn!(reason, "Kafka is not available yet; commands are taken, and sent to it when it is back");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Arc::new(bus))
}

/// Age at which a claim may be taken over. Where a group divides the work, whoever was given a partition knows that
/// the one before is gone, or was told to stop: its claims are taken over as soon as it is not heard of any more. Every
/// write of a claim names owner and attempt, so one that was only slow changes nothing.
pub(super) fn lease_ms(config: &Config, bus: &dyn Bus) -> u64 {
    let session_ms = u64::try_from(SESSION_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    if bus.follows_log() { config.lease_ms } else { config.lease_ms.min(session_ms) }
}
