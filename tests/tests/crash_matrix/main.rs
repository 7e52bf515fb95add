//! The crash matrix: the real binary is killed (SIGKILL), paused (SIGSTOP, late SIGCONT) and denied its parts at
//! every named fail point (`host/src/failpoint.rs`), under load. Afterwards clients repeat everything they sent, with
//! the same ids, and log and read model are audited: nothing accepted is lost, nothing is applied twice, numbers
//! are dense, the read model is the fold of the log.
#![allow(clippy::unwrap_used)]

mod bulk;
mod notebook;
mod rebuild;
mod shop;
mod work;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use carryall_tests::{Kafka, Options, Server, until};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use work::{Kind, Work};

/// Hosts at once: some wait while others compute.
const HOSTS: usize = 5;
/// A point that a host at work has not met by then is never met: some are met once a second, on a busy machine.
const REACHED_WITHIN: Duration = Duration::from_secs(180);
/// Lines of a host's log that say why a case failed.
const LOG_LINES: usize = 4;
/// How long a paused host stands still: longer than the shortened lease below.
const PAUSED: Duration = Duration::from_millis(1_300);

/// Every point: the work that reaches it, and which times it acts.
const MATRIX: &[(&str, Kind, &[u64])] = &[
    ("append.before_put", Kind::Shop, &[1, 9]),
    ("append.after_put", Kind::Shop, &[1, 9]),
    ("append.before_answer", Kind::Shop, &[1, 9]),
    ("put.after_write", Kind::Shop, &[3, 11]),
    ("put.after_link", Kind::Shop, &[3, 11]),
    ("index.before_apply", Kind::Shop, &[1, 5]),
    ("index.after_apply", Kind::Shop, &[1, 5]),
    ("claim.before", Kind::Shop, &[1, 7]),
    ("claim.after", Kind::Shop, &[1, 7]),
    ("done.before", Kind::Shop, &[1, 5]),
    ("done.after", Kind::Shop, &[1, 5]),
    ("relay.before_publish", Kind::Shop, &[1, 7]),
    ("relay.after_publish", Kind::Shop, &[1, 7]),
    ("checkpoint.before_store", Kind::Shop, &[1, 2]),
    ("checkpoint.after_store", Kind::Shop, &[1, 2]),
    ("decide.after", Kind::Shop, &[1, 5]),
    ("outcome.before", Kind::Shop, &[1, 5]),
    ("outcome.after", Kind::Shop, &[1, 5]),
    ("project.before", Kind::Shop, &[1, 5]),
    ("apply.before", Kind::Shop, &[1, 5]),
    ("apply.after", Kind::Shop, &[1, 5]),
    ("progress.before_store", Kind::Shop, &[1, 2]),
    ("progress.after_store", Kind::Shop, &[1, 2]),
    ("snapshot.before_write", Kind::Shop, &[1, 9]),
    ("snapshot.after_write", Kind::Shop, &[1, 9]),
    ("issue.before", Kind::Bulk, &[1, 2]),
    ("issue.after", Kind::Bulk, &[1, 3]),
    ("outcome.before", Kind::Bulk, &[2]),
    ("fail.before", Kind::Notebook, &[1, 4]),
    ("fail.after", Kind::Notebook, &[1, 5]),
    ("park.before_record", Kind::Notebook, &[1, 2]),
    ("park.after_record", Kind::Notebook, &[1, 2]),
    ("release.after_record", Kind::Notebook, &[1]),
    ("discard.after_cancel", Kind::Notebook, &[1]),
    ("deploy.after_store", Kind::Deploy, &[1]),
    ("deploy.after_append", Kind::Deploy, &[1, 2]),
    ("deploy.after_swap", Kind::Deploy, &[1, 2]),
    ("build.after_begin", Kind::Rebuild, &[1]),
    ("build.after_stop", Kind::Rebuild, &[1]),
    ("build.before_take_over", Kind::Rebuild, &[1]),
    ("build.after_take_over", Kind::Rebuild, &[1]),
    ("build.before_drop", Kind::Rebuild, &[1]),
    ("project.before", Kind::Rebuild, &[1]),
    ("put.after_link", Kind::FirstStart, &[1]),
    ("append.after_put", Kind::FirstStart, &[1, 4]),
    ("index.after_apply", Kind::FirstStart, &[1]),
    ("deploy.after_store", Kind::FirstStart, &[2]),
    ("deploy.after_append", Kind::FirstStart, &[3]),
    ("open.before_apply", Kind::WithoutDatabase, &[1]),
];

/// As [`MATRIX`], for hosts on Kafka.
const ON_KAFKA: &[(&str, Kind, &[u64])] = &[
    ("relay.after_publish", Kind::Kafka, &[3]),
    ("checkpoint.before_store", Kind::Kafka, &[1]),
    ("checkpoint.after_store", Kind::Kafka, &[1]),
    ("ack.before", Kind::Kafka, &[1, 3]),
    ("ack.after", Kind::Kafka, &[1, 3]),
];

