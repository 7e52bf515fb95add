//! The workload `orders`: virtual clients that each create some orders, then update each several times with the
//! sequence they were told. A client has one command under way, and sends the next when that one is COMPLETED: which it
//! asks the status for, or waits for with the one request that sends the command.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use serde::Deserialize;
use tokio::task::LocalSet;

use super::host::Host;
use super::wire::Wire;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub clients: usize,
    pub orders: usize,
    pub updates: usize,
}

impl Size {
    pub fn commands(self) -> u64 {
        (self.orders * (1 + self.updates)) as u64
    }
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// From sending to 202, in microseconds, one a command; none where one request waits for COMPLETED.
    pub accepted_us: Vec<u32>,
    /// From sending to the answer COMPLETED.
    pub completed_us: Vec<u32>,
    /// From sending until a read shows what was written, of a sample.
    pub readable_us: Vec<u32>,
    /// Reads, each a round trip to the database that no command needs.
    pub reads: u64,
    /// Requests that were refused for overload and sent again.
    pub retried: u64,
    /// From the first request until every outcome is projected.
    pub seconds: f64,
}

/// A database and a class that orders are made of.
pub(super) struct Orders {
    database: String,
    note: String,
    one_request: bool,
}

/// The part of an answer that matters here.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    command_id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    consistency_token: String,
    #[serde(default)]
    error: serde_json::Value,
    result: Option<Told202>,
}

#[derive(Deserialize)]
struct Told202 {
    #[serde(default)]
    sequence_number: u64,
}

/// How long the host may wait for COMPLETED before it answers, and is asked again.
const POLL: &str = "prefer: wait=20\r\n";
/// How long the last read may wait for the projection.
const READ_WITHIN: &str = "prefer: wait=60\r\n";
/// One of so many commands is followed until a read shows it.
const READ_EVERY: usize = 16;
/// Pause after a refusal for overload.
const BACK_OFF: Duration = Duration::from_millis(20);

impl Orders {
    /// Creates a database and the class `Order` in it.
    pub async fn prepare(host: &Host, payload_bytes: usize, one_request: bool) -> anyhow::Result<Orders> {
        let mut orders = Orders { database: format!("bench_{}", unique()), note: String::new(), one_request };
        let mut client = Client::connect(host, &orders).await?;
        let database = &orders.database;
        let create = serde_json::json!({"name": database, "description": "carryall bench"}).to_string();
        client.command("POST", "/api/v1/database/create", create.as_bytes()).await.context("create the database")?;
        let property = |name: &str, kind: &str| serde_json::json!({"name": name, "type": kind, "label": name});
        let class = serde_json::json!({
            "id": "Order", "label": "Order", "description": "carryall bench", "parent": null, "abstract": false,
            "properties": [
                {"name": "order_id", "type": "string", "label": "order_id", "required": true},
                property("customer", "string"), property("state", "string"), property("quantity", "integer"),
                property("total", "double"), property("note", "text"),
            ],
            "relationships": [],
        });
        let path = format!("/api/v1/database/{database}/ontology");
        client.command("POST", &path, class.to_string().as_bytes()).await.context("create the class")?;
        let frame = body("o00000000-000000", 0, "").len();
        orders.note = "n".repeat(payload_bytes.saturating_sub(frame));
        Ok(orders)
    }

    /// Runs all clients to their end, and until the last outcome is projected.
    pub async fn run(&self, host: &Host, size: Size, bar: &ProgressBar) -> anyhow::Result<Seen> {
        let run = unique();
        let mut clients = Vec::with_capacity(size.clients);
        for number in 0..size.clients {
            // The first clients take what does not divide evenly.
            let share = size.orders / size.clients + usize::from(number < size.orders % size.clients);
            let ids: Vec<String> = (0..share).map(|order| format!("o{run}-{number}-{order}")).collect();
            clients.push((Client::connect(host, self).await?, ids));
        }
        let seen = Rc::new(RefCell::new(Seen::default()));
        let tasks = LocalSet::new();
        let begin = Instant::now();
        let handles: Vec<_> = clients
            .into_iter()
            .map(|(client, ids)| tasks.spawn_local(client.run(ids, size.updates, seen.clone(), bar.clone())))
            .collect();
        tasks.await;
        let seconds = begin.elapsed().as_secs_f64();
        for handle in handles {
            handle.await.context("a virtual client ended by itself")??;
        }
        let mut seen = Rc::into_inner(seen).context("a virtual client goes on")?.into_inner();
        seen.seconds = seconds;
        Ok(seen)
    }
}

/// One virtual client with its connection.
struct Client {
    wire: Wire,
    database: String,
    note: String,
    one_request: bool,
    /// Of the last command: answer times and token.
    last: Last,
    retried: u64,
}

#[derive(Default)]
struct Last {
    accepted_us: Option<u32>,
    completed_us: u32,
    token: String,
}

