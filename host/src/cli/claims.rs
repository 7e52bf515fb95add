//! `carryall claims`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::http::{escape, query};
use super::output::{Output, cell, table};
use super::remote::Remote;
use super::{Done, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Claims by status.
    List {
        /// `processing`, `done`, `failed`, `skipped_stale` or `parked`; without it all.
        #[arg(long)]
        status: Option<String>,
        /// A consumer, such as `instance_worker`.
        #[arg(long)]
        handler: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Make a claim free at once, whoever holds it; its event is handled again.
    Release {
        handler: String,
        event_id: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Remove claims that ended long ago, now instead of on schedule. Nothing is handled again by that.
    Retire {
        /// Age from which on they go, at least one hour.
        #[arg(long)]
        older_than_hours: u64,
        #[command(flatten)]
        remote: Remote,
    },
}

pub(super) async fn run(action: Action, output: &mut Output) -> Result<Done, Failure> {
    match action {
        Action::List { status, handler, remote } => {
            let path = format!("/admin/v1/claims{}", query(&[("status", status), ("handler", handler)]));
            output.result(&remote.client()?.get(&path).await?, describe)?;
        }
        Action::Release { handler, event_id, remote } => {
            let path = format!("/admin/v1/claims/{}/{}/release", escape(&handler), escape(&event_id));
            let answer = remote.client()?.post(&path, &json!({})).await?;
            output.result(&answer, |_| format!("{event_id} is handled again"))?;
        }
        Action::Retire { older_than_hours, remote } => {
            let client = remote.client()?;
            let mut retired = 0;
            loop {
                let body = json!({"older_than_hours": older_than_hours});
                let answer = client.post("/admin/v1/claims/retire", &body).await?;
                retired += answer["retired"].as_u64().unwrap_or_default();
                if answer["more"] != true {
                    break;
                }
            }
            output.result(&json!({"retired": retired}), |_| format!("{retired} claims were removed"))?;
        }
    }
    Ok(Done::Well)
}

fn describe(page: &Value) -> String {
    let fields =
        ["handler", "event_id", "aggregate_id", "sequence_number", "status", "owner", "attempt_count", "last_error"];
    let rows: Vec<Vec<String>> = page["claims"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|claim| fields.iter().map(|field| cell(&claim[field])).collect())
        .collect();
    if rows.is_empty() {
        return "there are no such claims".into();
    }
    table(&["HANDLER", "EVENT", "AGGREGATE", "SEQ", "STATUS", "OWNER", "ATTEMPTS", "ERROR"], &rows)
}
