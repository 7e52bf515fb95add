//! Configuration as plain data, validated once. Only `app` and `cli` read it, and pass its parts on by value.
//!
//! A setting is refused rather than ignored: what this build has no back end for, and whatever would switch a
//! guarantee off, stops the start with the reason.

mod access;
mod bus;
mod settings;
mod store;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use access::{AccessError, AccessRole, Token, admin_token_path, ensure_admin_token};
pub use bus::Kafka;
pub use settings::{Inputs, SETTINGS, Setting, Shown, Source, Values};
pub use store::{Bucket, Secret, Store};

use crate::domain::Digest;
use crate::failpoint;

#[cfg(test)]
mod tests;

/// Everything a process needs to know at its start.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub roles: BTreeSet<Role>,
    /// The place of the event log.
    pub store: Store,
    /// `None`: the bus within the process.
    pub kafka: Option<Kafka>,
    /// Partitions of a log that does not exist yet.
    pub partitions: u16,
    /// Events of an aggregate from one snapshot to the next; 0: none.
    pub snapshot_interval_events: u64,
    /// Where PostgreSQL is; `None`: SQLite in the data folder.
    pub postgres_url: Option<Secret>,
    pub lease_ms: u64,
    pub heartbeat_ms: u64,
    /// How long ended claims are kept for operators to look at.
    pub claims_kept_ms: u64,
    /// Name of this process in claims; the run's number comes from the registry.
    pub owner: String,
    pub instance_attempts_max: u32,
    pub ontology_attempts_max: u32,
    pub projection_attempts_max: u32,
    pub publisher: Publisher,
    pub mismatch: Mismatch,
    /// Digest of the operator's token when one is configured; else one is generated into the data folder.
    pub admin_token: Option<Digest>,
    /// Tokens of the tokens file; `None` without such a file.
    pub tokens: Option<Vec<Token>>,
    pub log: String,
    pub log_format: LogFormat,
    /// How often a running host holds samples of its history against the invariants; `None`: never.
    pub check_interval: Option<Duration>,
    /// Places where this process ends on purpose: a testing aid, never set in operation.
    pub failpoints: Vec<failpoint::Plan>,
    /// What the operator should be told at the start: settings without effect, and why.
    pub notes: Vec<String>,
}

/// What one process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Api,
    Relay,
    InstanceWorker,
    OntologyWorker,
    ProjectionWorker,
}

impl Role {
    pub const ALL: [Role; 5] =
        [Role::Api, Role::Relay, Role::InstanceWorker, Role::OntologyWorker, Role::ProjectionWorker];

    /// The name in `CARRYALL_ROLES`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Api => "api",
            Role::Relay => "relay",
            Role::InstanceWorker => "instance-worker",
            Role::OntologyWorker => "ontology-worker",
            Role::ProjectionWorker => "projection-worker",
        }
    }
}

/// How the relay batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publisher {
    pub batch_events: usize,
    pub flush_events: usize,
    pub flush_timeout_ms: u64,
    pub metrics_log_interval_ms: u64,
}

/// What happens to a command id that comes again with other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// 422, nothing written.
    Refuse,
    /// Logged, counted, answered as the first.
    Warn,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human at a terminal, JSON otherwise.
    Auto,
    Human,
    Json,
}

/// One reason why a configuration does not hold.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The variable or key.
    pub setting: String,
    /// Where its value came from.
    pub source: String,
    /// A sentence without its subject: "must be …".
    pub message: String,
}

