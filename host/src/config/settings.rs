//! The table of settings and the order of their sources: flag, environment, file, default. Knows names and texts only;
//! what the texts mean is checked in the module above.

use std::collections::BTreeMap;

use super::Problem;

/// One setting, under all its names.
#[derive(Debug)]
pub struct Setting {
    /// Name in `carryall.toml`; with hyphens, the flag.
    pub key: &'static str,
    /// Name of the environment variable.
    pub variable: &'static str,
    /// Text of the default; empty when there is none.
    pub default: &'static str,
    pub secrecy: Secrecy,
    pub help: &'static str,
}

/// How much of a value may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    Open,
    /// A URL whose password is hidden.
    Url,
    Secret,
}

const fn open(key: &'static str, variable: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, variable, default, secrecy: Secrecy::Open, help }
}

const fn url(key: &'static str, variable: &'static str, help: &'static str) -> Setting {
    Setting { key, variable, default: "", secrecy: Secrecy::Url, help }
}

const fn secret(key: &'static str, variable: &'static str, help: &'static str) -> Setting {
    Setting { key, variable, default: "", secrecy: Secrecy::Secret, help }
}

/// Every setting there is. Names that operators know from the system this one follows are kept.
pub const SETTINGS: &[Setting] = &[
    open("listen", "CARRYALL_LISTEN", "127.0.0.1:8000", "address and port to serve HTTP on"),
    open("data_dir", "CARRYALL_DATA_DIR", "./data", "folder for everything that is kept locally"),
    open("roles", "CARRYALL_ROLES", "all", "what this process does: all, or a list of roles"),
    open("log", "CARRYALL_LOG", "info", "what to log: a level, or filters such as `warn,carryall=debug`"),
    open("log_format", "CARRYALL_LOG_FORMAT", "auto", "`human`, `json`, or `auto`: human at a terminal"),
    open("partitions", "CARRYALL_PARTITIONS", "1", "partitions of a new event log; fixed when it is created"),
    open(
        "snapshot_interval_events",
        "CARRYALL_SNAPSHOT_INTERVAL_EVENTS",
        "500",
        "events of an aggregate from one snapshot to the next; 0: none are made or read",
    ),
    secret("admin_token", "CARRYALL_ADMIN_TOKEN", "bearer token of the operator; generated when unset"),
    open("tokens_file", "CARRYALL_TOKENS_FILE", "", "JSON list of {sha256, subject, roles, databases?}"),
    open("event_store_url", "EVENT_STORE_URL", "", "`file:PATH` or `s3://bucket/prefix`; unset: DATA_DIR/store"),
    open("event_store_bucket", "EVENT_STORE_BUCKET", "", "bucket of the event log; alone it selects S3"),
    url("minio_endpoint_url", "MINIO_ENDPOINT_URL", "endpoint of the S3 server"),
    secret("minio_access_key", "MINIO_ACCESS_KEY", "access key of the S3 server"),
    secret("minio_secret_key", "MINIO_SECRET_KEY", "secret key of the S3 server"),
    url("postgres_url", "POSTGRES_URL", "PostgreSQL database; unset: SQLite in the data folder"),
    open("kafka_bootstrap_servers", "KAFKA_BOOTSTRAP_SERVERS", "", "Kafka; unset: a bus in the process"),
    open(
        "kafka_prefix",
        "CARRYALL_KAFKA_PREFIX",
        "",
        "begins the names of topics and groups, so that several stores can share a cluster",
    ),
    url("elasticsearch_url", "ELASTICSEARCH_URL", "search engine; unset: the built-in read model"),
    url("terminus_url", "TERMINUS_URL", "TerminusDB; unset: the built-in graph"),
    open(
        "processed_event_lease_timeout_seconds",
        "PROCESSED_EVENT_LEASE_TIMEOUT_SECONDS",
        "900",
        "age at which another owner may take a claim over",
    ),
    open(
        "processed_event_heartbeat_interval_seconds",
        "PROCESSED_EVENT_HEARTBEAT_INTERVAL_SECONDS",
        "30",
        "how often the owner renews its claims",
    ),
    open(
        "processed_event_retention_hours",
        "PROCESSED_EVENT_RETENTION_HOURS",
        "168",
        "how long ended claims are kept for operators to look at",
    ),
    open("processed_event_owner", "PROCESSED_EVENT_OWNER", "", "name of this process; unset: host and data folder"),
    open("instance_worker_max_retry_attempts", "INSTANCE_WORKER_MAX_RETRY_ATTEMPTS", "5", "attempts before parking"),
    open("ontology_worker_max_retry_attempts", "ONTOLOGY_WORKER_MAX_RETRY_ATTEMPTS", "5", "attempts before parking"),
    open("projection_worker_max_retries", "PROJECTION_WORKER_MAX_RETRIES", "5", "attempts before parking"),
    open("event_publisher_batch_size", "EVENT_PUBLISHER_BATCH_SIZE", "200", "events the relay reads at a time"),
    open(
        "event_publisher_kafka_flush_batch_size",
        "EVENT_PUBLISHER_KAFKA_FLUSH_BATCH_SIZE",
        "200",
        "events the relay sends before it waits for their acknowledgement",
    ),
    open(
        "event_publisher_kafka_flush_timeout_seconds",
        "EVENT_PUBLISHER_KAFKA_FLUSH_TIMEOUT_SECONDS",
        "10",
        "how long the relay waits for acknowledgements",
    ),
    open(
        "event_publisher_metrics_log_interval_seconds",
        "EVENT_PUBLISHER_METRICS_LOG_INTERVAL_SECONDS",
        "30",
        "how often the relay logs its counters",
    ),
    open(
        "event_publisher_dedup_max_events",
        "EVENT_PUBLISHER_DEDUP_MAX_EVENTS",
        "10000",
        "accepted without effect: the relay reads dense segments and has nothing to look back for",
    ),
    open(
        "event_store_idempotency_mismatch_mode",
        "EVENT_STORE_IDEMPOTENCY_MISMATCH_MODE",
        "error",
        "same command id, other content: `error` refuses, `warn` logs and answers as the first",
    ),
    open(
        "check_interval_seconds",
        "CARRYALL_CHECK_INTERVAL_SECONDS",
        "60",
        "how often samples of the history are held against the invariants; 0: never",
    ),
    open("enable_event_sourcing", "ENABLE_EVENT_SOURCING", "true", "always on"),
    open("enable_processed_event_registry", "ENABLE_PROCESSED_EVENT_REGISTRY", "true", "always on"),
    open(
        "event_store_sequence_allocator_mode",
        "EVENT_STORE_SEQUENCE_ALLOCATOR_MODE",
        "postgres",
        "always atomic: numbers are given by the commit itself",
    ),
    open(
        "event_store_sequence_schema",
        "EVENT_STORE_SEQUENCE_SCHEMA",
        "spice_event_registry",
        "schema of the registry tables",
    ),
    open(
        "event_store_sequence_handler_prefix",
        "EVENT_STORE_SEQUENCE_HANDLER_PREFIX",
        "write_side",
        "prefix of the write side's rows",
    ),
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Default,
    /// The name of the file.
    File(String),
    Environment,
    Flag,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(name) => f.write_str(name),
            Source::Environment => f.write_str("environment"),
            Source::Flag => f.write_str("flag"),
        }
    }
}

