//! Wires the parts of one process together, spawns their tasks, and drains them in order. The only place that names
//! adapters, and the only one that spawns.
//!
//! Start: the listener answers probes, and 503 to everything else; lock and store, database, log (which rebuilds the
//! index when it must), handlers, dead letters, consumers; then the whole interface. A part that is away is waited for.
//! Stop: the listener drains while everything else still works, so that requests that wait for an outcome get it; then
//! consumers finish their batch and store their checkpoints; the log closes last.

pub(crate) mod builds;
mod bus;
mod check;
mod consumers;
mod database;
mod floors;
mod housekeeping;
pub(crate) mod membership;
mod online;
mod parts;
mod rebuild;
mod start;
mod store;
mod supervisor;
mod verify;

use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Auth, Health, Services};
use crate::config::{AccessRole, Config, Mismatch, Role, Token, ensure_admin_token};
use crate::metrics::Metrics;
use crate::port::clock::Clock;
use crate::{command, failpoint, query};
use consumers::Consumers;
use database::Database;
use parts::Parts;
use supervisor::Supervisor;

pub use check::check;
pub use floors::{Floors, floors};
pub use rebuild::{RebuildReport, rebuild};
pub use verify::verify;

/// How long requests under way may take to end when the process is told to stop.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs a process with these settings until `stop` is cancelled or a part fails for good.
pub async fn serve(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    for note in &config.notes {
        tracing::info!("{note}");
    }
    failpoint::arm(config.failpoints.clone());
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}: another process may use the port", config.listen))?;
    let address = listener.local_addr()?;
    let metrics = Metrics::new();
    let waiting = start::Waiting::default();
    let (door, router) = watch::channel(api::starting(waiting.health(metrics.clone())));
    let serving = tokio::spawn(api::serve(listener, router, stop.clone(), DRAIN));
    let opened = start::open(&config, &metrics, &waiting, &stop).await;
    let Some(start::Opened { parts, consumers, supervisor }) = opened.inspect_err(|_| stop.cancel())? else {
        serving.await??;
        return Ok(());
    };
    if let Some(interval) = config.check_interval {
        supervisor.spawn("online checks", online::Watch::new(&parts).run(interval, supervisor.signal()));
    }
    let router = if config.roles.contains(&Role::Api) {
        services(&config, &parts, &consumers, &supervisor, stop.clone()).map(api::router)
    } else {
        Ok(api::probes(health(&parts, &consumers, &supervisor)))
    };
    // Without an interface the process ends as it would with one, so that what it began is written.
    let refused = router.map(|router| door.send_replace(router)).inspect_err(|_| stop.cancel()).err();
    tracing::info!(%address, data_dir = %config.data_dir.display(), store = %parts.events.store_id(), "serving");
    let served = serving.await?;
    tracing::info!("draining");
    supervisor.stop(parts.close()).await;
    served?;
    refused.map_or_else(|| supervisor.result(), Err)
}

/// Completes when the process is asked to stop (SIGTERM or SIGINT).
pub async fn asked_to_stop() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn services(
    config: &Config,
    parts: &Parts,
    consumers: &Consumers,
    supervisor: &Supervisor,
    stop: CancellationToken,
) -> anyhow::Result<Services> {
    let mode = match config.mismatch {
        Mismatch::Refuse => command::MismatchMode::Error,
        Mismatch::Warn => command::MismatchMode::Warn,
    };
    Ok(Services {
        commands: command::Service::new(
            parts.events.clone(),
            parts.catalog.clone(),
            parts.clock.clone(),
            mode,
            &parts.metrics,
        ),
        operations: command::Operations::new(parts.parking.clone(), parts.registry.clone(), parts.clock.clone()),
        queries: query::Service::new(query::Sources {
            store: parts.events.clone(),
            catalog: parts.catalog.clone(),
            states: parts.states.clone(),
            read_model: parts.read_model.clone(),
            registry: parts.registry.clone(),
            letters: parts.letters.clone(),
            progress: parts.progress.clone(),
            completions: parts.completions.clone(),
            clock: parts.clock.clone(),
        }),
        auth: auth(config, parts)?,
        deployments: parts.deployments.clone(),
        metrics: parts.metrics.clone(),
        health: health(parts, consumers, supervisor),
        limits: api::Limits::default(),
        stop,
    })
}