/// A configuration that does not hold, with every reason at once.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Refused {
    pub problems: Vec<Problem>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the configuration is refused:")?;
        for Problem { setting, source, message } in &self.problems {
            write!(f, "\n  {setting} ({source}) {message}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Understands the inputs, or says everything that is wrong with them. Reads the tokens file and nothing else.
    pub fn load(inputs: &Inputs) -> Result<(Config, Values), Refused> {
        let mut problems = Vec::new();
        let mut values = Values::layer(inputs, &mut problems);
        let data_dir = PathBuf::from(values.text("data_dir"));
        if values.text("processed_event_owner").is_empty() {
            let folder = std::path::absolute(&data_dir).unwrap_or_else(|_| data_dir.clone());
            values.derive("processed_event_owner", format!("{}:{}", host_name(inputs), folder.display()));
        }
        if values.text("event_store_url").is_empty() && values.text("event_store_bucket").is_empty() {
            values.derive("event_store_url", format!("file:{}", data_dir.join("store").display()));
        }
        let mut reader = Reader { values: &values, problems: &mut problems };
        let listen = reader.parse("listen", "must be an address and a port, such as 127.0.0.1:8000", |text| {
            text.parse::<SocketAddr>().ok().or_else(|| loopback_name(text))
        });
        let roles = reader.roles();
        reader.back_ends();
        reader.guarantees();
        let store = reader.store(&data_dir);
        let kafka = reader.kafka();
        let postgres_url = reader.postgres_url();
        let tokens = reader.tokens();
        let admin_token = Some(values.text("admin_token")).filter(|token| !token.is_empty());
        let mut reader = Reader { values: &values, problems: &mut problems };
        reader.exposure(listen, admin_token.is_some() || tokens.as_ref().is_some_and(|list| !list.is_empty()));
        if admin_token.is_some_and(|token| token.len() < ADMIN_TOKEN_LENGTH_MIN) {
            reader.refuse("admin_token", format!("must have at least {ADMIN_TOKEN_LENGTH_MIN} characters"));
        }
        let failpoints = reader.failpoints(inputs, listen);
        let refused_before = reader.problems.len();
        let lease_ms = reader.seconds("processed_event_lease_timeout_seconds", 1..=86_400);
        let heartbeat_ms = reader.seconds("processed_event_heartbeat_interval_seconds", 1..=3_600);
        if reader.problems.len() == refused_before && heartbeat_ms * 2 > lease_ms {
            reader.refuse(
                "processed_event_heartbeat_interval_seconds",
                "must be at most half of PROCESSED_EVENT_LEASE_TIMEOUT_SECONDS: one lost heartbeat loses the claim",
            );
        }
        let config = Config {
            listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8000))),
            roles,
            store,
            kafka,
            postgres_url,
            partitions: reader.number("partitions", 1..=1024),
            snapshot_interval_events: reader.number("snapshot_interval_events", 0..=1_000_000),
            lease_ms,
            heartbeat_ms,
            claims_kept_ms: reader.seconds("processed_event_retention_hours", 1..=87_600) * 3_600,
            owner: values.text("processed_event_owner").to_owned(),
            instance_attempts_max: reader.number("instance_worker_max_retry_attempts", 1..=100),
            ontology_attempts_max: reader.number("ontology_worker_max_retry_attempts", 1..=100),
            projection_attempts_max: reader.number("projection_worker_max_retries", 1..=100),
            publisher: Publisher {
                batch_events: reader.number("event_publisher_batch_size", 1..=10_000),
                flush_events: reader.number("event_publisher_kafka_flush_batch_size", 1..=10_000),
                flush_timeout_ms: reader.seconds("event_publisher_kafka_flush_timeout_seconds", 1..=600),
                metrics_log_interval_ms: reader.seconds("event_publisher_metrics_log_interval_seconds", 1..=86_400),
            },
            mismatch: reader.choice(
                "event_store_idempotency_mismatch_mode",
                &[("error", Mismatch::Refuse), ("warn", Mismatch::Warn)],
            ),
            admin_token: admin_token.map(|token| Digest::of(token.as_bytes())),
            tokens,
            log: values.text("log").to_owned(),
            log_format: reader.choice(
                "log_format",
                &[("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)],
            ),
            check_interval: Some(reader.seconds("check_interval_seconds", 0..=86_400))
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis),
            failpoints,
            notes: notes(&values, inputs),
            data_dir,
        };
        if problems.is_empty() { Ok((config, values)) } else { Err(Refused { problems }) }
    }

    /// Whether every caller on this machine may use the routes outside `/admin`: no tokens file, and nobody else can
    /// connect.
    pub fn anonymous_allowed(&self) -> bool {
        self.tokens.is_none() && self.listen.ip().is_loopback()
    }
}

/// Shorter tokens can be guessed over a network.
const ADMIN_TOKEN_LENGTH_MIN: usize = 16;

