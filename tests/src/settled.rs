//! Waits for what comes by itself: bounded, and never for a time that something is thought to take.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::server::Server;

/// What is not so by then never will be.
const SOON: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Requests at a time.
const AT_ONCE: usize = 16;

/// Returns when it is so; an error that says `what` when it never is.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !is_so().await {
        ensure!(begin.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Returns when a host has said these words in its log.
pub async fn until_logged(host: &Server, words: &str) -> anyhow::Result<()> {
    let said = || async { host.host_log().contains(words) };
    until(words, said).await.with_context(|| host.host_log())
}

/// The answer of `/ready` once it has this status.
pub async fn ready(client: &Client, status: u16) -> anyhow::Result<Value> {
    let begin = Instant::now();
    loop {
        let answer = client.get("/ready").await;
        if let Ok(answer) = &answer
            && answer.status == status
        {
            return answer.json();
        }
        ensure!(begin.elapsed() < SOON, "/ready never answers {status}: {answer:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns when all of these commands are done; an error when one of them did not succeed.
pub async fn all_completed(client: &Client, commands: &[String]) -> anyhow::Result<()> {
    for some in commands.chunks(AT_ONCE) {
        let mut asked = JoinSet::new();
        for id in some {
            let (client, id) = (client.clone(), id.clone());
            asked.spawn(async move { client.outcome(&id).await });
        }
        while let Some(status) = asked.join_next().await {
            let status = status??;
            ensure!(status["status"] == "COMPLETED", "{status}");
        }
    }
    Ok(())
}

/// Returns when every consumer of a host, this projection's among them, is at the log's end, and nothing is written
/// beside what readers see: who stops the host then leaves no event that a projection lacks.
pub async fn consumers_at_the_end(operator: &Client, projection: &str) -> anyhow::Result<()> {
    let begin = Instant::now();
    let is_named = |row: &Value| row["name"] == projection;
    let is_done = |row: &Value| row["lag_events"] == 0 && row["name"].as_str().is_some_and(|name| !name.contains('@'));
    loop {
        let shown = operator.get("/admin/v1/consumers").await?.expect(200)?;
        let rows = shown["consumers"].as_array().context("no consumers")?;
        if rows.iter().any(is_named) && rows.iter().all(is_done) {
            return Ok(());
        }
        ensure!(begin.elapsed() < SOON, "not at the log's end: {shown}");
        tokio::time::sleep(PAUSE).await;
    }
}
