//! Clients that create instances by the batch: one decision issues the commands of all rows, which are in the log
//! before its outcome is. However often the decision is made, each row is one command with one outcome.

use anyhow::{Context as _, ensure};
use carryall_tests::{Client, Log, fresh_id};
use serde_json::{Value, json};

use crate::shop::until_accepted;

const BATCHES: usize = 3;
const ROWS: usize = 4;

/// Batches, each with its id and its rows.
pub struct Bulk {
    batches: Vec<(String, Vec<String>)>,
}

impl Bulk {
    pub fn new() -> Bulk {
        let rows = || (0..ROWS).map(|_| fresh_id().simple().to_string()).collect();
        Bulk { batches: (0..BATCHES).map(|_| (fresh_id().to_string(), rows())).collect() }
    }

    /// Sends the batches and waits for their ends; can be repeated.
    pub async fn run(&self, client: &Client) -> anyhow::Result<()> {
        for (id, rows) in &self.batches {
            let sender = client.with("idempotency-key", id);
            let rows: Vec<Value> = rows.iter().map(|row| json!({"product_id": row, "name": "n"})).collect();
            let body = json!({"instances": rows});
            let path = "/api/v1/instances/shop/async/Product/bulk-create";
            until_accepted(|| sender.post(path, &body)).await?.expect(202)?;
        }
        for (id, _) in &self.batches {
            let status = client.outcome(id).await?;
            ensure!(status["status"] == "COMPLETED", "{status}");
            let told = status["result"]["rows"].as_array().context("a batch without rows")?;
            let well = told.iter().filter(|row| row["status"] == "COMPLETED").count();
            ensure!((told.len(), well) == (ROWS, ROWS), "{status}");
        }
        Ok(())
    }

    pub async fn audit(&self, client: &Client, log: &Log) -> anyhow::Result<()> {
        for (id, rows) in &self.batches {
            ensure!(log.command(id).is_some(), "{id} was accepted and is not in the log");
            ensure!(log.outcome(id).len() == 1, "{id} has {} outcomes", log.outcome(id).len());
            for row in rows {
                let name = format!("shop:Product:{row}");
                let of_row = log.events.iter().filter(|event| event.aggregate().1 == name);
                let told: Vec<&str> = of_row.map(|event| event.event_type()).collect();
                ensure!(told == ["CREATE_INSTANCE_REQUESTED", "INSTANCE_CREATED"], "{name}: {told:?}");
            }
            let status = client.outcome(id).await?;
            let token = status["consistency_token"].as_str().context("no token")?;
            let reader = client.with("consistency-token", token).with("prefer", "wait=60");
            for row in rows {
                reader.get(&format!("/api/v1/instances/shop/Product/{row}")).await?.expect(200)?;
            }
        }
        Ok(())
    }
}
