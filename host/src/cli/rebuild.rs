//! `carryall rebuild`: offline, on a data folder at rest.

use serde_json::json;

use super::output::Output;
use super::overrides::Overrides;
use super::{Done, Failure};
use crate::{app, telemetry};

/// Deletes everything derived and folds the log again.
pub(super) fn run(overrides: &Overrides, output: &mut Output) -> Result<Done, Failure> {
    let (config, _) = overrides.load()?;
    telemetry::init("warn", config.log_format).map_err(anyhow::Error::from)?;
    let bar = output.bar(0, "events");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(app::rebuild(&config, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    }))?;
    bar.finish_and_clear();
    output.result(&json!(report), |_| {
        format!(
            "rebuilt from {} events in {} partitions; {} derived objects were deleted first",
            report.events, report.partitions, report.objects_deleted
        )
    })?;
    Ok(Done::Well)
}
