//! `carryall serve`: one process with its roles, until it is told to stop.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::overrides::Overrides;
use super::{Done, Failure};
use crate::{app, telemetry};

/// How long leaving the groups of a Kafka may take in the end; one that is away never answers.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, then drains.
pub(super) fn run(overrides: &Overrides) -> Result<Done, Failure> {
    let (config, _) = overrides.load()?;
    telemetry::init(&config.log, config.log_format).map_err(anyhow::Error::from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let stop = CancellationToken::new();
        let asked = stop.clone();
        tokio::spawn(async move {
            match app::asked_to_stop().await {
                Ok(()) => tracing::info!("asked to stop"),
                Err(error) => tracing::error!(%error, "signals cannot be received"),
            }
            asked.cancel();
        });
        app::serve(config, stop).await
    });
    runtime.shutdown_timeout(LEAVE_MAX);
    served?;
    Ok(Done::Well)
}
