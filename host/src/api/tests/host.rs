//! A host in memory without consumers: commands are accepted, and a test decides them itself.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::adapter::system_clock::SystemClock;
use crate::api::{self, Auth, Health, Limits, Part, Role, Services, Token};
use crate::command::{self, MismatchMode, Operations};
use crate::deploy::{self, Deployments};
use crate::domain::{Digest, Partition, Sequence};
use crate::event_store::{EventStore, Options, Record};
use crate::metrics::Metrics;
use crate::port::clock::Clock;
use crate::port::index::memory::MemoryIndex;
use crate::port::object_store::memory::MemoryStore;
use crate::port::read_model::memory::MemoryReadModel;
use crate::port::registry::memory::MemoryRegistry;
use crate::query::{self, Sources};
use crate::sandbox::Catalog;
use crate::state::{Completions, Parking, Progress, States};
use crate::tests::{components, outcome_with};

const COMPONENTS: [&str; 3] = ["ontology.wasm", "instance.wasm", "examples/account.wasm"];

/// How a test wants its host.
pub struct Wish {
    pub open: bool,
    pub mode: MismatchMode,
    pub limits: Limits,
    pub partitions: u16,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish { open: true, mode: MismatchMode::Error, limits: Limits::default(), partitions: 1 }
    }
}

pub struct Host {
    pub router: Router,
    pub store: EventStore,
    pub progress: Progress,
    pub read_model: Arc<MemoryReadModel>,
    pub registry: MemoryRegistry,
    pub stop: CancellationToken,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }
}

fn tokens() -> Vec<Token> {
    let token = |text: &str, roles: &[Role], databases: Option<Vec<String>>| Token {
        sha256: Digest::of(text.as_bytes()),
        subject: format!("{text}@example"),
        roles: roles.to_vec(),
        databases,
    };
    vec![
        token("root", &[Role::Operator], None),
        token("shop", &[Role::Reader, Role::Commander], Some(vec!["shop".into()])),
        token("read", &[Role::Reader], None),
    ]
}

impl Host {
    pub async fn start(wish: Wish) -> Host {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let objects = Arc::new(MemoryStore::new());
        let options = Options { partitions: wish.partitions, ..Options::default() };
        let (store, tasks, _) =
            EventStore::open(options, objects.clone(), Arc::new(MemoryIndex::new()), clock.clone()).await.unwrap();
        for task in tasks {
            tokio::spawn(task.future);
        }
        let catalog = Arc::new(Catalog::default());
        let parts = deploy::Parts {
            events: store.clone(),
            objects,
            sandbox: components::sandbox().clone(),
            catalog: catalog.clone(),
            clock: clock.clone(),
        };
        let deployments = Deployments::open(parts).await.unwrap();
        let named = COMPONENTS.map(|name| (name, components::component(name)));
        deployments.ensure_bundled(&named).await.unwrap();
        let registry = MemoryRegistry::default();
        let letters = Arc::new(registry.clone());
        let read_model = Arc::new(MemoryReadModel::new(registry.clone()));
        let shared = Arc::new(registry.clone());
        let parking = Parking::open(store.clone(), letters.clone(), shared.clone(), clock.clone()).await.unwrap();
        let (metrics, progress, stop) = (Metrics::new(), Progress::default(), CancellationToken::new());
        let completions = Completions::new(store.clone());
        for partition in 0..wish.partitions {
            tokio::spawn(completions.clone().follow(Partition(partition), stop.clone()));
        }
        let services = Services {
            commands: command::Service::new(store.clone(), catalog.clone(), clock.clone(), wish.mode, &metrics),
            operations: Operations::new(parking, shared.clone(), clock.clone()),
            queries: query::Service::new(Sources {
                store: store.clone(),
                catalog: catalog.clone(),
                states: States::new(store.clone(), catalog, 1 << 20),
                read_model: read_model.clone(),
                registry: shared,
                letters,
                progress: progress.clone(),
                completions,
                clock,
            }),
            deployments,
            auth: Auth::new(tokens(), wish.open),
            health: Health::new(metrics.clone(), || {
                vec![Part { name: "log".into(), ready: true, detail: "serving".into() }]
            }),
            metrics,
            limits: wish.limits,
            stop: stop.clone(),
        };
        Host { router: api::router(services), store, progress, read_model, registry, stop }
    }

    /// Sends a request; the body, when there is one, as JSON.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.raw(request.body(body).unwrap()).await
    }

    pub async fn raw(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[], Some(body)).await
    }

    /// Decides a command as a worker would.
    pub async fn decide(&self, command_id: &str, event_type: &str, data: Value) -> Record {
        self.decide_and_issue(command_id, event_type, data, None).await
    }

    /// The same of a command that issued so many others.
    pub async fn decide_and_issue(
        &self,
        command_id: &str,
        event_type: &str,
        data: Value,
        issued: Option<u32>,
    ) -> Record {
        let command_id: Uuid = command_id.parse().unwrap();
        let command = self.store.find(&[command_id]).await.unwrap().pop().flatten().unwrap();
        let append = outcome_with(&command, None, event_type, &data, &[], issued);
        self.store.append(append).await.unwrap().records.remove(0)
    }

    /// Sequence of an aggregate's last event.
    pub async fn sequence(&self, kind: &str, id: &str) -> Sequence {
        let aggregate = crate::domain::Aggregate::parse(kind, id).unwrap();
        self.store.head(&aggregate).await.unwrap().last
    }
}
