//! The read model is the fold of the log: what every audit ends with.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::client::Client;
use crate::log::Log;

/// Reads all products of the shop and holds them against the log. Waits for the projection of what is written last.
pub async fn read_model_is_the_fold(client: &Client, log: &Log) -> anyhow::Result<()> {
    let mut expected: BTreeMap<String, (Value, u64)> = BTreeMap::new();
    // Of each partition: a token tells of one.
    let mut last = BTreeMap::new();
    for event in log.events.iter().filter(|event| event.event_type().starts_with("INSTANCE_")) {
        let data = event.envelope["data"].clone();
        let id = data["instance_id"].as_str().context("an instance without id")?.to_owned();
        expected.insert(id, (data["data"].clone(), event.sequence()));
        last.insert(event.partition, event);
    }
    ensure!(!last.is_empty(), "nothing was written");
    let products = "/api/v1/instances/shop/Product";
    for event in last.values() {
        let status = client.outcome(event.command_id()).await?;
        let token = status["consistency_token"].as_str().context("no token")?;
        let reader = client.with("consistency-token", token).with("prefer", "wait=60");
        reader.get(&format!("{products}?limit=1")).await?.expect(200)?;
    }
    let found = client.pages(products, "instances").await?;
    ensure!(found.len() == expected.len(), "{} documents, {} instances in the log", found.len(), expected.len());
    for document in found {
        let id = document["instance_id"].as_str().context("a document without id")?;
        let (data, sequence) = expected.get(id).with_context(|| format!("{id} is not in the log"))?;
        ensure!(document["data"] == *data && document["sequence_number"] == *sequence, "not the fold: {document}");
    }
    Ok(())
}
