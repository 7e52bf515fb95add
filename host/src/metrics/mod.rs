//! What the process counts and measures. A leaf: every layer may import it, and only it names the metrics library.
//!
//! Labels are bounded: names of consumers, handlers, routes and queues, never ids of aggregates or commands (I10).

pub mod process;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

#[cfg(test)]
mod tests;

/// All metrics of one process. Cheap to clone; a service takes the handles it needs when it is built.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    processed: IntCounterVec,
    skipped: IntCounterVec,
    failed: IntCounterVec,
    lag_ms: IntGaugeVec,
    lag_events: IntGaugeVec,
    commit: Commit,
    syncs: IntCounterVec,
    sql_statements: IntCounterVec,
    objects: ObjectRequests,
    sandbox_seconds: HistogramVec,
    sandbox_fuel: HistogramVec,
    http_seconds: HistogramVec,
    queue_depth: IntGaugeVec,
    checks: IntCounterVec,
    check_divergences: IntCounterVec,
    idempotency_mismatches: IntCounter,
    snapshots: IntCounterVec,
    packs: IntCounterVec,
    cpu_seconds: Gauge,
    resident_bytes: IntGauge,
    resident_peak_bytes: IntGauge,
    /// Consumers that are shown under another name.
    shown: RwLock<HashMap<String, String>>,
}

/// Counters and lag of one consumer (`instance_worker`, `projection_worker:instance_events`, …).
#[derive(Clone, Debug)]
pub struct Consumer {
    /// Events whose effect was made.
    pub processed: Counter,
    /// Events whose effect existed already, or that were stale.
    pub skipped: Counter,
    /// Attempts that ended in a fault.
    pub failed: Counter,
    /// Age of the oldest event not yet handled, in milliseconds; 0 when none is.
    pub lag_ms: Level,
    /// Events not yet handled.
    pub lag_events: Level,
}

/// One call (`decide`, `evolve`, `project`, `needs`, …) into one handler.
#[derive(Clone, Debug)]
pub struct Call {
    seconds: Histogram,
    fuel: Histogram,
}

/// Commits of the event log.
#[derive(Clone, Debug)]
pub struct Commit {
    events: Histogram,
    bytes: Histogram,
    seconds: Histogram,
    collisions: IntCounter,
}

/// Calls of a remote object store.
#[derive(Clone, Debug)]
pub struct ObjectRequests {
    sent: IntCounterVec,
    seconds: HistogramVec,
}

/// A number that only grows.
#[derive(Clone, Debug)]
pub struct Counter(IntCounter);

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct Level(IntGauge);

/// What an adapter made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// The content of a file (fsync or fdatasync).
    File,
    /// The entries of a folder.
    Folder,
    /// A conditional write of a remote object store.
    Object,
}

/// What a statement to a database server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sql {
    Read,
    Write,
}

