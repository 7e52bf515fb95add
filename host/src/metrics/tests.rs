//! Tests of the metrics' text and of the `/proc` reader.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::process::Usage;
use super::{Metrics, Sync};

#[test]
fn text_has_the_names_operators_know() {
    let metrics = Metrics::new();
    let worker = metrics.consumer("instance_worker");
    worker.processed.add(3);
    worker.skipped.add(1);
    let projection = metrics.consumer("projection_worker:instance_events");
    projection.lag_ms.set(250);
    metrics.commit().observe(7, 2048, Duration::from_micros(300));
    metrics.syncs(Sync::Folder).add(1);
    metrics.call("instance", "decide").observe(Duration::from_micros(20), Some(50_000));
    metrics.http("POST", "/api/v1/commands", 202, Duration::from_millis(2));
    metrics.queue("append").set(4);
    let text = metrics.render();
    for line in [
        "events_processed{handler=\"instance_worker\"} 3",
        "events_skipped{handler=\"instance_worker\"} 1",
        "events_failed{handler=\"instance_worker\"} 0",
        "projection_lag_ms{handler=\"projection_worker:instance_events\"} 250",
        "projection_lag_events{handler=\"projection_worker:instance_events\"} 0",
        "carryall_commit_events_sum 7",
        "carryall_commit_bytes_count 1",
        "carryall_syncs{what=\"folder\"} 1",
        "carryall_sandbox_seconds_count{call=\"decide\",handler=\"instance\"} 1",
        "carryall_http_request_seconds_count{method=\"POST\",route=\"/api/v1/commands\",status=\"202\"} 1",
        "carryall_queue_depth{queue=\"append\"} 4",
        "carryall_idempotency_mismatches 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn handles_of_one_name_count_together() {
    let metrics = Metrics::new();
    metrics.consumer("a").processed.add(1);
    metrics.clone().consumer("a").processed.add(2);
    assert_eq!(metrics.consumer("a").processed.get(), 3);
    assert_eq!(metrics.consumer("b").processed.get(), 0);
}

#[test]
fn a_command_name_with_parentheses_does_not_shift_the_fields() {
    let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 200";
    let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
    let usage = Usage::parse(stat, status).unwrap();
    assert_eq!(usage, Usage { cpu_seconds: 3.0, resident_bytes: 1 << 20, resident_peak_bytes: 2 << 20 });
    assert_eq!(Usage::parse("42 (x", status), None);
}

#[test]
fn this_process_uses_memory() {
    let usage = Usage::of_self().unwrap();
    assert!(usage.resident_bytes > 0 && usage.resident_peak_bytes >= usage.resident_bytes);
}