/// Steps that may fail without having done anything, and how often they do so in a row.
const OUTAGES: &[(&str, u64)] = &[
    ("index.before_apply", 4),
    ("claim.before", 6),
    ("done.before", 6),
    ("apply.before", 6),
    ("relay.before_publish", 4),
    ("checkpoint.before_store", 1),
];

/// Data folders of hosts at rest, to begin from.
struct Prepared {
    _folder: TempDir,
    shop: PathBuf,
    without_database: PathBuf,
}

impl Prepared {
    /// A shop, and the handler of notebooks in its broken version.
    async fn make() -> Arc<Prepared> {
        let mut server = Server::start(Options::default()).await.unwrap();
        shop::prepare(&server).await;
        notebook::prepare(&server).await;
        assert!(server.terminate().await.unwrap().success(), "{}", log_end(&server));
        let folder = tempfile::tempdir().unwrap();
        let [shop, without_database] = ["shop", "without-database"].map(|name| folder.path().join(name));
        for target in [&shop, &without_database] {
            copy(&server.data(), target);
        }
        for suffix in ["", "-wal", "-shm"] {
            let database = without_database.join(format!("carryall.db{suffix}"));
            if database.exists() {
                std::fs::remove_file(database).unwrap();
            }
        }
        Arc::new(Prepared { _folder: folder, shop, without_database })
    }