/// The operator's token, and those of the tokens file.
fn auth(config: &Config, parts: &Parts) -> anyhow::Result<Auth> {
    let operator = match config.admin_token {
        Some(digest) => digest,
        None => ensure_admin_token(&config.data_dir, || random_bytes(&*parts.clock))?,
    };
    let mut tokens = vec![api::Token {
        sha256: operator,
        subject: "operator".into(),
        roles: vec![api::Role::Reader, api::Role::Commander, api::Role::Operator],
        databases: None,
    }];
    tokens.extend(config.tokens.iter().flatten().map(token));
    Ok(Auth::new(tokens, config.anonymous_allowed()))
}

fn random_bytes(clock: &dyn Clock) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(clock.random_id().as_bytes());
    bytes[16..].copy_from_slice(clock.random_id().as_bytes());
    bytes
}

fn token(token: &Token) -> api::Token {
    let role = |role: &AccessRole| match role {
        AccessRole::Reader => api::Role::Reader,
        AccessRole::Commander => api::Role::Commander,
        AccessRole::Operator => api::Role::Operator,
    };
    api::Token {
        sha256: token.sha256,
        subject: token.subject.clone(),
        roles: token.roles.iter().map(role).collect(),
        databases: token.databases.clone(),
    }
}

fn health(parts: &Parts, consumers: &Consumers, supervisor: &Supervisor) -> Health {
    let (supervisor, deployments, progress) = (supervisor.clone(), parts.deployments.clone(), parts.progress.clone());
    let groups = consumers.parts();
    let (events, parking, consumers) = (parts.events.clone(), parts.parking.clone(), consumers.names());
    let database = parts.database.clone();
    let probe = move || {
        let mut found = vec![supervisor.part()];
        let ends: Vec<String> = (0..events.partitions())
            .map(|p| {
                let partition = crate::domain::Partition(p);
                format!("{}: {} events, {} indexed", p, events.end(partition), events.indexed_to(partition))
            })
            .collect();
        found.push(api::Part { name: "event_log".into(), ready: true, detail: ends.join("; ") });
        let trouble = deployments.trouble();
        let words: Vec<String> = trouble.iter().map(|(name, trouble)| format!("{name}: {}", trouble.reason)).collect();
        let detail = if words.is_empty() { "every active handler serves".to_owned() } else { words.join("; ") };
        // One that cannot be loaded refuses its own commands (503) and keeps nothing else from being served.
        found.push(api::Part { name: "handlers".into(), ready: true, detail });
        for consumer in progress.consumers() {
            let paused = consumer.state == crate::state::ConsumerState::Paused;
            let error = consumer.last_error.filter(|_| paused).map_or(String::new(), |error| format!(": {error}"));
            found.push(api::Part {
                name: format!("consumer {} on {}", consumer.name, consumer.partition),
                // A consumer that waits for its handler does not keep the process from serving.
                ready: !paused || !consumers.contains(&consumer.name),
                detail: format!("{:?} at {}{error}", consumer.state, consumer.position),
            });
        }
        found.extend(groups());
        if let Some((name, trouble)) = database.as_ref().map(Database::trouble) {
            let detail = trouble.clone().unwrap_or_else(|| format!("{name} answers"));
            found.push(api::Part { name: "database".into(), ready: trouble.is_none(), detail });
        }
        let parked = parking.count();
        found.push(api::Part { name: "dead_letters".into(), ready: true, detail: format!("{parked} parked") });
        found
    };
    Health::new(parts.metrics.clone(), probe)
}
