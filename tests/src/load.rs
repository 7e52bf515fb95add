//! Clients that go on whatever happens: they create products and update each, under ids of their own, and ask again, as
//! clients must, whenever the answer leaves open what happened.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::fresh_id;

/// Between two instances of one client: a machine that runs many tests has other things to do as well.
const PACE: Duration = Duration::from_millis(15);
/// A command that is not accepted by then never is.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(90);

/// Ids of commands that were answered 202.
#[derive(Debug, Default)]
struct Accepted(Mutex<Vec<String>>);

impl Accepted {
    fn add(&self, id: String) {
        self.0.lock().expect("nobody panics while holding it").push(id);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics while holding it").clone()
    }
}

/// Clients at work on a shop.
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<Accepted>,
    clients: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Load {
    /// One task for each client; each stays with its host.
    pub fn begin(clients: impl IntoIterator<Item = Client>) -> Load {
        let (stop, accepted) = (Arc::<AtomicBool>::default(), Arc::<Accepted>::default());
        let run = |client| tokio::spawn(run(client, stop.clone(), accepted.clone()));
        let clients = clients.into_iter().map(run).collect();
        Load { stop, accepted, clients }
    }

    /// Commands that were accepted so far.
    pub fn accepted(&self) -> Vec<String> {
        self.accepted.all()
    }

    /// Lets every client come to the end of what it began; gives the commands that were accepted.
    pub async fn finish(self) -> anyhow::Result<Vec<String>> {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.context("a client panicked")??;
        }
        Ok(self.accepted.all())
    }
}

async fn run(client: Client, stop: Arc<AtomicBool>, accepted: Arc<Accepted>) -> anyhow::Result<()> {
    while !stop.load(Ordering::SeqCst) {
        let id = fresh_id().simple().to_string();
        let create = json!({"data": {"product_id": id, "name": "n"}});
        let sequence =
            accept(&client, "POST", "/api/v1/instances/shop/async/Product/create", &create, &accepted).await?;
        let path = format!("/api/v1/instances/shop/async/Product/{id}/update?expected_seq={sequence}");
        accept(&client, "PUT", &path, &json!({"data": {"name": "m"}}), &accepted).await?;
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

/// Sends a command until it is accepted; gives its sequence.
async fn accept(client: &Client, method: &str, path: &str, body: &Value, accepted: &Accepted) -> anyhow::Result<u64> {
    let id = fresh_id().to_string();
    let client = client.with("idempotency-key", &id);
    let begin = Instant::now();
    let mut last = String::new();
    while begin.elapsed() < ACCEPTED_WITHIN {
        match client.send(method, path, Some(body.to_string().into())).await {
            Ok(answer) if answer.status == 202 => {
                accepted.add(id);
                return answer.json()?["result"]["sequence_number"].as_u64().context("a 202 without sequence");
            }
            Ok(answer) if answer.status == 503 => last = answer.text(),
            Ok(answer) => bail!("{method} {path} answers {}: {}", answer.status, answer.text()),
            // The host is away.
            Err(error) => last = format!("{error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("{method} {path} is not accepted: {last}")
}
