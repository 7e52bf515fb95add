//! Starting and stopping: readiness, refusals of a configuration, one host on one folder, the token on the disk.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use carryall_tests::{Options, Server, run_to_end};

/// Runs `serve` with variables that it must refuse; gives what it says.
fn refused(environment: &[(&str, &str)]) -> String {
    let output = run_to_end(&["serve"], environment).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

#[tokio::test]
async fn a_fresh_host_is_healthy_ready_and_measured() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = server.client();
    assert_eq!(client.get("/health").await.unwrap().status, 200);
    let ready = client.get("/ready").await.unwrap().expect(200).unwrap();
    assert!(ready.is_object(), "{ready}");
    let metrics = client.get("/metrics").await.unwrap();
    assert_eq!(metrics.status, 200);
    for name in ["events_processed", "events_skipped", "events_failed", "projection_lag_ms", "carryall_commit_seconds"]
    {
        assert!(metrics.text().contains(name), "{name} is missing in {}", metrics.text());
    }
}

#[tokio::test]
async fn sigterm_ends_a_host_well() {
    let mut server = Server::start(Options::default()).await.unwrap();
    assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    server.start_again().await.unwrap();
}

#[tokio::test]
async fn a_second_host_on_the_same_folder_is_refused_with_a_clear_word() {
    let server = Server::start(Options::default()).await.unwrap();
    let output = server.second_on_the_same_folder().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("folder") && said.contains("another"), "{said}");
    assert_eq!(server.client().get("/ready").await.unwrap().status, 200);
}

#[test]
fn back_ends_this_build_lacks_are_refused() {
    assert!(refused(&[("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1")]).contains("KAFKA_BOOTSTRAP_SERVERS"));
    assert!(!refused(&[("POSTGRES_URL", "mysql://u:hidden@127.0.0.1/db")]).contains("hidden"));
}

#[test]
fn guarantees_cannot_be_switched_off() {
    assert!(refused(&[("ENABLE_PROCESSED_EVENT_REGISTRY", "false")]).contains("exactly once"));
    assert!(refused(&[("ENABLE_EVENT_SOURCING", "false")]).contains("ENABLE_EVENT_SOURCING"));
    refused(&[("EVENT_STORE_SEQUENCE_ALLOCATOR_MODE", "off")]);
}

#[test]
fn roles_split_only_over_shared_parts() {
    assert!(refused(&[("CARRYALL_ROLES", "api")]).contains("KAFKA_BOOTSTRAP_SERVERS"));
}

#[test]
fn listening_for_other_machines_needs_tokens() {
    assert!(refused(&[("CARRYALL_LISTEN", "0.0.0.0:0")]).contains("CARRYALL_TOKENS_FILE"));
}

#[tokio::test]
async fn the_token_is_made_once_and_private() {
    let mut server = Server::start(Options::default().with("CARRYALL_ADMIN_TOKEN", "")).await.unwrap();
    let path = server.data().join("admin-token");
    let token = std::fs::read_to_string(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let operator = server.client().with_token(token.trim());
    assert_eq!(operator.get("/admin/v1/handlers").await.unwrap().status, 200);
    server.kill().unwrap();
    server.start_again().await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), token);
    assert_eq!(operator.get("/admin/v1/handlers").await.unwrap().status, 200);
}

#[test]
fn config_prints_sources_and_masks_secrets() {
    let environment = [("CARRYALL_ADMIN_TOKEN", "a-secret-of-good-length"), ("CARRYALL_LISTEN", "127.0.0.1:9")];
    let output = run_to_end(&["config", "--json", "--log", "debug"], &environment).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains("a-secret"), "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let setting = |name: &str| {
        let settings = value["settings"].as_array().unwrap();
        let found = settings.iter().find(|setting| setting["variable"] == name).unwrap();
        (found["value"].clone(), found["source"].clone())
    };
    assert_eq!(setting("CARRYALL_LISTEN"), ("127.0.0.1:9".into(), "environment".into()));
    assert_eq!(setting("CARRYALL_LOG"), ("debug".into(), "flag".into()));
    assert_eq!(setting("CARRYALL_ADMIN_TOKEN"), ("***".into(), "environment".into()));
    assert_eq!(setting("CARRYALL_DATA_DIR"), ("./data".into(), "default".into()));
}

#[test]
fn wrong_use_and_failure_have_different_exit_codes() {
    assert_eq!(run_to_end(&["config"], &[]).unwrap().status.code(), Some(0));
    assert_eq!(run_to_end(&["no-such-command"], &[]).unwrap().status.code(), Some(2));
    assert_eq!(run_to_end(&["events", "list", "--url", "http://127.0.0.1:1"], &[]).unwrap().status.code(), Some(1));
}
