//! `carryall config`.

use serde_json::json;

use super::output::{Output, table};
use super::overrides::Overrides;
use super::{Done, Failure};
use crate::config::Values;

/// Prints the effective values; says everything that is wrong with them, after printing them.
pub(super) fn run(overrides: &Overrides, output: &mut Output) -> Result<Done, Failure> {
    let inputs = overrides.inputs()?;
    let loaded = crate::config::Config::load(&inputs);
    let (values, notes, problems) = match loaded {
        Ok((config, values)) => (values, config.notes, Vec::new()),
        Err(refused) => (Values::layer(&inputs, &mut Vec::new()), Vec::new(), refused.problems),
    };
    let shown = values.shown();
    let value = json!({"settings": shown, "notes": notes, "problems": problems});
    output.result(&value, |_| {
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|shown| {
                let value = shown.value.clone().unwrap_or_else(|| "-".into());
                vec![shown.variable.to_owned(), value, shown.source.clone()]
            })
            .collect();
        table(&["SETTING", "VALUE", "SOURCE"], &rows)
    })?;
    for note in &notes {
        output.note(format!("note: {note}"));
    }
    match problems.is_empty() {
        true => Ok(Done::Well),
        false => Err(crate::config::Refused { problems }.into()),
    }
}