impl Metrics {
    /// A fresh set, all zero.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let add = Adder { registry: &registry };
        let commit = Commit {
            events: add.histogram("carryall_commit_events", "Events in one segment", &powers(1.0, 2.0, 13)),
            bytes: add.histogram("carryall_commit_bytes", "Bytes of one segment", &powers(1024.0, 4.0, 8)),
            seconds: add.histogram("carryall_commit_seconds", "From a batch to its durable segment", &seconds()),
            collisions: add.counter("carryall_commit_collisions", "Segments another writer had written first"),
        };
        let inner = Inner {
            processed: add.counters("events_processed", "Events whose effect was made", &["handler"]),
            skipped: add.counters("events_skipped", "Events whose effect existed already", &["handler"]),
            failed: add.counters("events_failed", "Attempts that ended in a fault", &["handler"]),
            lag_ms: add.gauges("projection_lag_ms", "Age of the oldest event not handled", &["handler"]),
            lag_events: add.gauges("projection_lag_events", "Events not yet handled", &["handler"]),
            commit,
            syncs: add.counters("carryall_syncs", "Durable writes of the object store", &["what"]),
            sql_statements: add.counters(
                "carryall_sql_statements",
                "Statements sent to the database server: each is one round trip",
                &["what"],
            ),
            objects: ObjectRequests {
                sent: add.counters("carryall_object_requests", "Requests sent to a remote object store", &["kind"]),
                seconds: add.histograms(
                    "carryall_object_seconds",
                    "Operations of a remote object store, by what came of them",
                    &["operation", "outcome"],
                    &seconds(),
                ),
            },
            sandbox_seconds: add.histograms(
                "carryall_sandbox_seconds",
                "One call into a handler",
                &["handler", "call"],
                &powers(2e-6, 4.0, 10),
            ),
            sandbox_fuel: add.histograms(
                "carryall_sandbox_fuel",
                "Fuel one call used",
                &["handler", "call"],
                &powers(1000.0, 10.0, 7),
            ),
            http_seconds: add.histograms(
                "carryall_http_request_seconds",
                "Requests by route",
                &["method", "route", "status"],
                &seconds(),
            ),
            queue_depth: add.gauges("carryall_queue_depth", "Entries waiting in a queue", &["queue"]),
            checks: add.counters("carryall_checks", "Things held against an invariant", &["invariant"]),
            check_divergences: add.counters(
                "carryall_check_divergences",
                "Things that an invariant does not hold of",
                &["invariant"],
            ),
            idempotency_mismatches: add
                .counter("carryall_idempotency_mismatches", "Command ids that came again with other content"),
            snapshots: add.counters(
                "carryall_snapshots",
                "Snapshots of long streams by what became of them",
                &["what"],
            ),
            packs: add.counters("carryall_packs", "Packs of segments by what became of them", &["what"]),
            cpu_seconds: add.register(gauge("process_cpu_seconds_total", "CPU time of this process")),
            resident_bytes: add.register(level("process_resident_memory_bytes", "Resident memory")),
            resident_peak_bytes: add.register(level("process_resident_memory_peak_bytes", "Greatest so far")),
            shown: RwLock::default(),
            registry,
        };
        Metrics(Arc::new(inner))
    }

    /// Handles of one consumer. Its rows exist from now on, at zero.
    pub fn consumer(&self, name: &str) -> Consumer {
        Consumer {
            processed: Counter(self.0.processed.with_label_values(&[name])),
            skipped: Counter(self.0.skipped.with_label_values(&[name])),
            failed: Counter(self.0.failed.with_label_values(&[name])),
            lag_ms: Level(self.0.lag_ms.with_label_values(&[name])),
            lag_events: Level(self.0.lag_events.with_label_values(&[name])),
        }
    }

    /// Shows a consumer under another name from now on.
    pub fn show_consumer(&self, name: &str, shown: &str) {
        let known = self.0.shown.read().get(name).is_some_and(|known| known == shown);
        if !known {
            self.0.shown.write().insert(name.to_owned(), shown.to_owned());
        }
    }

    /// Forgets a consumer that ended for good.
    pub fn forget_consumer(&self, name: &str) {
        for family in [&self.0.processed, &self.0.skipped, &self.0.failed] {
            // It has no rows when nobody took its handles.
            let _none = family.remove_label_values(&[name]);
        }
        for family in [&self.0.lag_ms, &self.0.lag_events] {
            let _none = family.remove_label_values(&[name]);
        }
        self.0.shown.write().remove(name);
    }

    /// Handles of one call of one handler.
    pub fn call(&self, handler: &str, call: &str) -> Call {
        Call {
            seconds: self.0.sandbox_seconds.with_label_values(&[handler, call]),
            fuel: self.0.sandbox_fuel.with_label_values(&[handler, call]),
        }
    }

    /// Handles of the event log's commits.
    pub fn commit(&self) -> Commit {
        self.0.commit.clone()
    }

    /// Counts durable writes of one sort.
    pub fn syncs(&self, what: Sync) -> Counter {
        let label = match what {
            Sync::File => "file",
            Sync::Folder => "folder",
            Sync::Object => "object",
        };
        Counter(self.0.syncs.with_label_values(&[label]))
    }

    /// Counts statements to the database server of one sort.
    pub fn sql(&self, what: Sql) -> Counter {
        let label = match what {
            Sql::Read => "read",
            Sql::Write => "write",
        };
        Counter(self.0.sql_statements.with_label_values(&[label]))
    }

    /// Handles of the calls of a remote object store.
    pub fn object_requests(&self) -> ObjectRequests {
        self.0.objects.clone()
    }

    /// One answered request. `route` is the route's pattern, never the path asked for.
    pub fn http(&self, method: &str, route: &str, status: u16, took: Duration) {
        let status = status.to_string();
        self.0.http_seconds.with_label_values(&[method, route, &status]).observe(took.as_secs_f64());
    }

    /// Depth of a queue.
    pub fn queue(&self, name: &str) -> Level {
        Level(self.0.queue_depth.with_label_values(&[name]))
    }

    /// Things held against an invariant, and those that diverge.
    pub fn checks(&self, invariant: &str) -> (Counter, Counter) {
        let [all, divergences] =
            [&self.0.checks, &self.0.check_divergences].map(|family| Counter(family.with_label_values(&[invariant])));
        (all, divergences)
    }

    /// Command ids that came again with other content.
    pub fn idempotency_mismatches(&self) -> Counter {
        Counter(self.0.idempotency_mismatches.clone())
    }

    /// Snapshots: `written`, `used`, `refused` (damaged, or of another history) or `dropped` (no time to write them).
    pub fn snapshots(&self, what: &'static str) -> Counter {
        Counter(self.0.snapshots.with_label_values(&[what]))
    }

    /// Packs of segments: `written`, `used`, or `refused` (damaged, or of another history).
    pub fn packs(&self, what: &'static str) -> Counter {
        Counter(self.0.packs.with_label_values(&[what]))
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self) -> String {
        if let Some(usage) = process::Usage::of_self() {
            self.0.cpu_seconds.set(usage.cpu_seconds);
            self.0.resident_bytes.set(as_i64(usage.resident_bytes));
            self.0.resident_peak_bytes.set(as_i64(usage.resident_peak_bytes));
        }
        let mut families = self.0.registry.gather();
        let shown = self.0.shown.read();
        let labels = families.iter_mut().flat_map(|family| family.mut_metric()).flat_map(|row| row.mut_label());
        for label in labels.filter(|label| !shown.is_empty() && label.name() == "handler") {
            if let Some(name) = shown.get(label.value()) {
                label.set_value(name.clone());
            }
        }
        TextEncoder::new().encode_to_string(&families).expect("labels and names are UTF-8 text")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }

    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

