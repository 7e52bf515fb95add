//! Bodies of HTTP requests, sent to the router of a host in memory: whatever they hold, the answer is well formed and
//! never a fault of the host.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use carryall::api::{self, Auth, Health, Limits, Part, Services};
use carryall::command::{self, MismatchMode, Operations};
use carryall::deploy::{self, Deployments};
use carryall::event_store::{EventStore, Options};
use carryall::metrics::Metrics;
use carryall::port::clock::Clock;
use carryall::port::index::memory::MemoryIndex;
use carryall::port::object_store::memory::MemoryStore;
use carryall::port::read_model::memory::MemoryReadModel;
use carryall::port::registry::memory::MemoryRegistry;
use carryall::query::{self, Sources};
use carryall::sandbox::{Catalog, Sandbox};
use carryall::state::{Completions, Parking, Progress, States};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Routes that take a body; the first byte of the input chooses.
const ROUTES: [(&str, &str); 7] = [
    ("POST", "/api/v1/commands"),
    ("POST", "/api/v1/database/create"),
    ("POST", "/api/v1/database/shop/ontology"),
    ("PUT", "/api/v1/database/shop/ontology/Product?expected_seq=1"),
    ("POST", "/api/v1/instances/shop/async/Product/create"),
    ("PUT", "/api/v1/instances/shop/async/Product/p1/update?expected_seq=1"),
    ("POST", "/api/v1/instances/shop/async/Product/bulk-create"),
];

struct Host {
    runtime: Runtime,
    router: Router,
}

/// The first byte chooses the route, the rest is the body.
pub fn body(data: &[u8]) {
    let Some((route, body)) = data.split_first() else { return };
    let (method, path) = ROUTES[usize::from(*route) % ROUTES.len()];
    let host = host();
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.body(Body::from(body.to_vec())).expect("a request");
    let (status, kind, text) = host.runtime.block_on(async {
        let response = host.router.clone().oneshot(request).await.expect("a router answers");
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").cloned();
        let text = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        (status, kind, text)
    });
    assert_ne!(status, 500, "{method} {path}: {}", String::from_utf8_lossy(&text));
    let answer: serde_json::Value = serde_json::from_slice(&text).expect("every answer is JSON");
    if status >= 400 {
        assert_eq!(kind.expect("a content type"), "application/problem+json");
        assert!(
            answer["type"].is_string() && answer["code"].is_string() && answer["retryable"].is_boolean(),
            "{answer}"
        );
    } else {
        assert!(answer["command_id"].is_string(), "{answer}");
    }
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let router = runtime.block_on(router()).expect("a host in memory");
        Host { runtime, router }
    })
}

async fn router() -> Result<Router, Box<dyn std::error::Error>> {
    let clock: Arc<dyn Clock> = Arc::new(carryall::adapter::system_clock::SystemClock::new());
    let objects = Arc::new(MemoryStore::new());
    let (store, tasks, _) =
        EventStore::open(Options::default(), objects.clone(), Arc::new(MemoryIndex::new()), clock.clone()).await?;
    for task in tasks {
        tokio::spawn(task.future);
    }
    let catalog = Arc::new(Catalog::default());
    let sandbox = Sandbox::new(carryall::sandbox::Options::default())?;
    let parts =
        deploy::Parts { events: store.clone(), objects, sandbox, catalog: catalog.clone(), clock: clock.clone() };
    let deployments = Deployments::open(parts).await?;
    let bundled = ["ontology", "instance"].map(|name| (name, super::guests::component(name).into()));
    deployments.ensure_bundled(&bundled).await?;
    let registry = MemoryRegistry::default();
    let letters = Arc::new(registry.clone());
    let read_model = Arc::new(MemoryReadModel::new(registry.clone()));
    let registry = Arc::new(registry);
    let parking = Parking::open(store.clone(), letters.clone(), registry.clone(), clock.clone()).await?;
    let metrics = Metrics::new();
    let states = States::new(store.clone(), catalog.clone(), 1 << 20);
    let services = Services {
        commands: command::Service::new(store.clone(), catalog.clone(), clock.clone(), MismatchMode::Error, &metrics),
        operations: Operations::new(parking, registry.clone(), clock.clone()),
        queries: query::Service::new(Sources {
            completions: Completions::new(store.clone()),
            store,
            catalog,
            states,
            read_model,
            registry,
            letters,
            progress: Progress::default(),
            clock,
        }),
        deployments,
        auth: Auth::new(Vec::new(), true),
        health: Health::new(metrics.clone(), || {
            vec![Part { name: "log".into(), ready: true, detail: "serving".into() }]
        }),
        metrics,
        limits: Limits::default(),
        stop: CancellationToken::new(),
    };
    Ok(api::router(services))
}
