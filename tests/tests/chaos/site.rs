//! What the processes of one scenario share: a bucket behind a proxy, a database, a corner of Kafka; and the audit that
//! every scenario ends with.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use carryall_tests::{
    Bucket, Client, Kafka, Load, Log, Options, Postgres, Proxy, Server, Servers, Shop, all_completed,
    read_model_is_the_fold, ready, until,
};
use serde_json::Value;

/// What is not so by then never will be.
pub const SOON: Duration = Duration::from_secs(60);
/// Partitions of every log here.
const PARTITIONS: u16 = 3;
const CHECKPOINT: &str = "checkpoints/event_publisher.json";
/// Commands by which clients show that they get on.
const ENOUGH: usize = 100;
/// Claims that are not settled.
const OPEN: &str = "SELECT handler || ' ' || event_id || ' ' || status FROM spice_event_registry.processed_events
                     WHERE status NOT IN ('done', 'skipped_stale')";

pub struct Site {
    pub bucket: Bucket,
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub proxy: Proxy,
    /// The last to go: what the others leave is cleared on them.
    pub servers: Servers,
}

impl Site {
    pub async fn new() -> Site {
        let servers = Servers::up().await.unwrap();
        let bucket = Bucket::on(servers.s3().unwrap());
        let proxy = Proxy::start(bucket.address(), super::seed()).await.unwrap();
        let postgres = Postgres::create_on(servers.postgres().unwrap()).await;
        Site { bucket, postgres, kafka: Kafka::create_on(servers.kafka().unwrap()), proxy, servers }
    }

    pub fn options(&self, roles: &str) -> Options {
        let options = self
            .bucket
            .options_through(&self.proxy.url())
            .with("POSTGRES_URL", &self.postgres.url())
            .with("CARRYALL_PARTITIONS", &PARTITIONS.to_string())
            .with("CARRYALL_ROLES", roles);
        self.kafka.environment().into_iter().fold(options, |options, (name, value)| options.with(name, value))
    }

    pub async fn start(&self, roles: &str) -> Server {
        Server::start(self.options(roles)).await.unwrap()
    }

    /// Every role in a process of its own but two, and the shop. The first serves clients.
    pub async fn split(&self) -> Vec<Server> {
        let (api, relay) = (self.start("api"), self.start("relay"));
        let (worker, rest) = (self.start("instance-worker"), self.start("ontology-worker,projection-worker"));
        let hosts = tokio::join!(api, relay, worker, rest);
        Shop::create(hosts.0.client()).await.unwrap();
        vec![hosts.0, hosts.1, hosts.2, hosts.3]
    }

    /// Two processes that do everything, and the shop.
    pub async fn pair(&self) -> Vec<Server> {
        let hosts = tokio::join!(self.start("all"), self.start("all"));
        Shop::create(hosts.0.client()).await.unwrap();
        vec![hosts.0, hosts.1]
    }

    /// Sends the log again from an earlier place: the relay's checkpoint as it lies in the bucket, once it was
    /// stored.
    pub async fn checkpoint(&self) -> bytes::Bytes {
        let is_there = || async { self.bucket.get(CHECKPOINT).await.is_ok() };
        until("the relay stores its checkpoint", is_there).await.unwrap();
        self.bucket.get(CHECKPOINT).await.unwrap()
    }

    pub async fn set_checkpoint(&self, bytes: bytes::Bytes) {
        self.bucket.put(CHECKPOINT, bytes).await.unwrap();
    }

    /// How far the relay is, of each partition.
    async fn relayed(&self) -> HashMap<u64, u64> {
        let checkpoint: Value = serde_json::from_slice(&self.checkpoint().await).unwrap();
        let partitions = checkpoint["partitions"].as_object().unwrap();
        partitions.iter().map(|(p, at)| (p.parse().unwrap(), at["position"].as_u64().unwrap())).collect()
    }