impl Level {
    pub fn set(&self, value: u64) {
        self.0.set(as_i64(value));
    }

    pub fn get(&self) -> u64 {
        u64::try_from(self.0.get()).unwrap_or(0)
    }
}

impl Call {
    /// One call that took this long and, when metered, this much fuel.
    pub fn observe(&self, took: Duration, fuel: Option<u64>) {
        self.seconds.observe(took.as_secs_f64());
        if let Some(fuel) = fuel {
            self.fuel.observe(fuel as f64);
        }
    }
}

impl ObjectRequests {
    /// One request that goes out, a repeated one too.
    pub fn sent(&self, kind: &str) {
        self.sent.with_label_values(&[kind]).inc();
    }

    /// One operation that came to its end.
    pub fn observe(&self, operation: &str, outcome: &str, took: Duration) {
        self.seconds.with_label_values(&[operation, outcome]).observe(took.as_secs_f64());
    }

    /// Requests of one kind so far.
    pub fn count(&self, kind: &str) -> u64 {
        self.sent.with_label_values(&[kind]).get()
    }
}

impl Commit {
    /// One segment of this process that became durable.
    pub fn observe(&self, events: usize, bytes: usize, took: Duration) {
        self.events.observe(events as f64);
        self.bytes.observe(bytes as f64);
        self.seconds.observe(took.as_secs_f64());
    }

    /// Another writer had the slot; the batch was judged again.
    pub fn collided(&self) {
        self.collisions.inc();
    }
}

struct Adder<'a> {
    registry: &'a Registry,
}

impl Adder<'_> {
    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> C {
        self.registry.register(Box::new(metric.clone())).expect("every metric is registered once");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help).expect("a valid name"))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels).expect("valid names"))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels).expect("valid names"))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(options).expect("valid names and rising buckets"))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels).expect("valid names and rising buckets"))
    }
}

fn gauge(name: &str, help: &str) -> Gauge {
    Gauge::new(name, help).expect("a valid name")
}

fn level(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a valid name")
}

fn powers(first: f64, factor: f64, count: usize) -> Vec<f64> {
    prometheus::exponential_buckets(first, factor, count).expect("a positive start and a factor above one")
}

/// From 100 µs, the time of one durable write on a good disk, to 13 s, beyond which every caller has given up.
fn seconds() -> Vec<f64> {
    powers(1e-4, 2.0, 18)
}

fn as_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
