//! Refusals: RFC 9457 with the fields that the contract adds, and without what must never leave the host.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::client::Answer;

/// A refusal whose form was checked.
#[derive(Debug, Clone)]
pub struct Problem {
    pub code: String,
    pub kind: String,
    pub retryable: bool,
    pub body: Value,
}

impl Problem {
    pub(crate) fn read(answer: &Answer, status: u16) -> anyhow::Result<Problem> {
        let text = answer.text();
        ensure!(answer.status == status, "expected a problem {status}, got {}: {text}", answer.status);
        let content_type = answer.header("content-type").unwrap_or_default();
        ensure!(content_type.starts_with("application/problem+json"), "{status} as {content_type:?}: {text}");
        let body = answer.json()?;
        let field = |name: &str| body[name].as_str().with_context(|| format!("a problem without {name}: {text}"));
        let problem = Problem {
            code: field("code")?.to_owned(),
            kind: field("type")?.to_owned(),
            retryable: body["retryable"].as_bool().with_context(|| format!("a problem without retryable: {text}"))?,
            body: body.clone(),
        };
        ensure!(!field("title")?.is_empty(), "an empty title: {text}");
        ensure!(!field("detail")?.is_empty(), "a problem that does not say what is wrong: {text}");
        ensure!(body["status"] == status, "the body's status is not the answer's: {text}");
        for leak in ["panicked", "src/", ".rs:", "/tmp/", "stack backtrace", "operator-token"] {
            ensure!(!text.contains(leak), "a refusal leaks {leak:?}: {text}");
        }
        Ok(problem)
    }

    /// The same problem, when its code is this one.
    pub fn code(self, code: &str) -> anyhow::Result<Problem> {
        ensure!(self.code == code, "expected code {code}: {}", self.body);
        Ok(self)
    }
}
