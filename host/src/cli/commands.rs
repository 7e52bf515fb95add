//! `carryall commands`.

use anyhow::Context as _;
use bytes::Bytes;
use clap::Subcommand;
use hyper::Method;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::output::{Output, cell};
use super::overrides::text_argument;
use super::remote::Remote;
use super::{Done, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Send one command and wait for its outcome.
    Send {
        /// Command type, such as CREATE_INSTANCE.
        command_type: String,
        /// Aggregate type, such as Instance.
        aggregate_type: String,
        /// Aggregate id, such as shop:Product:p1.
        aggregate_id: String,
        /// Payload: JSON, @FILE, or - for stdin.
        #[arg(default_value = "{}")]
        payload: String,
        /// The aggregate's last sequence, as you know it.
        #[arg(long)]
        expected_seq: Option<u64>,
        /// Id that makes a retry safe; without it the host makes one.
        #[arg(long)]
        command_id: Option<String>,
        /// Who acts, when no token says so.
        #[arg(long)]
        actor: Option<String>,
        /// Seconds to wait for the outcome; 0 does not wait.
        #[arg(long, default_value_t = 30)]
        wait: u32,
        #[command(flatten)]
        remote: Remote,
    },
}

/// A command as the host takes it, with the payload as it was given: what is wrong with it is for the host to say.
#[derive(Serialize)]
struct Body<'a> {
    command_type: String,
    aggregate_type: String,
    aggregate_id: String,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
}

pub(super) async fn run(action: Action, output: &mut Output) -> Result<Done, Failure> {
    let Action::Send {
        command_type,
        aggregate_type,
        aggregate_id,
        payload,
        expected_seq,
        command_id,
        actor,
        wait,
        remote,
    } = action;
    let payload = text_argument(&payload)?;
    let payload =
        serde_json::from_str(&payload).map_err(|error| Failure::Usage(format!("the payload is no JSON: {error}")))?;
    let body = Body { command_type, aggregate_type, aggregate_id, payload, expected_seq, command_id, actor };
    let prefer = format!("wait={wait}");
    let mut headers = vec![("content-type", "application/json")];
    if wait > 0 {
        headers.push(("prefer", &prefer));
    }
    let body = Bytes::from(serde_json::to_vec(&body).context("form the command")?);
    let answer = remote.client()?.send(Method::POST, "/api/v1/commands", &headers, body).await?.success()?;
    output.result(&answer, describe)?;
    Ok(match answer["status"].as_str() {
        Some("FAILED" | "CANCELLED") => Done::Badly,
        _ => Done::Well,
    })
}

fn describe(answer: &Value) -> String {
    let mut text = format!("{}  {}", cell(&answer["command_id"]), cell(&answer["status"]));
    if !answer["error"].is_null() {
        let error = &answer["error"];
        text.push_str(&format!("\n{}", error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned)));
    }
    if let Some(sequence) = answer["result"]["sequence_number"].as_u64() {
        text.push_str(&format!("\n{} sequence {sequence}", cell(&answer["result"]["aggregate_id"])));
    }
    text
}
