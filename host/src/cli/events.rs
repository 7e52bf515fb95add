//! `carryall events`: the log of a running host, as pages and as a live tail that survives a restart of the host.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, Subcommand};
use http_body_util::BodyExt as _;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::http::{Client, escape, query};
use super::output::{Output, cell, table};
use super::remote::Remote;
use super::{Done, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Events in the log's order, oldest first.
    List(List),
    /// One event, as it is stored.
    Get {
        event_id: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Follow the log: one envelope a line, until stopped.
    Tail {
        /// Only what comes after this event id of the stream; without it, from the log's start.
        #[arg(long)]
        after: Option<String>,
        /// Only these event types, separated by commas.
        #[arg(long)]
        types: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only events of this aggregate: TYPE/ID.
    #[arg(long, value_name = "TYPE/ID")]
    aggregate: Option<String>,
    /// Continue after the `next` of an earlier page.
    #[arg(long)]
    after: Option<String>,
    /// Events at most.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Only these event types, separated by commas.
    #[arg(long)]
    types: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(action: Action, output: &mut Output) -> Result<Done, Failure> {
    match action {
        Action::List(list) => list.run(output).await,
        Action::Get { event_id, remote } => {
            let path = format!("/api/v1/events/{}", escape(&event_id));
            let answer = remote.client()?.send(Method::GET, &path, &[], Bytes::new()).await?;
            output.line(&String::from_utf8_lossy(answer.bytes()?))?;
            Ok(Done::Well)
        }
        Action::Tail { after, types, remote } => {
            Tail { client: remote.client()?, types, last: after }.run(output).await
        }
    }
}

impl List {
    async fn run(self, output: &mut Output) -> Result<Done, Failure> {
        let base = match &self.aggregate {
            None => "/api/v1/events".to_owned(),
            Some(aggregate) => {
                let Some((kind, id)) = aggregate.split_once('/') else {
                    return Err(Failure::Usage(format!("{aggregate}: an aggregate is TYPE/ID")));
                };
                format!("/api/v1/aggregates/{}/{}/events", escape(kind), escape(id))
            }
        };
        let client = self.remote.client()?;
        let mut events: Vec<Box<RawValue>> = Vec::new();
        let mut after = self.after;
        let wanted = self.limit as usize;
        while events.len() < wanted {
            let page_size = (wanted - events.len()).min(1000);
            let pairs =
                [("after", after.clone()), ("limit", Some(page_size.to_string())), ("types", self.types.clone())];
            let path = format!("{base}{}", query(&pairs));
            let answer = client.send(Method::GET, &path, &[], Bytes::new()).await?;
            let page: Page = serde_json::from_slice(answer.bytes()?).context("the answer is no page of events")?;
            events.extend(page.events);
            match page.next {
                Some(next) if after.as_deref() != Some(&next) => after = Some(next),
                _ => {
                    after = None;
                    break;
                }
            }
        }
        output.result(&Page { events, next: after }, describe)?;
        Ok(Done::Well)
    }
}

/// Events, each as it is stored.
#[derive(Serialize, Deserialize)]
struct Page {
    events: Vec<Box<RawValue>>,
    next: Option<String>,
}

fn describe(page: &Page) -> String {
    let rows: Vec<Vec<String>> = page
        .events
        .iter()
        .map(|event| {
            let event: Value = serde_json::from_str(event.get()).unwrap_or_default();
            ["occurred_at", "aggregate_type", "aggregate_id", "sequence_number", "event_type", "event_id"]
                .iter()
                .map(|name| cell(&event[name]))
                .collect()
        })
        .collect();
    let mut text = table(&["TIME", "TYPE", "AGGREGATE", "SEQ", "EVENT", "ID"], &rows);
    if let Some(next) = &page.next {
        text.push_str(&format!("\nmore: --after {next}"));
    }
    text
}

/// A tail that takes up where it was when the connection is lost.
struct Tail {
    client: Client,
    types: Option<String>,
    last: Option<String>,
}

/// Long enough not to press a host that starts, short enough not to be noticed.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// An event's line is at most 768 KiB; a stream that sends more without a line feed is no stream of ours.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Tail {
    async fn run(mut self, output: &mut Output) -> Result<Done, Failure> {
        // The first connection must succeed: a wrong URL or token is to be told, not retried for ever.
        self.follow(output).await?;
        loop {
            output.note("the host ended the stream; connecting again");
            tokio::time::sleep(RECONNECT_AFTER).await;
            if let Err(failure) = self.follow(output).await {
                output.note(failure);
            }
        }
    }

    async fn follow(&mut self, output: &mut Output) -> Result<(), Failure> {
        let path = format!("/api/v1/events{}", query(&[("types", self.types.clone())]));
        let mut headers = vec![("accept", "text/event-stream")];
        let last = self.last.clone();
        if let Some(last) = &last {
            headers.push(("last-event-id", last));
        }
        let mut response = self.client.open(Method::GET, &path, &headers, Bytes::new()).await?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.context("read the refusal")?.to_bytes();
            return Err(super::http::Answer { status, body }.problem());
        }
        let mut pending = Vec::new();
        while let Some(frame) = response.frame().await {
            // A cut stream is how a host that stops says so.
            let Ok(frame) = frame else { return Ok(()) };
            let Some(data) = frame.data_ref() else { continue };
            pending.extend_from_slice(data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                self.take(&String::from_utf8_lossy(&line), output)?;
            }
            if pending.len() > LINE_BYTES_MAX {
                return Err(Failure::Failed(anyhow::anyhow!("the stream sends a line without end")));
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &str, output: &mut Output) -> Result<(), Failure> {
        let line = line.trim_end();
        if let Some(id) = line.strip_prefix("id:") {
            self.last = Some(id.trim().to_owned());
        } else if let Some(data) = line.strip_prefix("data:") {
            output.line(data.trim_start())?;
        }
        Ok(())
    }
}