/// What the configuration is made of, before it is understood.
#[derive(Debug, Default)]
pub struct Inputs {
    /// By key.
    pub flags: BTreeMap<String, String>,
    /// The process environment.
    pub environment: BTreeMap<String, String>,
    /// Name and text of `carryall.toml`.
    pub file: Option<(String, String)>,
}

/// The texts that hold, by key.
#[derive(Debug, Clone)]
pub struct Values(BTreeMap<&'static str, (String, Source)>);

impl Values {
    /// Layers the sources. An empty variable counts as unset, as in a compose file; an unknown key of the file is a
    /// problem, since a setting that is silently ignored is worse than a start that fails.
    pub fn layer(inputs: &Inputs, problems: &mut Vec<Problem>) -> Values {
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            values.insert(setting.key, (setting.default.to_owned(), Source::Default));
        }
        if let Some((name, text)) = &inputs.file {
            for (key, value) in read_file(name, text, problems) {
                match SETTINGS.iter().find(|setting| setting.key == key) {
                    Some(setting) => {
                        values.insert(setting.key, (value, Source::File(name.clone())));
                    }
                    None => problems.push(Problem {
                        setting: key,
                        source: name.clone(),
                        message: "is no setting; `carryall config` lists those there are".into(),
                    }),
                }
            }
        }
        for setting in SETTINGS {
            if let Some(value) = inputs.environment.get(setting.variable).filter(|value| !value.is_empty()) {
                values.insert(setting.key, (value.clone(), Source::Environment));
            }
            if let Some(value) = inputs.flags.get(setting.key) {
                values.insert(setting.key, (value.clone(), Source::Flag));
            }
        }
        Values(values)
    }

    /// The text of a setting; empty when unset.
    pub fn text(&self, key: &'static str) -> &str {
        &self.0.get(key).expect("every key asked for is in SETTINGS").0
    }

    /// Where it came from.
    pub fn source(&self, key: &'static str) -> &Source {
        &self.0.get(key).expect("every key asked for is in SETTINGS").1
    }

    /// Replaces a default that depends on other settings.
    pub(super) fn derive(&mut self, key: &'static str, value: String) {
        self.0.insert(key, (value, Source::Default));
    }

    /// Every setting with what may be shown of its value.
    pub fn shown(&self) -> Vec<Shown> {
        SETTINGS
            .iter()
            .map(|setting| {
                let (value, source) = self.0.get(setting.key).expect("layered from SETTINGS");
                let value = match setting.secrecy {
                    _ if value.is_empty() => None,
                    Secrecy::Open => Some(value.clone()),
                    Secrecy::Url => Some(mask_url(value)),
                    Secrecy::Secret => Some("***".to_owned()),
                };
                Shown { key: setting.key, variable: setting.variable, value, source: source.to_string() }
            })
            .collect()
    }
}

