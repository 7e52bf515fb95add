//! Tests of the configuration: order of sources, refusals, masking, tokens.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Inputs {
    Inputs {
        environment: pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ..Inputs::default()
    }
}

fn refused(pairs: &[(&str, &str)]) -> Vec<Problem> {
    Config::load(&environment(pairs)).unwrap_err().problems
}

fn one_refusal(name: &str, value: &str) -> String {
    let problems = refused(&[(name, value)]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!((problems[0].setting.as_str(), problems[0].source.as_str()), (name, "environment"));
    problems[0].message.clone()
}

#[test]
fn nothing_configured_is_the_embedded_default() {
    let (config, _) = Config::load(&Inputs::default()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.store, Store::Folder("./data/store".into()));
    assert_eq!(config.roles.len(), 5);
    assert_eq!((config.lease_ms, config.heartbeat_ms, config.snapshot_interval_events), (900_000, 30_000, 500));
    assert_eq!((config.instance_attempts_max, config.publisher.batch_events), (5, 200));
    assert_eq!(config.mismatch, Mismatch::Refuse);
    assert!(config.anonymous_allowed() && config.notes.is_empty());
    assert!(config.owner.ends_with("/data"), "{}", config.owner);
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let mut inputs = environment(&[("CARRYALL_LISTEN", "127.0.0.1:2"), ("EVENT_PUBLISHER_BATCH_SIZE", "7")]);
    inputs.file =
        Some(("carryall.toml".into(), "listen = '127.0.0.1:3'\ndata_dir = 'x'\npartitions = 4\nroles = 'all'".into()));
    inputs.flags.insert("listen".into(), "127.0.0.1:1".into());
    let (config, values) = Config::load(&inputs).unwrap();
    assert_eq!(config.listen.port(), 1);
    assert_eq!(config.publisher.batch_events, 7);
    assert_eq!((config.partitions, config.data_dir.as_path()), (4, Path::new("x")));
    let sources: Vec<String> = ["listen", "event_publisher_batch_size", "partitions", "log"]
        .iter()
        .map(|key| values.shown().iter().find(|shown| shown.key == *key).unwrap().source.clone())
        .collect();
    assert_eq!(sources, ["flag", "environment", "carryall.toml", "default"]);
}

#[test]
fn fail_points_come_from_the_environment_and_never_where_others_reach() {
    let armed = ("CARRYALL_FAILPOINTS", "append.after_put=kill@2");
    let (config, _) = Config::load(&environment(&[armed])).unwrap();
    assert_eq!(config.failpoints.len(), 1);
    assert!(config.notes.is_empty(), "{:?}", config.notes);
    assert!(Config::load(&Inputs::default()).unwrap().0.failpoints.is_empty());
    assert!(one_refusal("CARRYALL_FAILPOINTS", "append.after_put").contains("point=action"));
    let token = ("CARRYALL_ADMIN_TOKEN", "a-token-that-is-long-enough");
    let problems = refused(&[armed, token, ("CARRYALL_LISTEN", "0.0.0.0:8000")]);
    assert!(problems.len() == 1 && problems[0].message.contains("testing aid"), "{problems:?}");
}

#[test]
fn every_key_has_its_own_names() {
    for (index, setting) in SETTINGS.iter().enumerate() {
        for other in &SETTINGS[..index] {
            assert!(setting.key != other.key && setting.variable != other.variable);
        }
        assert_eq!(setting.variable.trim_start_matches("CARRYALL_").to_lowercase(), setting.key);
    }
}

#[test]
fn unknown_keys_and_wrong_types_of_the_file_are_refused_together() {
    let file = Some(("carryall.toml".into(), "lissten = 'x'\npartitions = [1]\nlisten = 'nowhere'".into()));
    let problems = Config::load(&Inputs { file, ..Inputs::default() }).unwrap_err().problems;
    let settings: Vec<&str> = problems.iter().map(|problem| problem.setting.as_str()).collect();
    assert_eq!(settings, ["partitions", "lissten", "listen"]);
    let file = Some(("carryall.toml".into(), "listen = ".into()));
    assert!(Config::load(&Inputs { file, ..Inputs::default() }).unwrap_err().to_string().contains("is not TOML"));
}

#[test]
fn back_ends_this_build_lacks_are_refused_not_ignored() {
    for (name, value, word) in [
        ("ELASTICSEARCH_URL", "http://localhost:9200", "Elasticsearch"),
        ("TERMINUS_URL", "http://localhost:6363", "TerminusDB"),
    ] {
        let message = one_refusal(name, value);
        assert!(message.contains(word) && message.contains("does not have yet"), "{message}");
    }
}

#[test]
fn kafka_is_named_by_addresses_and_shared_by_a_prefix() {
    assert_eq!(Config::load(&environment(&[])).unwrap().0.kafka, None);
    let named = [("KAFKA_BOOTSTRAP_SERVERS", "one:9092,two:9093"), ("CARRYALL_KAFKA_PREFIX", "shop.")];
    let kafka = Config::load(&environment(&named)).unwrap().0.kafka.unwrap();
    assert_eq!((kafka.bootstrap_servers.as_str(), kafka.prefix.as_str()), ("one:9092,two:9093", "shop."));
    assert!(one_refusal("KAFKA_BOOTSTRAP_SERVERS", "one").contains("host:port"));
    assert!(one_refusal("KAFKA_BOOTSTRAP_SERVERS", "one:9092,:1").contains("host:port"));
    assert!(one_refusal("CARRYALL_KAFKA_PREFIX", "shop.").contains("KAFKA_BOOTSTRAP_SERVERS"));
    let odd = refused(&[("KAFKA_BOOTSTRAP_SERVERS", "one:9092"), ("CARRYALL_KAFKA_PREFIX", "my shop")]);
    assert!(odd[0].message.contains("names of topics"));
}

#[test]
fn guarantees_cannot_be_switched_off() {
    for (name, value) in [
        ("ENABLE_EVENT_SOURCING", "false"),
        ("ENABLE_PROCESSED_EVENT_REGISTRY", "0"),
        ("EVENT_STORE_SEQUENCE_ALLOCATOR_MODE", "legacy"),
        ("EVENT_STORE_SEQUENCE_ALLOCATOR_MODE", "off"),
        ("EVENT_STORE_SEQUENCE_SCHEMA", "other"),
        ("EVENT_STORE_SEQUENCE_HANDLER_PREFIX", "other"),
        ("EVENT_STORE_IDEMPOTENCY_MISMATCH_MODE", "off"),
    ] {
        one_refusal(name, value);
    }
    let production = [
        ("ENABLE_EVENT_SOURCING", "true"),
        ("ENABLE_PROCESSED_EVENT_REGISTRY", "1"),
        ("EVENT_STORE_SEQUENCE_ALLOCATOR_MODE", "postgres"),
        ("EVENT_STORE_SEQUENCE_SCHEMA", "spice_event_registry"),
        ("EVENT_STORE_SEQUENCE_HANDLER_PREFIX", "write_side"),
        ("EVENT_STORE_IDEMPOTENCY_MISMATCH_MODE", "warn"),
    ];
    assert_eq!(Config::load(&environment(&production)).unwrap().0.mismatch, Mismatch::Warn);
}

#[test]
fn numbers_outside_their_range_are_refused() {
    one_refusal("PROCESSED_EVENT_LEASE_TIMEOUT_SECONDS", "soon");
    one_refusal("INSTANCE_WORKER_MAX_RETRY_ATTEMPTS", "0");
    one_refusal("EVENT_PUBLISHER_BATCH_SIZE", "-1");
    one_refusal("CARRYALL_PARTITIONS", "5000");
    one_refusal("CARRYALL_SNAPSHOT_INTERVAL_EVENTS", "often");
    assert!(one_refusal("PROCESSED_EVENT_HEARTBEAT_INTERVAL_SECONDS", "600").contains("half"));
}

#[test]
fn roles_split_only_over_shared_parts() {
    assert!(one_refusal("CARRYALL_ROLES", "api,relay").contains("KAFKA_BOOTSTRAP_SERVERS"));
    let problems = refused(&[("CARRYALL_ROLES", "api,typist")]);
    assert!(problems[0].message.contains("typist"));
    let every = "api,relay,instance-worker,ontology-worker,projection-worker";
    assert_eq!(Config::load(&environment(&[("CARRYALL_ROLES", every)])).unwrap().0.roles.len(), 5);
}

#[test]
fn other_machines_need_a_token() {
    assert!(one_refusal("CARRYALL_LISTEN", "0.0.0.0:8000").contains("CARRYALL_TOKENS_FILE"));
    let open = [("CARRYALL_LISTEN", "0.0.0.0:8000"), ("CARRYALL_ADMIN_TOKEN", "a-token-of-good-length")];
    let (config, _) = Config::load(&environment(&open)).unwrap();
    assert!(!config.anonymous_allowed());
    assert_eq!(config.admin_token, Some(Digest::of(b"a-token-of-good-length")));
    one_refusal("CARRYALL_ADMIN_TOKEN", "short");
}

#[test]
fn secrets_are_masked() {
    let inputs = environment(&[
        ("CARRYALL_ADMIN_TOKEN", "a-token-of-good-length"),
        ("MINIO_SECRET_KEY", "minio-secret"),
        ("MINIO_ENDPOINT_URL", "http://user:pass@host:9000/path?password=pass"),
    ]);
    let (_, values) = Config::load(&inputs).unwrap();
    let text = serde_json::to_string(&values.shown()).unwrap();
    for secret in ["good-length", "minio-secret", "pass@", "=pass"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert!(text.contains("http://user:***@host:9000/path?***"), "{text}");
}

#[test]
fn settings_without_effect_are_named() {
    let inputs = environment(&[
        ("EVENT_PUBLISHER_DEDUP_MAX_EVENTS", "5"),
        ("MINIO_ACCESS_KEY", "x"),
        ("CARRYALL_LISTN", "x"),
        ("CARRYALL_URL", "x"),
    ]);
    let (config, _) = Config::load(&inputs).unwrap();
    let named: Vec<&str> = config.notes.iter().filter_map(|note| note.split(' ').next()).collect();
    assert_eq!(named, ["EVENT_PUBLISHER_DEDUP_MAX_EVENTS", "MINIO_ACCESS_KEY", "CARRYALL_LISTN"]);
}

#[test]
fn log_folder_follows_its_url() {
    for (url, want) in [("file:/srv/log", "/srv/log"), ("file:///srv/log", "/srv/log"), ("file:log", "log")] {
        let (config, _) = Config::load(&environment(&[("EVENT_STORE_URL", url)])).unwrap();
        assert_eq!(config.store, Store::Folder(want.into()));
    }
    for url in ["file:", "http://x", "/srv/log", "file:///"] {
        one_refusal("EVENT_STORE_URL", url);
    }
}

fn bucket(pairs: &[(&str, &str)]) -> Bucket {
    match Config::load(&environment(pairs)).unwrap().0.store {
        Store::S3(bucket) => bucket,
        folder => panic!("{pairs:?} is {folder:?}"),
    }
}

#[test]
fn a_bucket_is_named_by_a_url_or_alone() {
    let plain = bucket(&[("EVENT_STORE_BUCKET", "events")]);
    assert_eq!(
        (plain.name.as_str(), plain.prefix.as_str(), &plain.endpoint, &plain.keys),
        ("events", "", &None, &None)
    );
    let whole = [
        ("EVENT_STORE_URL", "s3://events/eu/shop/"),
        ("EVENT_STORE_BUCKET", "events"),
        ("MINIO_ENDPOINT_URL", "http://127.0.0.1:9000"),
        ("MINIO_ACCESS_KEY", "key"),
        ("MINIO_SECRET_KEY", "hidden"),
    ];
    let whole = bucket(&whole);
    assert_eq!((whole.name.as_str(), whole.prefix.as_str()), ("events", "eu/shop"));
    assert_eq!(whole.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    assert_eq!(whole.keys.as_ref().unwrap().1.reveal(), "hidden");
    assert!(!format!("{whole:?}").contains("hidden"));
    let folder = environment(&[("EVENT_STORE_URL", "file:log"), ("EVENT_STORE_BUCKET", "events")]);
    let notes = Config::load(&folder).unwrap().0.notes;
    assert!(notes[0].starts_with("EVENT_STORE_BUCKET has no effect"), "{notes:?}");
}

#[test]
fn a_bucket_that_cannot_be_is_refused() {
    for url in
        ["s3:", "s3://", "s3:events", "s3://Events", "s3://-a-", "s3://events//x", "s3://events/../x", "s3://eve/é"]
    {
        one_refusal("EVENT_STORE_URL", url);
    }
    let both = [("EVENT_STORE_URL", "s3://one-bucket"), ("EVENT_STORE_BUCKET", "another")];
    assert!(refused(&both)[0].message.contains("another bucket"));
    for (name, value) in
        [("MINIO_ENDPOINT_URL", "127.0.0.1:9000"), ("MINIO_ACCESS_KEY", "alone"), ("MINIO_SECRET_KEY", "alone")]
    {
        let problems = refused(&[("EVENT_STORE_BUCKET", "events"), (name, value)]);
        assert_eq!((problems.len(), problems[0].setting.as_str()), (1, name), "{problems:?}");
        assert!(!problems[0].message.contains(value), "{problems:?}");
    }
}

#[test]
fn tokens_file_is_checked_entry_by_entry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.json");
    let load = |text: String| {
        std::fs::write(&path, text).unwrap();
        Config::load(&environment(&[("CARRYALL_TOKENS_FILE", path.to_str().unwrap())]))
    };
    let digest = Digest::of(b"t");
    let good =
        format!(r#"[{{"sha256":"{digest}","subject":"ann","roles":["reader","commander"],"databases":["shop"]}}]"#);
    let tokens = load(good.clone()).unwrap().0.tokens.unwrap();
    assert_eq!(tokens[0].roles, [AccessRole::Reader, AccessRole::Commander]);
    for (from, to) in [
        ("\"ann\"", "\"\""),
        ("\"reader\",\"commander\"", ""),
        ("commander", "king"),
        ("subject", "subjekt"),
        ("\"shop\"", "\"a b\""),
    ] {
        let problems = load(good.replace(from, to)).unwrap_err().problems;
        assert_eq!(problems[0].setting, "CARRYALL_TOKENS_FILE");
    }
    let twice = format!("[{},{}]", &good[1..good.len() - 1], &good[1..good.len() - 1]);
    assert!(load(twice).unwrap_err().to_string().contains("twice"));
    std::fs::remove_file(&path).unwrap();
    one_refusal("CARRYALL_TOKENS_FILE", path.to_str().unwrap());
}

#[test]
fn generated_admin_token_is_private_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let first = ensure_admin_token(&data, || [7; 32]).unwrap();
    let again = ensure_admin_token(&data, || [8; 32]).unwrap();
    assert_eq!(first, again);
    let path = admin_token_path(&data);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&path).unwrap();
    assert_eq!(Digest::of(token.trim().as_bytes()), first);
    std::fs::write(&path, "\n").unwrap();
    assert!(ensure_admin_token(&data, || [9; 32]).unwrap_err().to_string().contains("delete it"));
}
