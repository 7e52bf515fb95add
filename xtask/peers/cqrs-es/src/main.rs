//! Orders kept by cqrs-es on PostgreSQL, driven in process: `cqrs-es-peer CLIENTS SECONDS plain|view`.
//!
//! With `view`, each event also updates a row of a view, in a transaction after the one of the event: so the library
//! does it. Says "ready" when it is warm, measures once when it is told "go", reports one line of JSON, and ends when
//! its input does.

mod order;

use std::io::{BufRead as _, Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cqrs_es::persist::GenericQuery;
use postgres_es::{PostgresCqrs, PostgresViewRepository, postgres_cqrs};
use sqlx::postgres::{PgPool, PgPoolOptions};

use order::{Command, Data, Order, View};

const WARM_UP: Duration = Duration::from_secs(1);
const UPDATES: u64 = 4;
const CONNECTIONS_MAX: u32 = 16;
/// With its note of so many letters, the data of a command is 1 KiB of JSON.
const NOTE_LETTERS: usize = 930;

/// The tables that the library expects.
const SCHEMA: [&str; 2] = [
    "CREATE TABLE events (aggregate_type text NOT NULL, aggregate_id text NOT NULL, sequence bigint NOT NULL, \
     event_type text NOT NULL, event_version text NOT NULL, payload json NOT NULL, metadata json NOT NULL, \
     PRIMARY KEY (aggregate_type, aggregate_id, sequence))",
    "CREATE TABLE orders (view_id text PRIMARY KEY, version bigint NOT NULL, payload json NOT NULL)",
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [clients, seconds, mode] = arguments.as_slice() else { bail!("CLIENTS SECONDS plain|view") };
    let (clients, seconds) = (clients.parse::<u32>()?, Duration::from_secs_f64(seconds.parse()?));
    let url = std::env::var("PEER_POSTGRES_URL").context("PEER_POSTGRES_URL")?;
    let pool = PgPoolOptions::new().max_connections(clients.min(CONNECTIONS_MAX)).connect(&url).await?;
    for statement in SCHEMA {
        sqlx::query(statement).execute(&pool).await?;
    }
    let orders = Arc::new(orders(pool, mode)?);

    run(&orders, "warm", clients, WARM_UP).await?;
    writeln!(std::io::stdout(), "ready")?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    let begin = Instant::now();
    let mut micros = run(&orders, "measured", clients, seconds).await?;
    let took = begin.elapsed().as_secs_f64();
    micros.sort_unstable();
    let at = |share: f64| micros.get((share * micros.len() as f64) as usize).map_or(0.0, |us| *us as f64 / 1000.0);
    let report = serde_json::json!({
        "commands": micros.len(), "seconds": took, "p50_ms": at(0.50), "p99_ms": at(0.99),
    });
    writeln!(std::io::stdout(), "{report}")?;
    std::io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn orders(pool: PgPool, mode: &str) -> anyhow::Result<PostgresCqrs<Order>> {
    match mode {
        "plain" => Ok(postgres_cqrs(pool, Vec::new(), ())),
        "view" => {
            let rows = PostgresViewRepository::<View, Order>::new("orders", pool.clone());
            let mut query = GenericQuery::new(Arc::new(rows));
            // Without this the library drops such an error.
            query.use_error_handler(Box::new(|error| panic!("the view cannot be updated: {error}")));
            Ok(postgres_cqrs(pool, vec![Box::new(query)], ()))
        }
        other => bail!("plain or view, not {other}"),
    }
}

/// Every client has one command under way until time is up; gives the microseconds of each command.
async fn run(
    orders: &Arc<PostgresCqrs<Order>>,
    phase: &'static str,
    clients: u32,
    time: Duration,
) -> anyhow::Result<Vec<u64>> {
    let until = Instant::now() + time;
    let clients: Vec<_> =
        (0..clients).map(|client| tokio::spawn(one(Arc::clone(orders), phase, client, until))).collect();
    let mut micros = Vec::new();
    for client in clients {
        micros.extend(client.await??);
    }
    Ok(micros)
}

async fn one(orders: Arc<PostgresCqrs<Order>>, phase: &str, client: u32, until: Instant) -> anyhow::Result<Vec<u64>> {
    let letters = std::fs::read_to_string("letters").context("read letters")?;
    let mut micros = Vec::new();
    for number in 0_u64.. {
        let id = format!("{phase}-{client}-{number}");
        for expected in 0..=UPDATES {
            let begin = Instant::now();
            if begin >= until {
                return Ok(micros);
            }
            let data = data(&letters, client as usize * 1009 + micros.len());
            let command = match expected {
                0 => Command::Create(data),
                _ => Command::Update { expected, data },
            };
            orders.execute(&id, command).await?;
            micros.push(begin.elapsed().as_micros() as u64);
        }
    }
    Ok(micros)
}

/// The data of a command, for the command of this number.
fn data(letters: &str, number: usize) -> Data {
    let at = number * 7919 % (letters.len() - NOTE_LETTERS);
    Data {
        customer: "c1".into(),
        product: "p1".into(),
        quantity: 3,
        price: 9.5,
        currency: "EUR".into(),
        note: letters[at..at + NOTE_LETTERS].into(),
    }
}