    fn data(&self, kind: Kind) -> Option<&Path> {
        match kind {
            Kind::FirstStart => None,
            Kind::WithoutDatabase => Some(&self.without_database),
            Kind::Shop | Kind::Kafka | Kind::Bulk | Kind::Notebook | Kind::Deploy | Kind::Rebuild => Some(&self.shop),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// The last lines that a host wrote.
fn log_end(server: &Server) -> String {
    let log = server.host_log();
    let lines: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Snapshots as often as they can be.
fn options() -> Options {
    Options::default().with("CARRYALL_SNAPSHOT_INTERVAL_EVENTS", "2")
}

fn armed(plan: &str) -> Options {
    // A pause outlives the lease, so that whoever wakes up must not trust what it held.
    options()
        .with("CARRYALL_FAILPOINTS", plan)
        .with("PROCESSED_EVENT_LEASE_TIMEOUT_SECONDS", "2")
        .with("PROCESSED_EVENT_HEARTBEAT_INTERVAL_SECONDS", "1")
}

/// A corner of Kafka for work that needs it.
fn kafka(kind: Kind) -> Option<Kafka> {
    (kind == Kind::Kafka).then(Kafka::create)
}

fn on(kafka: Option<&Kafka>, options: Options) -> Options {
    let variables = kafka.into_iter().flat_map(Kafka::environment);
    variables.fold(options, |options, (name, value)| options.with(name, value))
}

/// Runs the cases, a few at once, and fails with everything that went wrong.
async fn all<F: Future<Output = anyhow::Result<()>> + Send + 'static>(cases: Vec<(String, F)>) {
    let permits = Arc::new(Semaphore::new(HOSTS));
    let mut running = JoinSet::new();
    let count = cases.len();
    for (name, case) in cases {
        let permits = permits.clone();
        running.spawn(async move {
            let _permit = permits.acquire().await.unwrap();
            case.await.with_context(|| name)
        });
    }
    let mut failed = Vec::new();
    while let Some(ended) = running.join_next().await {
        failed.extend(ended.unwrap().err().map(|error| format!("{error:#}")));
    }
    failed.sort();
    assert!(failed.is_empty(), "{} of {count} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// Lets the work go on until the host has ended.
async fn until_dead(server: &mut Server, work: &Work) -> anyhow::Result<()> {
    // One that ends at its start is never ready.
    if server.wait_ready().await.is_ok() {
        let begun = Instant::now();
        let client = server.client();
        let mut run = std::pin::pin!(work.run(&client));
        let mut runs = true;
        while server.ended()?.is_none() {
            tokio::select! {
                // It fails when the host goes away, and that is what is waited for.
                _ = &mut run, if runs => runs = false,
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
            ensure!(begun.elapsed() < REACHED_WITHIN, "the point was never met:\n{}", log_end(server));
        }
    }
    let status = server.ended()?.context("not ready, and not ended either")?;
    ensure!(!status.success() && status.code().is_none(), "it ended by itself ({status}):\n{}", log_end(server));
    Ok(())
}

async fn kill(prepared: Arc<Prepared>, point: &'static str, kind: Kind, nth: u64) -> anyhow::Result<()> {
    let kafka = kafka(kind);
    let armed = on(kafka.as_ref(), armed(&format!("{point}=kill@{nth}")));
    let mut server = Server::begin(prepared.data(kind), armed)?;
    let work = Work::new(kind);
    until_dead(&mut server, &work).await?;
    server.start_again_with(on(kafka.as_ref(), options())).await?;
    work.finish(&server).await.with_context(|| log_end(&server))?;
    work.audit(&mut server, &["check", "--sample", "40"]).await
}

async fn pause(prepared: Arc<Prepared>, point: &'static str, kind: Kind, nth: u64) -> anyhow::Result<()> {
    let kafka = kafka(kind);
    let armed = on(kafka.as_ref(), armed(&format!("{point}=stop@{nth}")));
    let mut server = Server::begin(prepared.data(kind), armed)?;
    let process = server.process();
    let mut wake = JoinSet::new();
    wake.spawn(async move {
        while !process.is_stopped() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(PAUSED).await;
        process.signal("CONT")
    });
    server.wait_ready().await?;
    let work = Work::new(kind);
    let client = server.client();
    tokio::select! {
        run = work.run(&client) => run?,
        Some(woken) = wake.join_next() => woken??,
        () = tokio::time::sleep(REACHED_WITHIN) => {}
    }
    work.finish(&server).await.with_context(|| log_end(&server))?;
    // Nothing is left to join unless the work ended first: some points are met only afterwards.
    let woken = tokio::time::timeout(REACHED_WITHIN, wake.join_next()).await;
    if let Some(woken) = woken.with_context(|| format!("the point was never met:\n{}", log_end(&server)))? {
        woken??;
    }
    work.audit(&mut server, &["verify"]).await
}

async fn outage(prepared: Arc<Prepared>, point: &'static str, kind: Kind, times: u64) -> anyhow::Result<()> {
    let kafka = kafka(kind);
    let armed = on(kafka.as_ref(), armed(&format!("{point}=error@1*{times}")));
    let mut server = Server::begin(prepared.data(kind), armed)?;
    server.wait_ready().await?;
    let work = Work::new(kind);
    let client = server.client();
    tokio::select! {
        run = work.run(&client) => run?,
        () = tokio::time::sleep(Duration::from_millis(1_500)) => {}
    }
    work.finish(&server).await.with_context(|| log_end(&server))?;
    // What each step that failed says; the point's name alone is in the log from the start.
    let failed = format!("the fail point {point} is armed");
    let is_over = || async { server.host_log().matches(&failed).count() as u64 >= times };
    until("the outage is met, and ends", is_over).await.with_context(|| log_end(&server))?;
    work.audit(&mut server, &["verify"]).await
}

/// One point of the matrix on a host of its own.
type Case = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_step_loses_nothing_and_repeats_nothing() {
    let prepared = Prepared::make().await;
    let mut cases = Vec::new();
    for (point, kind, times) in MATRIX {
        for nth in *times {
            let name = format!("{point}=kill@{nth} during {kind:?}");
            cases.push((name, kill(prepared.clone(), point, *kind, *nth)));
        }
    }
    all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_or_a_pause_beside_kafka_loses_nothing_and_repeats_nothing() {
    let prepared = Prepared::make().await;
    let mut cases: Vec<(String, Case)> = Vec::new();
    for (point, kind, times) in ON_KAFKA {
        for nth in *times {
            let name = format!("{point}=kill@{nth} during {kind:?}");
            cases.push((name, Box::pin(kill(prepared.clone(), point, *kind, *nth))));
        }
        let nth = times[0];
        let paused = Box::pin(pause(prepared.clone(), point, *kind, nth));
        cases.push((format!("{point}=stop@{nth} during {kind:?}"), paused));
    }
    let unacknowledged = Box::pin(outage(prepared.clone(), "ack.before", Kind::Kafka, 6));
    cases.push(("ack.before=error@1*6 during Kafka".to_owned(), unacknowledged));
    all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_at_any_step_loses_nothing_and_repeats_nothing() {
    let prepared = Prepared::make().await;
    let mut cases = Vec::new();
    for (point, kind, times) in MATRIX {
        let nth = times[0];
        cases.push((format!("{point}=stop@{nth} during {kind:?}"), pause(prepared.clone(), point, *kind, nth)));
    }
    all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_at_any_step_holds_work_up_and_changes_nothing_else() {
    let prepared = Prepared::make().await;
    let case = |(point, times): &(&'static str, u64)| {
        (format!("{point}=error@1*{times}"), outage(prepared.clone(), point, Kind::Shop, *times))
    };
    all(OUTAGES.iter().map(case).collect()).await;
}

#[tokio::test]
async fn a_paused_host_keeps_its_folder_to_itself() {
    let prepared = Prepared::make().await;
    let mut server = Server::begin(prepared.data(Kind::Shop), armed("append.before_put=stop")).unwrap();
    server.wait_ready().await.unwrap();
    let process = server.process();
    let client = server.client();
    let sending = tokio::spawn(async move { Work::new(Kind::Shop).run(&client).await });
    let begun = Instant::now();
    while !process.is_stopped() {
        assert!(begun.elapsed() < REACHED_WITHIN, "never stopped");
        assert!(!sending.is_finished(), "everything was sent, and nothing stopped the host");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = server.second_on_the_same_folder().unwrap();
    assert!(!second.status.success(), "two processes write one folder");
    process.signal("CONT").unwrap();
    sending.abort();
}
