//! Clients that create instances and update each once. Every request carries an id, so that repeating it is safe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use carryall_tests::{Answer, Client, Log, Server, Shop, fresh_id, read_model_is_the_fold};
use serde_json::json;
use tokio::sync::Mutex;

/// Clients at once.
const CLIENTS: usize = 4;
/// Between two instances of one client: enough for segments and batches of several commands.
const PACE: Duration = Duration::from_millis(15);
/// So many that each point is met while the work goes on, also those that are met once a second at most.
const INSTANCES_MAX: usize = 400;
/// A host that answers 503 for longer has not recovered.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(40);

/// One instance, and the ids of its commands.
#[derive(Debug, Clone)]
struct Item {
    id: String,
    create: String,
    update: String,
}

/// What all clients sent, or were about to send.
pub struct Shopping {
    sent: Arc<Mutex<Vec<Item>>>,
    /// Whether the database and its classes are made by this work too.
    from_nothing: bool,
}

/// Makes the database and its classes.
pub async fn prepare(server: &Server) {
    Shop::create(server.client()).await.unwrap();
}

impl Shopping {
    pub fn new(from_nothing: bool) -> Shopping {
        Shopping { sent: Arc::default(), from_nothing }
    }

    /// Sends until the host goes away, or everything is sent.
    pub async fn run(&self, client: &Client) -> anyhow::Result<()> {
        if self.from_nothing {
            make_shop(client).await?;
        }
        let one = || async {
            for _ in 0..INSTANCES_MAX {
                let fresh = || fresh_id().to_string();
                let item = Item { id: fresh_id().simple().to_string(), create: fresh(), update: fresh() };
                self.sent.lock().await.push(item.clone());
                send(client, &item).await?;
                tokio::time::sleep(PACE).await;
            }
            anyhow::Ok(())
        };
        let clients: [_; CLIENTS] = std::array::from_fn(|_| one());
        let [a, b, c, d] = clients;
        tokio::try_join!(a, b, c, d)?;
        Ok(())
    }

    pub async fn finish(&self, client: &Client) -> anyhow::Result<()> {
        if self.from_nothing {
            make_shop(client).await?;
        }
        if self.sent.lock().await.is_empty() {
            let fresh = || fresh_id().to_string();
            let item = Item { id: fresh_id().simple().to_string(), create: fresh(), update: fresh() };
            self.sent.lock().await.push(item);
        }
        let sent = self.sent.lock().await.clone();
        for item in &sent {
            send(client, item).await?;
        }
        for item in &sent {
            for id in [&item.create, &item.update] {
                let status = client.outcome(id).await?;
                ensure!(status["status"] == "COMPLETED", "{status}");
            }
        }
        Ok(())
    }

    pub async fn audit(&self, client: &Client, log: &Log) -> anyhow::Result<()> {
        for item in self.sent.lock().await.iter() {
            for id in [&item.create, &item.update] {
                ensure!(log.command(id).is_some(), "{id} was accepted and is not in the log");
                ensure!(log.outcome(id).len() == 1, "{id} has {} outcomes", log.outcome(id).len());
            }
        }
        read_model_is_the_fold(client, log).await
    }
}

/// Makes the database and its classes; safe to repeat.
async fn make_shop(client: &Client) -> anyhow::Result<()> {
    let name = |what: &str| uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, what.as_bytes()).to_string();
    let keyed = |what: &str| client.with("idempotency-key", &name(what));
    let body = json!({"name": "shop", "description": "for tests"});
    let database = keyed("shop");
    let accepted = until_accepted(|| database.post("/api/v1/database/create", &body)).await?;
    client.completed(accepted).await?;
    for class in carryall_tests::classes() {
        let sender = keyed(class["id"].as_str().unwrap_or_default());
        let accepted = until_accepted(|| sender.post("/api/v1/database/shop/ontology", &class)).await?;
        client.completed(accepted).await?;
    }
    Ok(())
}

async fn send(client: &Client, item: &Item) -> anyhow::Result<()> {
    let create = client.with("idempotency-key", &item.create);
    let body = json!({"data": {"product_id": item.id, "name": "n"}});
    let answer = until_accepted(|| create.post("/api/v1/instances/shop/async/Product/create", &body)).await?;
    let accepted = answer.expect(202)?;
    let sequence = accepted["result"]["sequence_number"].as_u64().context("a 202 without sequence")?;
    let update = client.with("idempotency-key", &item.update);
    let path = format!("/api/v1/instances/shop/async/Product/{}/update?expected_seq={sequence}", item.id);
    let body = json!({"data": {"name": "m"}});
    until_accepted(|| update.put(&path, &body)).await?.expect(202)?;
    Ok(())
}

/// Repeats a request for as long as the host says 503.
pub async fn until_accepted<F>(mut request: impl FnMut() -> F) -> anyhow::Result<Answer>
where
    F: Future<Output = anyhow::Result<Answer>>,
{
    let begun = Instant::now();
    loop {
        let answer = request().await?;
        if answer.status != 503 {
            return Ok(answer);
        }
        if begun.elapsed() > ACCEPTED_WITHIN {
            bail!("still 503: {}", answer.text());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