/// Checks texts one by one and collects what is wrong. A value that is refused reads as the least of its range, and
/// never leaves `load`.
struct Reader<'a> {
    values: &'a Values,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn refuse(&mut self, key: &'static str, message: impl Into<String>) {
        let setting = SETTINGS.iter().find(|setting| setting.key == key).expect("the key is in SETTINGS");
        let source = self.values.source(key);
        let setting = if matches!(source, Source::File(_)) { setting.key } else { setting.variable };
        let problem = Problem { setting: setting.into(), source: source.to_string(), message: message.into() };
        self.problems.push(problem);
    }

    fn parse<T>(&mut self, key: &'static str, rule: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let parsed = parse(self.values.text(key));
        if parsed.is_none() {
            self.refuse(key, rule);
        }
        parsed
    }

    fn number<T>(&mut self, key: &'static str, range: std::ops::RangeInclusive<T>) -> T
    where
        T: std::str::FromStr + PartialOrd + Copy + std::fmt::Display,
    {
        let rule = format!("must be a whole number from {} to {}", range.start(), range.end());
        let least = *range.start();
        self.parse(key, &rule, |text| text.parse::<T>().ok().filter(|n| range.contains(n))).unwrap_or(least)
    }

    fn seconds(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> u64 {
        self.number(key, range) * 1000
    }

    fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> T {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let rule = format!("must be one of: {}", names.join(", "));
        self.parse(key, &rule, |text| choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value))
            .unwrap_or(choices[0].1)
    }

    fn roles(&mut self) -> BTreeSet<Role> {
        let mut roles = BTreeSet::new();
        for name in self.values.text("roles").split(',').map(str::trim) {
            match Role::ALL.iter().find(|role| role.as_str() == name) {
                Some(role) => {
                    roles.insert(*role);
                }
                None if name == "all" => roles.extend(Role::ALL),
                None => {
                    let names: Vec<&str> = Role::ALL.iter().map(|role| role.as_str()).collect();
                    self.refuse("roles", format!("names {name:?}; roles are: all, {}", names.join(", ")));
                }
            }
        }
        let alone = ["kafka_bootstrap_servers", "postgres_url"].iter().any(|key| self.values.text(key).is_empty());
        if roles.len() < Role::ALL.len() && alone {
            self.refuse(
                "roles",
                "splits the work over processes, which needs KAFKA_BOOTSTRAP_SERVERS and POSTGRES_URL: without them a \
                 process cannot see the others' claims and messages. Leave it at `all`.",
            );
        }
        roles
    }

    /// What the contract names and this build cannot do yet must not look as if it did.
    fn back_ends(&mut self) {
        for (key, what, instead) in [
            ("elasticsearch_url", "Elasticsearch", "the built-in read model"),
            ("terminus_url", "TerminusDB", "the built-in graph"),
        ] {
            if !self.values.text(key).is_empty() {
                self.refuse(
                    key,
                    format!("asks for {what}, which this build does not have yet. Unset it: {instead} serves"),
                );
            }
        }
    }

    fn guarantees(&mut self) {
        let on = |text: &str| matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on");
        if !on(self.values.text("enable_event_sourcing")) {
            self.refuse("enable_event_sourcing", "would switch the event log off; there is nothing else to write to");
        }
        if !on(self.values.text("enable_processed_event_registry")) {
            self.refuse(
                "enable_processed_event_registry",
                "would switch the registry off, and with it the promise that an event takes effect exactly once",
            );
        }
        for (key, only, reason) in [
            (
                "event_store_sequence_allocator_mode",
                "postgres",
                "other modes give numbers that collide or leave holes; here the commit itself gives them",
            ),
            (
                "event_store_sequence_schema",
                "spice_event_registry",
                "the name is fixed, so that runbooks hold everywhere",
            ),
            (
                "event_store_sequence_handler_prefix",
                "write_side",
                "the name is fixed, so that runbooks hold everywhere",
            ),
        ] {
            if self.values.text(key) != only {
                self.refuse(key, format!("must be `{only}` or unset: {reason}"));
            }
        }
    }

    fn postgres_url(&mut self) -> Option<Secret> {
        let url = self.values.text("postgres_url");
        if url.is_empty() {
            return None;
        }
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            self.refuse("postgres_url", "must be postgres://USER:PASSWORD@HOST:PORT/DATABASE");
        }
        Some(Secret::new(url))
    }

    fn tokens(&mut self) -> Option<Vec<Token>> {
        let path = self.values.text("tokens_file");
        if path.is_empty() {
            return None;
        }
        match access::read_tokens(Path::new(path)) {
            Ok(tokens) => Some(tokens),
            Err(error) => {
                self.refuse("tokens_file", error.to_string());
                None
            }
        }
    }

    /// A variable only: nothing that is written down to stay may arm them.
    fn failpoints(&mut self, inputs: &Inputs, listen: Option<SocketAddr>) -> Vec<failpoint::Plan> {
        let Some(text) = inputs.environment.get(FAILPOINTS) else { return Vec::new() };
        let exposed = listen.is_some_and(|address| !address.ip().is_loopback());
        let parsed = match failpoint::parse(text) {
            Ok(plans) if exposed && !plans.is_empty() => {
                Err("is a testing aid that kills this process: it is refused while other machines reach it".to_owned())
            }
            parsed => parsed,
        };
        parsed.unwrap_or_else(|message| {
            let (setting, source) = (FAILPOINTS.to_owned(), Source::Environment.to_string());
            self.problems.push(Problem { setting, source, message });
            Vec::new()
        })
    }

    fn exposure(&mut self, listen: Option<SocketAddr>, tokens_configured: bool) {
        if listen.is_some_and(|address| !address.ip().is_loopback()) && !tokens_configured {
            self.refuse(
                "listen",
                "is reachable from other machines, so tokens must be configured: set CARRYALL_TOKENS_FILE or \
                 CARRYALL_ADMIN_TOKEN, or listen on 127.0.0.1",
            );
        }
    }
}

