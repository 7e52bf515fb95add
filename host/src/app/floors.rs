//! The floors of a benchmark on remote parts: how many small durable writes a second each of them takes, one after
//! another, through the adapters that the host itself uses.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{bus, store};
use crate::adapter::postgres;
use crate::adapter::system_clock::SystemClock;
use crate::config::{Config, Store};
use crate::domain::{Partition, Position};
use crate::metrics::Metrics;
use crate::port::bus::Message;
use crate::port::clock::Clock as _;
use crate::port::object_store::ObjectStore as _;

/// Durable writes a second; nothing for a part that is not configured.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Floors {
    /// Conditional PUTs of 4 KiB.
    pub puts_per_second: Option<f64>,
    /// Commits of one row.
    pub commits_per_second: Option<f64>,
    /// Messages of 1 KiB, each acknowledged before the next.
    pub acknowledgements_per_second: Option<f64>,
}

const SAMPLE: Duration = Duration::from_secs(1);
/// The owner whose runs are counted up.
const OWNER: &str = "floor of a benchmark";
const TOPIC: &str = "benchmark_floor";

/// Measures each, for a second. A host must have made the tables before.
pub async fn floors(config: &Config) -> anyhow::Result<Floors> {
    let metrics = Metrics::new();
    let run = SystemClock::new().random_id();
    let mut floors = Floors::default();
    if let Store::S3(bucket) = &config.store {
        let store = store::open_bucket(bucket, run, &metrics).await?;
        let key = |number| format!("snapshots/floor/{run}/{number}");
        let bytes = Bytes::from(vec![b'x'; 4096]);
        let put = async |number| Ok(store.put_new(&key(number), bytes.clone()).await.map(drop)?);
        let (rate, written) = rate(put).await?;
        floors.puts_per_second = Some(rate);
        for number in 0..written {
            store.delete(&key(number)).await?;
        }
    }
    if let Some(url) = &config.postgres_url {
        let database = postgres::Database::at(url.reveal(), &metrics)?;
        let (rate, _) = rate(async |_| Ok(database.next_run(OWNER).await.map(drop)?)).await?;
        floors.commits_per_second = Some(rate);
        database.close().await;
    }
    if config.kafka.is_some() {
        let bus = bus::open(config, run, 1).await?;
        let value = Bytes::from(vec![b'x'; 1024]);
        let message = |number| Message {
            topic: TOPIC.to_owned(),
            key: "floor".to_owned(),
            value: value.clone(),
            partition: Partition(0),
            position: Position(number),
        };
        // The topic is made first.
        bus.publish(vec![message(0)]).await?;
        let (rate, _) = rate(async |number| Ok(bus.publish(vec![message(number)]).await?)).await?;
        floors.acknowledgements_per_second = Some(rate);
    }
    Ok(floors)
}

/// How many a second, and how many it were.
async fn rate(mut write: impl AsyncFnMut(u64) -> anyhow::Result<()>) -> anyhow::Result<(f64, u64)> {
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < SAMPLE {
        write(count).await?;
        count += 1;
    }
    Ok((count as f64 / begin.elapsed().as_secs_f64(), count))
}