impl Client {
    async fn connect(host: &Host, orders: &Orders) -> anyhow::Result<Client> {
        let wire = host.connect().await?;
        let Orders { database, note, one_request } = orders;
        let (database, note) = (database.clone(), note.clone());
        Ok(Client { wire, database, note, one_request: *one_request, last: Last::default(), retried: 0 })
    }

    async fn run(
        mut self,
        ids: Vec<String>,
        updates: usize,
        seen: Rc<RefCell<Seen>>,
        bar: ProgressBar,
    ) -> anyhow::Result<()> {
        let base = format!("/api/v1/instances/{}/async/Order", self.database);
        let mut sequences = Vec::with_capacity(ids.len());
        for round in 0..=updates {
            for (order, id) in ids.iter().enumerate() {
                let (body, begin) = (body(id, round, &self.note), Instant::now());
                let sequence = match round {
                    0 => self.command("POST", &format!("{base}/create"), body.as_bytes()).await?,
                    _ => {
                        let path = format!("{base}/{id}/update?expected_seq={}", sequences[order]);
                        self.command("PUT", &path, body.as_bytes()).await?
                    }
                };
                match sequences.get_mut(order) {
                    Some(known) => *known = sequence,
                    None => sequences.push(sequence),
                }
                let readable_us = if (order + round).is_multiple_of(READ_EVERY) {
                    self.read_projected(id, round).await?;
                    seen.borrow_mut().reads += 1;
                    Some(micros(begin))
                } else {
                    None
                };
                let mut seen = seen.borrow_mut();
                seen.readable_us.extend(readable_us);
                seen.accepted_us.extend(self.last.accepted_us);
                seen.completed_us.push(self.last.completed_us);
                bar.inc(1);
            }
        }
        if let Some(id) = ids.last() {
            self.read_projected(id, updates).await?;
            seen.borrow_mut().reads += 1;
        }
        seen.borrow_mut().retried += self.retried;
        Ok(())
    }

    /// Sends a command, follows it to COMPLETED, gives the sequence that the next one expects.
    async fn command(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<u64> {
        let begin = Instant::now();
        self.last = Last::default();
        let headers = if self.one_request { POLL } else { "" };
        let mut told = loop {
            let reply = self.wire.send(method, path, headers, body).await?;
            match reply.status {
                200 | 202 => break told(reply.body)?,
                503 if !contains(reply.body, b"outcome_unknown") => self.retried += 1,
                status => bail!("{method} {path} answers {status}: {}", String::from_utf8_lossy(reply.body)),
            }
            tokio::time::sleep(BACK_OFF).await;
        };
        self.last.accepted_us = (!self.one_request).then(|| micros(begin));
        let sequence =
            told.result.map(|result| result.sequence_number).context("the answer tells no sequence number")?;
        let status_path = format!("/api/v1/commands/{}/status", told.command_id);
        loop {
            match told.status.as_str() {
                "COMPLETED" => break,
                "FAILED" | "CANCELLED" => bail!("{method} {path} ends {}: {}", told.status, told.error),
                _ => {}
            }
            let reply = self.wire.send("GET", &status_path, POLL, b"").await?;
            if reply.status != 200 {
                bail!("GET {status_path} answers {}: {}", reply.status, String::from_utf8_lossy(reply.body));
            }
            told = self::told(reply.body)?;
        }
        self.last.completed_us = micros(begin);
        self.last.token = told.consistency_token;
        Ok(sequence)
    }

    /// Reads the last order as of the last command, and checks that it is what was written.
    async fn read_projected(&mut self, id: &str, round: usize) -> anyhow::Result<()> {
        let path = format!("/api/v1/instances/{}/Order/{id}", self.database);
        let headers = format!("consistency-token: {}\r\n{READ_WITHIN}", self.last.token);
        let reply = self.wire.send("GET", &path, &headers, b"").await?;
        if reply.status != 200 {
            bail!("GET {path} answers {}: {}", reply.status, String::from_utf8_lossy(reply.body));
        }
        let read: serde_json::Value = serde_json::from_slice(reply.body).context("the instance is no JSON")?;
        let quantity = read.pointer("/data/quantity").or_else(|| read.pointer("/data/data/quantity"));
        if quantity.and_then(serde_json::Value::as_u64) != Some(round as u64) {
            bail!("{path} does not hold what was written last: {read}");
        }
        Ok(())
    }
}

/// The body of a create or an update.
fn body(id: &str, round: usize, note: &str) -> String {
    let state = if round == 0 { "open" } else { "changed" };
    format!(
        "{{\"data\":{{\"order_id\":\"{id}\",\"customer\":\"customer-1\",\"state\":\"{state}\",\"quantity\":{round},\
         \"total\":12.5,\"note\":\"{note}\"}}}}"
    )
}

fn told(body: &[u8]) -> anyhow::Result<Told> {
    serde_json::from_slice(body).context("the answer is not what a Carryall host says")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn micros(begin: Instant) -> u32 {
    u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX)
}

/// A name that no earlier run had.
#[allow(clippy::disallowed_methods)] // A generator of load needs no reproducible names.
fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..12].to_owned()
}
