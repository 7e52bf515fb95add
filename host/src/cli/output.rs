//! Where the command line writes: results to stdout as text or JSON, the rest to stderr. The only place that does.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use super::Failure;

/// The two streams, and whether results are JSON.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub fn new(json: bool) -> Output {
        Output { json }
    }

    /// A result: JSON as it is, or the text made of it.
    pub fn result<T: Serialize>(&mut self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let shown =
            if self.json { serde_json::to_string_pretty(value).map_err(anyhow::Error::new)? } else { text(value) };
        self.line(&shown)
    }

    /// One line to stdout.
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", line.trim_end_matches('\n'))?;
        out.flush()?;
        Ok(())
    }

    /// Something the human should know while waiting; not part of the result.
    pub fn note(&mut self, text: impl Display) {
        let mut out = io::stderr().lock();
        // Nobody is there to be told that stderr is closed.
        let _closed = writeln!(out, "{text}");
    }

    /// The reason of a failure, as JSON when results are.
    pub fn error(&mut self, failure: &Failure) {
        if self.json {
            let kind = if matches!(failure, Failure::Usage(_)) { "wrong_use" } else { "failed" };
            self.note(serde_json::json!({"error": kind, "detail": failure.to_string()}));
        } else {
            self.note(format!("error: {failure}"));
        }
    }

    /// A bar over `total` steps: drawn at a terminal, silent elsewhere.
    pub fn bar(&self, total: u64, what: &'static str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if self.json || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {elapsed}");
        bar.set_style(style.expect("the template is well formed"));
        bar.set_message(what);
        bar
    }

    /// A bar that is never drawn.
    pub fn hidden_bar(&self) -> ProgressBar {
        ProgressBar::hidden()
    }
}

/// Whether the reader of our output went away (`carryall events list | head`), which is no failure.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Rows under headings, each column as wide as its widest cell.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let head: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row))).collect::<Vec<_>>().join("\n")
}

/// A field as text: strings without quotes, absent as `-`.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