    /// Everything comes to rest and holds. The first host serves clients. Gives the log.
    pub async fn converge(self, mut hosts: Vec<Server>, load: Load) -> Log {
        let accepted = load.finish().await.unwrap();
        assert!(accepted.len() > 20, "too little was accepted to prove anything: {}", accepted.len());
        let client = hosts[0].client();
        for host in &hosts {
            ready(&host.client(), 200).await.unwrap();
        }
        all_completed(&client, &accepted).await.unwrap_or_else(|error| {
            let logs: Vec<_> = hosts.iter().map(Server::host_log).collect();
            panic!("{error:#}\n{}", logs.join("\n---\n"))
        });
        let log = self.bucket.log().await.unwrap();
        self.settled(&log, &hosts).await;
        read_model_is_the_fold(&client, &log).await.unwrap();
        for host in &hosts {
            host.process().signal("TERM").unwrap();
        }
        for host in &mut hosts {
            assert!(host.terminate().await.unwrap().success(), "a drain fails:\n{}", host.host_log());
            let log = host.host_log();
            let panicked = log.lines().any(|line| line.starts_with("thread '") && line.contains("panicked"));
            assert!(!panicked, "a host panicked:\n{log}");
        }
        let keys = self.bucket.keys().await.unwrap();
        let segments = keys.iter().filter(|key| key.starts_with("events/")).count();
        assert_eq!(log.segments, segments as u64, "something is written that nobody asked for");
        for id in &accepted {
            assert!(log.command(id).is_some(), "{id} was accepted and is not in the log");
            assert_eq!(log.outcome(id).len(), 1, "{id} has not exactly one outcome");
        }
        assert!(log.undecided().is_empty());
        assert_eq!(self.postgres.texts(OPEN).await, Vec::<String>::new());
        self.published(&log).await;
        for command in [&["verify", "--json"][..], &["check", "--sample", "40", "--json"]] {
            let checked = hosts[0].run(command).unwrap();
            let report: Value = serde_json::from_slice(&checked.stdout).unwrap_or_default();
            let behind = report["index_behind"].as_u64();
            assert!(behind.is_none_or(|behind| behind == 0), "a drain leaves the index behind: {report}");
            let said = [checked.stdout, checked.stderr].concat();
            assert!(checked.status.success(), "{command:?} finds: {}", String::from_utf8_lossy(&said));
        }
        self.bucket.remove().await.unwrap();
        log
    }

    /// Waits until the relay is at the log's end, and no claim is open.
    async fn settled(&self, log: &Log, hosts: &[Server]) {
        let begin = Instant::now();
        let ends: BTreeMap<u64, u64> = log.events.iter().map(|event| (event.partition, event.position + 1)).collect();
        loop {
            let relayed = self.relayed().await;
            let behind: Vec<_> = ends.iter().filter(|(p, end)| relayed.get(p) != Some(end)).collect();
            let open = self.postgres.texts(OPEN).await;
            if behind.is_empty() && open.is_empty() {
                return;
            }
            let logs: Vec<_> = hosts.iter().map(Server::host_log).collect();
            let state = format!("the relay is at {relayed:?} of {ends:?}; open claims: {open:?}");
            assert!(begin.elapsed() < SOON, "{state}\n{}", logs.join("\n---\n"));
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Every event lies in its topic, byte for byte; what is seen for the first time is in the order of its aggregate.
    async fn published(&self, log: &Log) {
        for topic in ["instance_commands", "instance_events"] {
            let wanted: HashSet<&str> = log
                .events
                .iter()
                .filter(|event| event.envelope["metadata"]["kafka_topic"] == topic)
                .map(|event| event.line.as_str())
                .collect();
            let (mut seen, mut last) = (HashSet::new(), HashMap::new());
            let mut take = |value: &[u8]| {
                let Some(line) = std::str::from_utf8(value).ok().and_then(|value| wanted.get(value)) else { return };
                if seen.insert(*line) {
                    let envelope: Value = serde_json::from_str(line).unwrap();
                    let sequence = envelope["sequence_number"].as_u64().unwrap();
                    let before = last.insert(envelope["aggregate_id"].to_string(), sequence);
                    assert!(before.is_none_or(|before| before < sequence), "out of order: {line}");
                }
            };
            let all = self.kafka.read_all(topic).await.unwrap();
            // Those of strangers carry no place of the log.
            all.iter().filter(|message| !message.headers.is_empty()).for_each(|message| take(&message.value));
            assert_eq!(seen.len(), wanted.len(), "{topic} lacks events of the log");
        }
    }
}

/// Clients at work, once they get on.
pub async fn begin_load(clients: impl IntoIterator<Item = Client>) -> Load {
    let load = Load::begin(clients);
    until_busy(&load).await;
    load
}

/// Waits until clients get on: many more commands were accepted.
pub async fn until_busy(load: &Load) {
    let wanted = load.accepted().len() + ENOUGH;
    until("clients get on", || async { load.accepted().len() >= wanted }).await.unwrap();
}
