//! Operators: a note that no decision survives is parked, released once and then discarded; a mended version of the
//! handler is deployed. Both can be begun again at any point.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use carryall_tests::{ADMIN_TOKEN, Client, Log, Server, abuse, fresh_id};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

const LETTERS: &str = "/admin/v1/dead-letters";
/// Parking takes half a second of back-off.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// Activates the broken version.
pub async fn prepare(server: &Server) {
    let digest = upload(&server.operator(), "fragile").await.unwrap();
    activate(&server.operator(), &digest).await.unwrap();
}

async fn upload(operator: &Client, version: &str) -> anyhow::Result<String> {
    let client = operator.with("content-type", "application/wasm");
    let answer = client.send("POST", "/admin/v1/handlers", Some(abuse(version)?.into())).await?;
    ensure!(matches!(answer.status, 200 | 201), "upload: {}", answer.text());
    Ok(answer.json()?["digest"].as_str().context("an upload without digest")?.to_owned())
}

async fn activate(operator: &Client, digest: &str) -> anyhow::Result<()> {
    let path = format!("/admin/v1/handlers/fragile/versions/{digest}/activate");
    operator.post(&path, &json!({"force": true})).await?.expect(200)?;
    Ok(())
}

/// Three notes; the second is too much for the handler.
pub struct Notebook {
    notes: [(String, &'static str); 3],
    /// Whether the letter was released once; a release that nobody answered counts.
    released: OnceCell<()>,
}

impl Notebook {
    pub fn new() -> Notebook {
        let notes = ["one", "poison", "three"].map(|text| (fresh_id().to_string(), text));
        Notebook { notes, released: OnceCell::new() }
    }

    pub async fn run(&self, client: &Client) -> anyhow::Result<()> {
        let operator = client.with_token(ADMIN_TOKEN);
        for (id, text) in &self.notes {
            let body = json!({
                "command_id": id, "command_type": "NOTE", "aggregate_type": "Notebook", "aggregate_id": "n-1",
                "payload": {"text": text},
            });
            client.post("/api/v1/commands", &body).await?.expect(202)?;
        }
        let begun = Instant::now();
        let path = format!("/api/v1/commands/{}/status", self.notes[1].0);
        loop {
            let status = client.get(&path).await?.expect(200)?;
            if status["status"] == "CANCELLED" {
                break;
            }
            let page = operator.get(&format!("{LETTERS}?state=parked")).await?.expect(200)?;
            if let Some(id) = page["dead_letters"][0]["id"].as_str() {
                self.end(&operator, id).await?;
            }
            ensure!(begun.elapsed() < ENDED_WITHIN, "not ended: {status}, letters {page}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // A discard that was cut short after the command was cancelled leaves its letter: an operator discards it.
        loop {
            let third = client.get(&format!("/api/v1/commands/{}/status", self.notes[2].0)).await?.expect(200)?;
            if third["status"] == "COMPLETED" {
                return Ok(());
            }
            let page = operator.get(&format!("{LETTERS}?state=parked")).await?.expect(200)?;
            if let Some(id) = page["dead_letters"][0]["id"].as_str() {
                self.end(&operator, id).await?;
            }
            ensure!(begun.elapsed() < ENDED_WITHIN, "not taken up: {third}, letters {page}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Releases the letter the first time, discards it the second.
    async fn end(&self, operator: &Client, id: &str) -> anyhow::Result<()> {
        let first = self.released.set(()).is_ok();
        let (verb, body) = if first { ("retry", json!({})) } else { ("discard", json!({"reason": "a test"})) };
        let answer = operator.post(&format!("{LETTERS}/{id}/{verb}"), &body).await?;
        ensure!(matches!(answer.status, 200 | 409), "{verb}: {}", answer.text());
        Ok(())
    }

    pub async fn audit(&self, client: &Client, log: &Log) -> anyhow::Result<()> {
        for (id, _) in &self.notes {
            ensure!(log.command(id).is_some(), "{id} was accepted and is not in the log");
            ensure!(log.outcome(id).len() == 1, "{id} has {} outcomes", log.outcome(id).len());
        }
        let state = client.get("/api/v1/aggregates/Notebook/n-1").await?.expect(200)?["state"].clone();
        let texts: Vec<&Value> = state.as_array().context("no list")?.iter().map(|note| &note["text"]).collect();
        ensure!(texts == ["one", "three"], "the notes are {texts:?}");
        let page = client.with_token(ADMIN_TOKEN).get(&format!("{LETTERS}?state=all")).await?.expect(200)?;
        let letters = page["dead_letters"].as_array().context("no letters")?;
        ensure!(letters.len() == 1 && letters[0]["state"] == "discarded", "{page}");
        Ok(())
    }
}

/// Uploads and activates the mended version.
pub struct Deploy {
    note: String,
}

impl Deploy {
    pub fn new() -> Deploy {
        Deploy { note: fresh_id().to_string() }
    }

    pub async fn run(&self, client: &Client) -> anyhow::Result<()> {
        let operator = client.with_token(ADMIN_TOKEN);
        let digest = upload(&operator, "mended").await?;
        activate(&operator, &digest).await?;
        let body = json!({
            "command_id": self.note, "command_type": "NOTE", "aggregate_type": "Notebook", "aggregate_id": "n-2",
            "payload": {"text": "poison"},
        });
        client.completed(client.post("/api/v1/commands", &body).await?).await?;
        Ok(())
    }

    pub async fn audit(&self, client: &Client, log: &Log) -> anyhow::Result<()> {
        let operator = client.with_token(ADMIN_TOKEN);
        let shown = operator.get("/admin/v1/handlers/fragile").await?.expect(200)?;
        let versions = shown["versions"].as_array().context("no versions")?;
        let active: Vec<&Value> = versions.iter().filter(|version| version["state"] == "active").collect();
        ensure!(versions.len() == 2 && active.len() == 1, "{shown}");
        ensure!(shown["revision"] == 2, "activated more than twice: {shown}");
        let outcome = log.outcome(&self.note);
        ensure!(outcome.len() == 1, "{} outcomes", outcome.len());
        ensure!(outcome[0].envelope["metadata"]["handler"]["digest"] == active[0]["digest"], "{shown}");
        Ok(())
    }
}
