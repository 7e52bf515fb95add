//! `carryall dead-letters`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::http::{escape, query};
use super::output::{Output, cell, table};
use super::remote::Remote;
use super::{Done, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// What is parked.
    List {
        /// `parked`, `released` or `discarded`; without it the host's default.
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Let an aggregate go on, in order, from this letter.
    Retry {
        id: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Give one up: its command ends CANCELLED, and the aggregate goes on.
    Discard {
        id: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        remote: Remote,
    },
}

pub(super) async fn run(action: Action, output: &mut Output) -> Result<Done, Failure> {
    match action {
        Action::List { state, remote } => {
            let path = format!("/admin/v1/dead-letters{}", query(&[("state", state)]));
            output.result(&remote.client()?.get(&path).await?, describe)?;
        }
        Action::Retry { id, remote } => {
            let path = format!("/admin/v1/dead-letters/{}/retry", escape(&id));
            output.result(&remote.client()?.post(&path, &json!({})).await?, |_| format!("{id} is tried again"))?;
        }
        Action::Discard { id, reason, remote } => {
            let path = format!("/admin/v1/dead-letters/{}/discard", escape(&id));
            let answer = remote.client()?.post(&path, &json!({"reason": reason})).await?;
            output.result(&answer, |_| format!("{id} is discarded"))?;
        }
    }
    Ok(Done::Well)
}

fn describe(page: &Value) -> String {
    let fields = ["id", "state", "handler", "aggregate_type", "aggregate_id", "sequence_number", "reason", "error"];
    let rows: Vec<Vec<String>> = page["dead_letters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|letter| fields.iter().map(|field| cell(&letter[field])).collect())
        .collect();
    if rows.is_empty() {
        return "nothing is parked".into();
    }
    table(&["ID", "STATE", "HANDLER", "TYPE", "AGGREGATE", "SEQ", "REASON", "ERROR"], &rows)
}
