//! What the bundled projection wrote is written anew while clients write and the host is killed: asked for once, done
//! in the end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use carryall_tests::{ADMIN_TOKEN, Client, Log};
use serde_json::{Value, json};

use crate::shop::Shopping;

const PROJECTION: &str = "/admin/v1/handlers/projection";
/// A shop is written in a moment; a build that did not take over in time tries again only half a minute later.
const DONE_WITHIN: Duration = Duration::from_secs(120);

pub struct Rebuild {
    shopping: Shopping,
}

impl Rebuild {
    pub fn new() -> Rebuild {
        Rebuild { shopping: Shopping::new(false) }
    }

    pub async fn run(&self, client: &Client) -> anyhow::Result<()> {
        tokio::try_join!(self.shopping.run(client), self.rebuild(client))?;
        Ok(())
    }

    pub async fn finish(&self, client: &Client) -> anyhow::Result<()> {
        self.shopping.finish(client).await?;
        self.rebuild(client).await
    }

    /// Asks for it unless it was asked for, and waits until readers see it and the rest is gone.
    async fn rebuild(&self, client: &Client) -> anyhow::Result<()> {
        let operator = client.with_token(ADMIN_TOKEN);
        if asked(&operator).await? == 0 {
            operator.post(&format!("{PROJECTION}/rebuild"), &json!({"reason": "a test"})).await?.expect(202)?;
        }
        let begun = Instant::now();
        loop {
            let shown = operator.get("/admin/v1/consumers").await?.expect(200)?;
            let consumers = shown["consumers"].as_array().context("no consumers")?;
            if consumers.iter().filter(|one| text(one, "name").starts_with("projection_worker:")).all(is_new)
                && !consumers.iter().any(|one| text(one, "name").contains('@'))
            {
                return Ok(());
            }
            ensure!(begun.elapsed() < DONE_WITHIN, "the rebuild does not end: {shown}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn audit(&self, client: &Client, log: &Log) -> anyhow::Result<()> {
        let operator = client.with_token(ADMIN_TOKEN);
        ensure!(asked(&operator).await? == 1, "asked for more than once");
        self.shopping.audit(client, log).await
    }
}

/// Rebuilds in the history.
async fn asked(operator: &Client) -> anyhow::Result<usize> {
    let shown = operator.get(PROJECTION).await?.expect(200)?;
    let history = shown["history"].as_array().context("no history")?;
    Ok(history.iter().filter(|entry| entry["event_type"] == "HANDLER_REBUILD_ASKED").count())
}

/// Whether a consumer writes the build that was asked for.
fn is_new(consumer: &Value) -> bool {
    text(consumer, "handler").ends_with(".1")
}

fn text<'a>(consumer: &'a Value, field: &str) -> &'a str {
    consumer[field].as_str().unwrap_or_default()
}
