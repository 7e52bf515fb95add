//! Opening a process's parts, again and again while one of them is away: a host that was started before its database
//! goes on by itself when the database is there. What no waiting mends ends the start with its reason.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::consumers::Consumers;
use super::parts::Parts;
use super::supervisor::Supervisor;
use crate::adapter::system_clock::SystemClock;
use crate::api::{Health, Part};
use crate::config::Config;
use crate::error::Classified;
use crate::metrics::Metrics;
use crate::port::clock::Clock as _;
use crate::port::object_store::probe;
use crate::{deploy, event_store, port, relay, state};

/// Pauses between attempts: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A process whose parts are all open.
pub struct Opened {
    pub parts: Parts,
    pub consumers: Consumers,
    pub supervisor: Supervisor,
}

/// What a process that is not open yet waits for. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<Mutex<Option<String>>>);

impl Waiting {
    /// For the probes: never ready.
    pub fn health(&self, metrics: Metrics) -> Health {
        let waiting = self.clone();
        Health::new(metrics, move || {
            let detail = waiting.0.lock().clone().unwrap_or_else(|| "opening its parts".to_owned());
            vec![Part { name: "start".into(), ready: false, detail }]
        })
    }
}

/// Opens everything; `None` when the process was told to stop meanwhile.
pub async fn open(
    config: &Config,
    metrics: &Metrics,
    waiting: &Waiting,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Opened>> {
    let clock = SystemClock::new();
    let mut pause = PAUSE_MIN;
    loop {
        let attempt = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            attempt = Box::pin(attempt(config, metrics, stop)) => attempt,
        };
        let error = match attempt {
            Err(error) if is_away(&error) => error,
            other => return other.map(Some),
        };
        tracing::warn!(error = %format!("{error:#}"), "a part is away; waiting for it");
        *waiting.0.lock() = Some(format!("{error:#}"));
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = clock.sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn attempt(config: &Config, metrics: &Metrics, stop: &CancellationToken) -> anyhow::Result<Opened> {
    let supervisor = Supervisor::new(stop.clone());
    let opened = async {
        let parts = Parts::open(config, metrics.clone(), &supervisor).await?;
        match Consumers::start(config, &parts, &supervisor).await {
            Ok(consumers) => Ok((parts, consumers)),
            Err(error) => {
                supervisor.stop(parts.close()).await;
                Err(error)
            }
        }
    };
    match opened.await {
        Ok((parts, consumers)) => Ok(Opened { parts, consumers, supervisor }),
        Err(error) => {
            supervisor.stop(async {}).await;
            Err(error)
        }
    }
}

/// Whether a part was away: it may be there again. A part that refuses will refuse again.
pub fn is_away(error: &anyhow::Error) -> bool {
    let codes = error.chain().filter_map(|cause| {
        None.or_else(|| cause.downcast_ref::<port::Error>().map(Classified::code))
            .or_else(|| cause.downcast_ref::<event_store::Error>().map(Classified::code))
            .or_else(|| cause.downcast_ref::<event_store::AppendError>().map(Classified::code))
            .or_else(|| cause.downcast_ref::<state::Error>().map(Classified::code))
            .or_else(|| cause.downcast_ref::<deploy::Error>().map(Classified::code))
            .or_else(|| cause.downcast_ref::<probe::Error>().map(Classified::code))
            .or_else(|| cause.downcast_ref::<relay::Error>().map(Classified::code))
    });
    // A store that gives no clear answers is one whose answers are lost on the way.
    codes.into_iter().any(|code| matches!(code, "part_unavailable" | "object_store_unclear"))
}
