//! `carryall verify`: offline, on a data folder at rest. Changes nothing in the log.

use serde_json::json;

use super::output::{Output, table};
use super::overrides::Overrides;
use super::{Done, Failure};
use crate::event_store::verify::Report;
use crate::{app, telemetry};

/// Checks the chain, numbers and ids of the log, and that the index is its fold. Ends badly when anything is found.
pub(super) fn run(overrides: &Overrides, output: &mut Output) -> Result<Done, Failure> {
    let (config, _) = overrides.load()?;
    telemetry::init("warn", config.log_format).map_err(anyhow::Error::from)?;
    let bar = output.bar(0, "segments");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(app::verify(&config, |report| {
        bar.set_length(report.segments);
        bar.set_position(report.segments);
    }))?;
    bar.finish_and_clear();
    output.result(&json!(report), |_| text(&report))?;
    Ok(if report.is_clean() { Done::Well } else { Done::Badly })
}

fn text(report: &Report) -> String {
    let index = match (report.index_checked, report.index_behind) {
        (false, _) => "not there".to_owned(),
        (true, 0) => "compared with the log".to_owned(),
        (true, behind) => format!("compared with the log but for the last {behind} segments, which a host takes in"),
    };
    let mut text = format!(
        "{} events of {} aggregates in {} segments ({} bytes), {} partitions; {} commands, {} of them undecided; \
         index {index}\n",
        report.events,
        report.aggregates,
        report.segments,
        report.bytes,
        report.partitions,
        report.commands,
        report.undecided,
    );
    if report.is_clean() {
        text.push_str("everything holds");
        return text;
    }
    let rows: Vec<Vec<String>> = report
        .findings
        .iter()
        .map(|finding| vec![finding.key.clone(), finding.code.to_owned(), finding.message.clone()])
        .collect();
    text.push_str(&format!("{} findings\n{}", report.findings_count, table(&["KEY", "FINDING", "WHAT"], &rows)));
    text
}
