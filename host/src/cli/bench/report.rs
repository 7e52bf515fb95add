//! One level measured, and all levels as text and JSON.

use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::floor::Floor;
use super::host::Host;
use super::orders::{Orders, Size};
use crate::app::Floors;
use crate::cli::output::table;
use crate::metrics::process::Usage;

/// Everything that was measured.
pub(super) struct Report {
    pub payload_bytes: usize,
    pub updates: usize,
    pub one_request: bool,
    pub disk: Floor,
    pub remote: Floors,
    pub levels: Vec<Level>,
}

/// One level of concurrency.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Level {
    concurrency: usize,
    commands: u64,
    seconds: f64,
    commands_per_second: f64,
    /// Absent where one request waits for COMPLETED.
    accepted_ms: Option<Percentiles>,
    completed_ms: Percentiles,
    /// From sending until a read shows what was written, of every sixteenth command.
    readable_ms: Percentiles,
    /// User and system time of the host for 10,000 commands; absent when its process is not known.
    host_cpu_seconds_per_10k: Option<f64>,
    generator_cpu_seconds_per_10k: Option<f64>,
    /// The greatest resident size of the host up to the end of this level.
    host_peak_bytes: Option<u64>,
    segments_per_command: f64,
    file_syncs_per_command: f64,
    folder_syncs_per_command: f64,
    /// Requests to a remote object store; 0 on a folder.
    object_requests_per_command: f64,
    /// Round trips to a remote database, without those of the generator's own reads; 0 with SQLite.
    sql_statements_per_command: f64,
    retried_requests: u64,
}

#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Percentiles {
    /// Of microseconds, in milliseconds.
    pub fn of(mut micros: Vec<u32>) -> Percentiles {
        micros.sort_unstable();
        let at = |share: f64| {
            let rank = (share * micros.len() as f64).ceil() as usize;
            micros.get(rank.clamp(1, micros.len().max(1)) - 1).map_or(0.0, |us| f64::from(*us) / 1000.0)
        };
        Percentiles { p50: at(0.50), p99: at(0.99), max: at(1.0) }
    }
}

/// Measures one level.
pub(super) async fn level(host: &Host, orders: &Orders, size: Size, bar: &ProgressBar) -> anyhow::Result<Level> {
    let counts_before = host.counts().await?;
    let (host_before, own_before) = (host.usage(), Usage::of_self());
    let seen = orders.run(host, size, bar).await?;
    let (host_after, own_after) = (host.usage(), Usage::of_self());
    let counts = host.counts().await?;
    let commands = size.commands() as f64;
    let statements = counts.sql_statements - counts_before.sql_statements;
    let reads = if statements > 0.0 { seen.reads as f64 } else { 0.0 };
    let cpu = |before: Option<Usage>, after: Option<Usage>| {
        Some((after?.cpu_seconds - before?.cpu_seconds) / commands * 10_000.0)
    };
    Ok(Level {
        concurrency: size.clients,
        commands: size.commands(),
        seconds: seen.seconds,
        commands_per_second: commands / seen.seconds,
        accepted_ms: (!seen.accepted_us.is_empty()).then(|| Percentiles::of(seen.accepted_us)),
        completed_ms: Percentiles::of(seen.completed_us),
        readable_ms: Percentiles::of(seen.readable_us),
        host_cpu_seconds_per_10k: cpu(host_before, host_after),
        generator_cpu_seconds_per_10k: cpu(own_before, own_after),
        host_peak_bytes: host_after.map(|usage| usage.resident_peak_bytes),
        segments_per_command: (counts.segments - counts_before.segments) / commands,
        file_syncs_per_command: (counts.file_syncs - counts_before.file_syncs) / commands,
        folder_syncs_per_command: (counts.folder_syncs - counts_before.folder_syncs) / commands,
        object_requests_per_command: (counts.object_requests - counts_before.object_requests) / commands,
        sql_statements_per_command: (statements - reads) / commands,
        retried_requests: seen.retried,
    })
}

impl Report {
    pub fn json(&self) -> Value {
        json!({
            "workload": "orders",
            "payload_bytes": self.payload_bytes,
            "updates_per_order": self.updates,
            "requests_per_command": if self.one_request { 1 } else { 2 },
            "floor": self.disk,
            "floor_of_remote_parts": self.remote,
            "levels": self.levels,
        })
    }

    pub fn text(&self) -> String {
        let known = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
        let requests = if self.one_request { "one request" } else { "two requests" };
        let rows: Vec<Vec<String>> = self
            .levels
            .iter()
            .map(|level| {
                vec![
                    level.concurrency.to_string(),
                    level.commands.to_string(),
                    format!("{:.0}", level.commands_per_second),
                    level.accepted_ms.map_or_else(|| "-".into(), |ms| format!("{:.1} / {:.1}", ms.p50, ms.p99)),
                    format!("{:.1} / {:.1}", level.completed_ms.p50, level.completed_ms.p99),
                    format!("{:.1} / {:.1}", level.readable_ms.p50, level.readable_ms.p99),
                    known(level.host_cpu_seconds_per_10k),
                    known(level.generator_cpu_seconds_per_10k),
                    known(level.host_peak_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))),
                    format!("{:.3}", level.segments_per_command),
                    format!("{:.3} / {:.3}", level.file_syncs_per_command, level.folder_syncs_per_command),
                    format!("{:.3}", level.object_requests_per_command),
                    format!("{:.3}", level.sql_statements_per_command),
                    level.retried_requests.to_string(),
                ]
            })
            .collect();
        let headings = [
            "CLIENTS",
            "COMMANDS",
            "PER SECOND",
            "ACCEPTED p50/p99 ms",
            "COMPLETED p50/p99 ms",
            "READABLE p50/p99 ms",
            "HOST CPU s/10k",
            "GENERATOR s/10k",
            "PEAK MiB",
            "SEGMENTS/CMD",
            "SYNCS/CMD file/folder",
            "S3/CMD",
            "SQL/CMD",
            "RETRIED",
        ];
        format!(
            "orders: created, then updated {} times each with the expected sequence; {} bytes of data; {requests} a\n\
             command; every acknowledgement durable; counted when COMPLETED and projected; generator on the same\n\
             machine\n\n{}\n\n\
             floor of this disk: {:.0} appends of 4 KiB with fdatasync a second; {:.0} new files with their folder\n{}",
            self.updates,
            self.payload_bytes,
            table(&headings, &rows),
            self.disk.appends_per_second,
            self.disk.creates_per_second,
            remote_text(&self.remote),
        )
    }
}

fn remote_text(remote: &Floors) -> String {
    let floors = [
        ("object store", remote.puts_per_second, "conditional PUTs of 4 KiB a second, one after another"),
        ("PostgreSQL", remote.commits_per_second, "commits of one row a second, one after another"),
        ("Kafka", remote.acknowledgements_per_second, "messages a second, each acknowledged before the next"),
    ];
    let line = |(part, rate, what): (&str, Option<f64>, &str)| Some(format!("floor of {part}: {:.0} {what}\n", rate?));
    floors.into_iter().filter_map(line).collect()
}