fn loopback_name(text: &str) -> Option<SocketAddr> {
    let port = text.strip_prefix("localhost:")?.parse().ok()?;
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn host_name(inputs: &Inputs) -> String {
    inputs
        .environment
        .get("HOSTNAME")
        .filter(|name| !name.is_empty())
        .cloned()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned()))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".into())
}

/// Where a test arms fail points.
const FAILPOINTS: &str = "CARRYALL_FAILPOINTS";

/// Variables that begin with `CARRYALL_` and are no settings: most are read by the tools around the host, never by it.
const OTHER_VARIABLES: [&str; 6] =
    [FAILPOINTS, "CARRYALL_CONFIG", "CARRYALL_URL", "CARRYALL_BIN", "CARRYALL_COMPONENTS", "CARRYALL_SERVICES_CACHE"];

fn notes(values: &Values, inputs: &Inputs) -> Vec<String> {
    let mut notes = Vec::new();
    if *values.source("event_publisher_dedup_max_events") != Source::Default {
        notes.push(
            "EVENT_PUBLISHER_DEDUP_MAX_EVENTS has no effect: segments are numbered without gaps, so the relay never \
             reads an event late and has no window to deduplicate"
                .into(),
        );
    }
    let url = values.text("event_store_url");
    let s3 = url.starts_with("s3:") || url.is_empty();
    for (key, variable) in [
        ("event_store_bucket", "EVENT_STORE_BUCKET"),
        ("minio_endpoint_url", "MINIO_ENDPOINT_URL"),
        ("minio_access_key", "MINIO_ACCESS_KEY"),
        ("minio_secret_key", "MINIO_SECRET_KEY"),
    ] {
        if !s3 && !values.text(key).is_empty() {
            notes.push(format!("{variable} has no effect: the event log is a folder, not an S3 bucket"));
        }
    }
    for name in inputs.environment.keys().filter(|name| name.starts_with("CARRYALL_")) {
        let known = SETTINGS.iter().any(|setting| setting.variable == name);
        let of_tests = name.starts_with("CARRYALL_TEST_");
        if !known && !of_tests && !OTHER_VARIABLES.contains(&name.as_str()) {
            notes.push(format!("{name} is no setting of this program and has no effect; is it misspelt?"));
        }
    }
    notes
}
