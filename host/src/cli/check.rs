//! `carryall check`: offline, on a data folder at rest. Changes nothing.

use clap::Args;
use serde_json::json;

use super::output::{Output, table};
use super::overrides::Overrides;
use super::{Done, Failure};
use crate::replay::Report;
use crate::{app, telemetry};

/// What to check, and where.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Decide at most so many commands again, evenly spread; without it, all of them.
    #[arg(long, value_name = "COMMANDS")]
    sample: Option<u64>,
    #[command(flatten)]
    overrides: Overrides,
}

/// Holds the store against the invariants. Ends badly when anything diverges.
pub(super) fn run(check: &Check, output: &mut Output) -> Result<Done, Failure> {
    let (config, _) = check.overrides.load()?;
    telemetry::init("error", config.log_format).map_err(anyhow::Error::from)?;
    let bar = output.bar(0, "checked");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(app::check(&config, check.sample, |_, done| {
        bar.set_length(done);
        bar.set_position(done);
    }))?;
    bar.finish_and_clear();
    output.result(&json!(report), |_| text(&report))?;
    Ok(if report.is_clean() { Done::Well } else { Done::Badly })
}

fn text(report: &Report) -> String {
    let mut rows = Vec::new();
    let mut first = Vec::new();
    for checked in &report.invariants {
        rows.push(vec![
            checked.invariant.as_str().to_owned(),
            checked.checked.to_string(),
            checked.skipped.to_string(),
            checked.divergences.to_string(),
            checked.note.clone().unwrap_or_default(),
        ]);
        if let Some(finding) = &checked.first {
            first.push(vec![finding.key.clone(), finding.code.to_owned(), finding.message.clone()]);
        }
    }
    let mut text = format!("{} events\n", report.events);
    text.push_str(&table(&["INVARIANT", "CHECKED", "NOT JUDGED", "DIVERGENCES", "NOTE"], &rows));
    if report.is_clean() {
        text.push_str("\neverything holds");
    } else {
        text.push_str("\nthe first divergence of each:\n");
        text.push_str(&table(&["KEY", "FINDING", "WHAT"], &first));
    }
    text
}
