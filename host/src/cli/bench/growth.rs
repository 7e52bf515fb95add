//! The workload `growth`: the orders bench on a store that has grown, and what the size costs besides: the start, the
//! process at rest, the files. What a command costs must not depend on how many came before it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::Bench;
use super::floor::{self, Floor};
use super::host::Host;
use super::orders::{Orders, Size};
use super::report::{self, Level};
use crate::cli::output::{Output, table};
use crate::cli::{Done, Failure};

/// Commands while the store is filled between two looks at its size.
const FILL_COMMANDS: u64 = 20_000;
/// Commands of a measured slice, unless the command line says otherwise.
const SLICE_COMMANDS: usize = 20_000;
/// An outcome is an event too.
const EVENTS_A_COMMAND: u64 = 2;
/// How long a started host may settle before it counts as idle, and how long it is watched then.
const SETTLE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(10);

/// What was measured at one size of the store.
#[derive(Debug, serde::Serialize)]
struct Point {
    /// Events stored before the measured slice.
    events: u64,
    #[serde(flatten)]
    level: Level,
    /// From starting the process on this store to its being ready; compiled code comes from the cache.
    ready_ms: f64,
    /// Share of one core that the started process uses while nothing is asked of it.
    idle_cpu_percent: Option<f64>,
    idle_resident_bytes: Option<u64>,
    /// Everything derived: the database with its journal.
    database_bytes: u64,
    /// Segments, and nothing else.
    log_bytes: u64,
    log_files: u64,
}

/// Runs the workload at each of these numbers of stored events.
pub(super) async fn run(bench: &Bench, output: &mut Output) -> Result<Done, Failure> {
    if bench.url.is_some() {
        return Err(Failure::Usage("the growth workload starts its own host: leave --url away".into()));
    }
    let clients = bench.concurrency.last().copied().unwrap_or(1);
    let mut host = Host::start(&bench.folder).await?;
    let orders = Orders::prepare(&host, bench.payload_bytes, bench.one_request).await?;
    let mut before = 0;
    let mut points = Vec::new();
    for target in &bench.events {
        output.note(format!("filling the store to {target} events"));
        let events = fill(&host, &orders, bench, clients, before, *target, output).await?;
        let size = size(bench.commands.unwrap_or(SLICE_COMMANDS), bench, clients);
        let level = report::level(&host, &orders, size, &output.bar(size.commands(), "commands")).await?;
        before += host.counts().await?.events;
        let ready = host.restart().await?;
        points.push(at_rest(&host, events, level, ready).await?);
    }
    host.stop().await?;
    output.note("measuring the disk");
    let disk = floor::measure(&bench.folder)?;
    let value = json!({
        "workload": "growth",
        "payload_bytes": bench.payload_bytes,
        "updates_per_order": bench.updates,
        "floor": disk,
        "points": points,
    });
    output.result(&value, |_| text(&points, disk))?;
    Ok(Done::Well)
}

fn size(commands: usize, bench: &Bench, clients: usize) -> Size {
    Size { clients, orders: (commands / (1 + bench.updates)).max(clients), updates: bench.updates }
}

/// Sends commands until so many events are stored; gives how many are.
async fn fill(
    host: &Host,
    orders: &Orders,
    bench: &Bench,
    clients: usize,
    before: u64,
    target: u64,
    output: &Output,
) -> anyhow::Result<u64> {
    let bar = output.bar(target, "events");
    loop {
        let events = before + host.counts().await?.events;
        bar.set_position(events);
        let missing = target.saturating_sub(events) / EVENTS_A_COMMAND;
        let clients = clients.min(usize::try_from(missing).unwrap_or(clients) / (1 + bench.updates));
        if clients == 0 {
            bar.finish_and_clear();
            return Ok(events);
        }
        let commands = usize::try_from(missing.min(FILL_COMMANDS)).context("a number of commands")?;
        orders.run(host, size(commands, bench, clients), &output.hidden_bar()).await?;
    }
}

/// Looks at a host that has just started and is asked nothing.
async fn at_rest(host: &Host, events: u64, level: Level, ready: Duration) -> anyhow::Result<Point> {
    tokio::time::sleep(SETTLE).await;
    let from = host.usage();
    tokio::time::sleep(IDLE).await;
    let to = host.usage();
    let used = from.zip(to).map(|(from, to)| (to.cpu_seconds - from.cpu_seconds) / IDLE.as_secs_f64() * 100.0);
    let data = host.data().context("the data folder of our own host")?;
    let (database_bytes, _) = files(&data, &|name| name.starts_with("carryall.db"))?;
    let (log_bytes, log_files) = files(&data.join("store").join("events"), &|_| true)?;
    Ok(Point {
        events,
        level,
        ready_ms: ready.as_secs_f64() * 1000.0,
        idle_cpu_percent: used,
        idle_resident_bytes: to.map(|usage| usage.resident_bytes),
        database_bytes,
        log_bytes,
        log_files,
    })
}

/// Bytes and number of the files under a folder whose names are wanted; those that vanish meanwhile do not count.
fn files(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> anyhow::Result<(u64, u64)> {
    let (mut bytes, mut count) = (0, 0);
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let (more, files) = self::files(&entry.path(), wanted)?;
            (bytes, count) = (bytes + more, count + files);
        } else if entry.file_name().to_str().is_some_and(wanted)
            && let Ok(metadata) = entry.metadata()
        {
            (bytes, count) = (bytes + metadata.len(), count + 1);
        }
    }
    Ok((bytes, count))
}

fn text(points: &[Point], disk: Floor) -> String {
    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    let known = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
    let rows: Vec<Vec<String>> = points
        .iter()
        .map(|point| {
            let Value::Object(level) = json!(point.level) else { return Vec::new() };
            let number = |name: &str| level.get(name).and_then(Value::as_f64);
            vec![
                point.events.to_string(),
                number("commands_per_second").map_or_else(|| "-".into(), |rate| format!("{rate:.0}")),
                known(number("host_cpu_seconds_per_10k")),
                known(number("generator_cpu_seconds_per_10k")),
                number("host_peak_bytes").map_or_else(|| "-".into(), |bytes| mib(bytes as u64)),
                format!("{:.0}", point.ready_ms),
                known(point.idle_cpu_percent),
                point.idle_resident_bytes.map_or_else(|| "-".into(), mib),
                mib(point.database_bytes),
                mib(point.log_bytes),
                point.log_files.to_string(),
            ]
        })
        .collect();
    let headings = [
        "EVENTS",
        "PER SECOND",
        "HOST CPU s/10k",
        "GENERATOR s/10k",
        "PEAK MiB",
        "READY ms",
        "IDLE CPU %",
        "IDLE MiB",
        "DATABASE MiB",
        "LOG MiB",
        "SEGMENTS",
    ];
    format!(
        "growth: the workload orders on a store of so many events; then a start on it, and ten seconds of rest\n\n\
         {}\n\nfloor of this disk: {:.0} appends of 4 KiB with fdatasync a second; {:.0} new files with their folder\n",
        table(&headings, &rows),
        disk.appends_per_second,
        disk.creates_per_second,
    )
}