/// A setting as `carryall config` prints it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Shown {
    pub key: &'static str,
    pub variable: &'static str,
    pub value: Option<String>,
    pub source: String,
}

fn read_file(name: &str, text: &str, problems: &mut Vec<Problem>) -> Vec<(String, String)> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            problems.push(Problem {
                setting: "the file".into(),
                source: name.to_owned(),
                message: format!("is not TOML: {error}"),
            });
            return Vec::new();
        }
    };
    let mut pairs = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::String(text) => pairs.push((key, text)),
            toml::Value::Integer(number) => pairs.push((key, number.to_string())),
            toml::Value::Boolean(flag) => pairs.push((key, flag.to_string())),
            other => problems.push(Problem {
                setting: key,
                source: name.to_owned(),
                message: format!("must be a text, a whole number or true/false, not {}", other.type_str()),
            }),
        }
    }
    pairs
}

/// Hides what stands between the scheme and the last `@` of the authority, but for the user's name.
fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".into() };
    let (authority, tail) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let shown = match authority.rsplit_once('@') {
        Some((credentials, host)) => {
            let user = credentials.split_once(':').map_or(credentials, |(user, _)| user);
            format!("{user}:***@{host}")
        }
        None => authority.to_owned(),
    };
    // A password may also stand in the query.
    let tail = tail.split_once('?').map_or(tail.to_owned(), |(path, _)| format!("{path}?***"));
    format!("{scheme}://{shown}{tail}")
}
