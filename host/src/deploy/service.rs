//! Performs what the rules decide: stores components, appends to the deployment history, swaps the catalog. The history
//! is the truth and the catalog follows it, so a crash anywhere heals at the next fold. Never activates by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, watch};

use super::check::{self, Ask, Candidate, Handlers, Judged};
use super::components::{self, Components};
use super::error::Error;
use super::fold::{self, Deployment, Fact, State};
use super::record::{self, Activated, Manifest, RebuildAsked, Uploaded};
use crate::codec::envelope::DomainDraft;
use crate::codec::json::Json;
use crate::domain::{Aggregate, Digest, Partition, Position, Sequence, event_topic};
use crate::event_store::{Append, AppendError, EventStore, Expected, Record};
use crate::failpoint;
use crate::port::clock::Clock;
use crate::port::object_store::ObjectStore;
use crate::sandbox::{Active, ActiveHandler, Catalog, Handler, Sandbox};

/// Handlers of one host. Each is in the memory of every process.
const HANDLERS_MAX: usize = 1_000;
/// Versions of one handler: uploads, not activations. At ten a day this lasts for years.
const VERSIONS_MAX: usize = 10_000;
/// Uploads under way at once: each holds a whole component and its compiler in memory.
const UPLOADS_MAX: usize = 2;
/// Times an append is judged anew since another deployment of the same handler came first.
const APPEND_ATTEMPTS_MAX: u32 = 16;
/// Events and names read at once.
const PAGE_MAX: usize = 500;
/// Text of a reason, in bytes: it is for people.
const REASON_BYTES_MAX: usize = 2_000;

/// What the service works with.
#[derive(Debug)]
pub struct Parts {
    pub events: EventStore,
    pub objects: Arc<dyn ObjectStore>,
    pub sandbox: Sandbox,
    pub catalog: Arc<Catalog>,
    pub clock: Arc<dyn Clock>,
}

/// The deployment history of one store, as one process sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Deployments {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) events: EventStore,
    pub(super) components: Components,
    catalog: Arc<Catalog>,
    clock: Arc<dyn Clock>,
    /// Copy-on-write: readers keep the fold they took.
    handlers: RwLock<Arc<Handlers>>,
    /// Counts what was folded.
    changes: watch::Sender<u64>,
    /// Active handlers that do not serve, with the reason.
    trouble: RwLock<BTreeMap<String, Trouble>>,
    /// Serialises the changes of this process; other processes are met at the append.
    turn: Mutex<()>,
    uploads: Semaphore,
    /// The log's end before the first fold, by partition: where following begins.
    pub(super) folded_to: Vec<Position>,
}

/// Why an active handler does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub digest: Digest,
    pub reason: String,
}

/// What an upload gives.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Whether the history got a new entry; the same bytes again make none.
    pub created: bool,
    pub name: String,
    pub version: fold::Version,
    pub state: State,
}

/// What an activation gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    pub name: String,
    pub digest: Digest,
    pub revision: u64,
    pub previous: Option<Digest>,
    /// Whether the history got a new entry; what is active already stays so without one.
    pub changed: bool,
}

impl Deployments {
    /// Folds the history and fills the catalog. A component that cannot be loaded keeps its handler from serving and
    /// nothing else; see [`Deployments::trouble`].
    pub async fn open(parts: Parts) -> Result<Deployments, Error> {
        let Parts { events, objects, sandbox, catalog, clock } = parts;
        let folded_to = events.ends();
        let components = Components { objects, sandbox, catalog: catalog.clone(), clock: clock.clone() };
        let deployments = Deployments {
            inner: Arc::new(Inner {
                events,
                components,
                catalog,
                clock,
                handlers: RwLock::default(),
                changes: watch::Sender::new(0),
                trouble: RwLock::default(),
                turn: Mutex::default(),
                uploads: Semaphore::new(UPLOADS_MAX),
                folded_to,
            }),
        };
        deployments.catch_up().await?;
        Ok(deployments)
    }

    /// A place among the uploads; taken before the body is read, so that waiting bodies are bounded too.
    pub fn admit(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.inner.uploads.try_acquire().map_err(|_| Error::Busy { max: UPLOADS_MAX })
    }

    /// Judges and stores a component, and says so in the history. Never activates. Idempotent by content. The object
    /// is written first: a crash between the two leaves bytes nobody names, which the next upload adopts.
    pub async fn upload(&self, bytes: Bytes, actor: &str) -> Result<Upload, Error> {
        let digest = components::digest(bytes.clone()).await;
        self.upload_digested(digest, bytes, actor).await
    }

    /// [`Deployments::upload`] of a component whose digest the caller has computed.
    pub(super) async fn upload_digested(&self, digest: Digest, bytes: Bytes, actor: &str) -> Result<Upload, Error> {
        self.refresh().await?;
        if let Some(known) = self.known(digest) {
            return self.upload_again(&known.name, digest, bytes).await;
        }
        let handler = self.inner.components.judge(digest, bytes.clone()).await?;
        let description = handler.description();
        let name = description.name.as_str();
        let mut data = Uploaded {
            digest,
            version: description.version.clone(),
            world: handler.world().as_str().into(),
            bytes: bytes.len() as u64,
            manifest: Manifest::from(description),
            findings: Vec::new(),
        };
        let _turn = self.inner.turn.lock().await;
        for _ in 0..APPEND_ATTEMPTS_MAX {
            let all = self.refresh().await?;
            let known = all.get(name);
            if known.is_some_and(|deployment| deployment.version(digest).is_some()) {
                return Ok(answer(&all, name, digest, Created::No));
            }
            bounded("versions of a handler", known.map_or(0, |d| d.versions.len()), VERSIONS_MAX)?;
            bounded("handlers", if known.is_some() { 0 } else { all.len() }, HANDLERS_MAX)?;
            let refusals = check::upload_refusals(name, &data.world, &data.manifest, &all);
            if !refusals.is_empty() {
                return Err(Error::Contract { findings: refusals });
            }
            let candidate = Candidate { world: &data.world, version: &data.version, manifest: &data.manifest };
            data.findings = check::candidate_refusals(name, candidate, &all);
            data.findings.extend(check::upload_warnings(name, candidate, &all));
            self.inner.components.store(digest, bytes.clone()).await?;
            let last = known.map_or(Sequence(0), |deployment| deployment.last);
            if self.append(name, last, record::UPLOADED, &data, actor).await? {
                tracing::info!(handler = name, %digest, version = data.version, actor, "handler uploaded");
                return Ok(answer(&self.handlers(), name, digest, Created::Yes));
            }
        }
        Err(Error::Contended { name: name.into() })
    }

    /// The same bytes again: no entry, but the stored component is made sound if it was damaged.
    async fn upload_again(&self, name: &str, digest: Digest, bytes: Bytes) -> Result<Upload, Error> {
        let _turn = self.inner.turn.lock().await;
        self.inner.components.store(digest, bytes).await?;
        self.publish().await;
        Ok(answer(&self.handlers(), name, digest, Created::No))
    }

    /// Puts a version in charge. Of several that saw the same revision, one wins and the others get
    /// [`Error::Revision`]; for who sends none it is the one seen when the call arrived.
    pub async fn activate(&self, name: &str, digest: Digest, ask: Ask, actor: &str) -> Result<Activation, Error> {
        let seen = self.refresh().await?.get(name).map_or(0, |deployment| deployment.revision);
        self.activate_seen(name, digest, seen, ask, actor).await
    }

    /// Puts the version in charge that was so before the present one; it needs no report, since it has served before.
    pub async fn rollback(&self, name: &str, ask: Ask, actor: &str) -> Result<Activation, Error> {
        let all = self.refresh().await?;
        let deployment = all.get(name).ok_or_else(|| Error::UnknownHandler { name: name.into() })?;
        let expected = ask.if_revision.unwrap_or(deployment.revision);
        if expected != deployment.revision {
            return Err(Error::Revision { name: name.into(), expected, actual: deployment.revision });
        }
        let digest = deployment.before_active().ok_or_else(|| Error::NothingBefore { name: name.into() })?;
        let reason = ask.reason.unwrap_or_else(|| "rollback".into());
        let ask = Ask { if_revision: Some(expected), force: true, reason: Some(reason) };
        self.activate_seen(name, digest, expected, ask, actor).await
    }

    /// Has everything that a projection writes written anew, beside what readers see (decision 0011). Gives the build.
    pub async fn rebuild(&self, name: &str, reason: Option<String>, actor: &str) -> Result<fold::Build, Error> {
        check_reason(reason.as_ref())?;
        let _turn = self.inner.turn.lock().await;
        for _ in 0..APPEND_ATTEMPTS_MAX {
            let all = self.refresh().await?;
            let deployment = all.get(name).ok_or_else(|| Error::UnknownHandler { name: name.into() })?;
            let nothing = || Error::NothingToRebuild { name: name.into() };
            deployment.wanted_build().ok_or_else(nothing)?;
            let data = RebuildAsked { reason: reason.clone() };
            if self.append(name, deployment.last, record::REBUILD_ASKED, &data, actor).await? {
                let all = self.handlers();
                let build = all.get(name).and_then(Deployment::wanted_build).ok_or_else(nothing)?;
                tracing::info!(handler = name, build = build.name, actor, "a rebuild was asked for");
                return Ok(build.clone());
            }
        }
        Err(Error::Contended { name: name.into() })
    }

    async fn activate_seen(
        &self,
        name: &str,
        digest: Digest,
        seen: u64,
        ask: Ask,
        actor: &str,
    ) -> Result<Activation, Error> {
        check_reason(ask.reason.as_ref())?;
        let _turn = self.inner.turn.lock().await;
        for _ in 0..APPEND_ATTEMPTS_MAX {
            let all = self.refresh().await?;
            let judged = check::judge(name, digest, &ask, &all);
            let (revision, forced, previous) = match judged.map_err(|why| Error::refused(name, digest, why))? {
                Judged::Go { revision, forced, previous } => (revision, forced, previous),
                Judged::Already => {
                    self.publish().await;
                    return Ok(activation(&all, name, digest, Changed::No));
                }
            };
            if ask.if_revision.is_none() && revision != seen + 1 {
                return Err(Error::Revision { name: name.into(), expected: seen, actual: revision - 1 });
            }
            // Loaded before it is promised: what does not load is never activated.
            self.inner.components.handler(digest).await?;
            let last = all.get(name).map_or(Sequence(0), |deployment| deployment.last);
            let data = Activated { digest, revision, forced, reason: ask.reason.clone(), previous };
            if self.append(name, last, record::ACTIVATED, &data, actor).await? {
                tracing::info!(handler = name, %digest, revision, forced, actor, "handler activated");
                self.publish().await;
                return Ok(activation(&self.handlers(), name, digest, Changed::Yes));
            }
        }
        Err(Error::Contended { name: name.into() })
    }

    /// Every handler, as the log's committed end has it.
    pub async fn list(&self) -> Result<Arc<Handlers>, Error> {
        self.refresh().await
    }

    /// One handler with its versions and history.
    pub async fn get(&self, name: &str) -> Result<Deployment, Error> {
        let all = self.refresh().await?;
        all.get(name).cloned().ok_or_else(|| Error::UnknownHandler { name: name.into() })
    }

    /// The handler with this digest, active or not, as history was made with it.
    pub async fn component(&self, digest: Digest) -> Result<Arc<Handler>, Error> {
        self.inner.components.handler(digest).await
    }

    /// Active handlers that do not serve in this process, by name, with the reason.
    pub fn trouble(&self) -> BTreeMap<String, Trouble> {
        self.inner.trouble.read().clone()
    }

    /// Follows the fold: the number is new whenever something was folded.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The catalog this service writes.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.inner.catalog
    }

    /// The stored version with this digest, as an upload of it would answer; as far as this process has folded.
    pub(super) fn known(&self, digest: Digest) -> Option<Upload> {
        let all = self.handlers();
        let name = all.values().find(|deployment| deployment.version(digest).is_some())?.name.clone();
        Some(answer(&all, &name, digest, Created::No))
    }

    /// The fold as this process has it.
    pub fn handlers(&self) -> Arc<Handlers> {
        self.inner.handlers.read().clone()
    }

    /// Folds what is new in the log and lets the catalog follow.
    pub(super) async fn catch_up(&self) -> Result<(), Error> {
        let _turn = self.inner.turn.lock().await;
        self.refresh().await?;
        self.publish().await;
        Ok(())
    }

    /// Lets the catalog follow everything that any process had recorded before this was called; gives whether it could.
    /// Waits while the object store is away: the caller bounds it.
    pub async fn learn(&self) -> bool {
        let learned = async {
            for partition in (0..self.inner.events.partitions()).map(Partition) {
                self.inner.events.caught_up(partition).await?;
            }
            self.catch_up().await
        };
        let learned = learned.await;
        if let Err(error) = &learned {
            tracing::warn!(%error, "what other processes deployed is not known");
        }
        learned.is_ok()
    }

    /// Folds what is new in the log. Folding is idempotent by sequence, so several may do it at once.
    async fn refresh(&self) -> Result<Arc<Handlers>, Error> {
        let mut after: Option<String> = None;
        loop {
            let page = self.inner.events.aggregates(record::AGGREGATE_TYPE, after.as_deref(), PAGE_MAX).await?;
            for aggregate in &page {
                self.refresh_one(aggregate).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_MAX => after = Some(last.id.as_str().into()),
                _ => return Ok(self.handlers()),
            }
        }
    }

    async fn refresh_one(&self, aggregate: &Aggregate) -> Result<(), Error> {
        loop {
            let after = self.handlers().get(aggregate.id.as_str()).map_or(Sequence(0), |deployment| deployment.last);
            let records = self.inner.events.stream(aggregate, after, PAGE_MAX).await?;
            self.fold(&records)?;
            if records.len() < PAGE_MAX {
                return Ok(());
            }
        }
    }

    fn fold(&self, records: &[Record]) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        let mut handlers = self.inner.handlers.write();
        let handlers = Arc::make_mut(&mut handlers);
        for record in records {
            let envelope = record.envelope()?;
            let name = record.aggregate.id.as_str();
            let deployment = handlers.entry(name.into()).or_insert_with(|| Deployment::new(name));
            let fact = Fact {
                sequence: record.sequence,
                at: envelope.occurred_at,
                actor: &envelope.actor,
                event_type: &envelope.event_type,
                data: envelope.data.get(),
            };
            fold::step(deployment, fact);
        }
        self.inner.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Appends one event to a handler's stream and folds it; `false` when the stream has moved on.
    async fn append<T: serde::Serialize>(
        &self,
        name: &str,
        last: Sequence,
        event_type: &str,
        data: &T,
        actor: &str,
    ) -> Result<bool, Error> {
        let aggregate = Aggregate::parse(record::AGGREGATE_TYPE, name).expect("a handler's name is an aggregate id");
        let operation = self.inner.clock.random_id();
        let draft = DomainDraft {
            command_id: operation,
            index: 0,
            event_type,
            aggregate: &aggregate,
            occurred_at: self.inner.clock.now(),
            actor,
            data: &Json::from_value(data).map_err(crate::codec::Error::from)?,
            correlation_id: &operation.to_string(),
            causation_id: None,
            handler: None,
            read_set: &[],
            traceparent: None,
            schema_version: record::SCHEMA_VERSION,
            issued: None,
            extra: None,
            topic: event_topic(&aggregate.kind).into(),
            service: "carryall",
        }
        .build()?;
        let append = Append {
            aggregate,
            expected: Expected::Exactly(last),
            drafts: vec![draft],
            outcome_of: None,
            ids_are_new: true,
        };
        match self.inner.events.append(append).await {
            Ok(appended) => {
                failpoint::pass("deploy.after_append");
                self.fold(&appended.records)?;
                Ok(true)
            }
            Err(AppendError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the catalog serve what the history says is active. The one writer of the catalog; called with the turn.
    /// What cannot be loaded leaves the catalog: a handler that the history retired must not go on deciding.
    async fn publish(&self) {
        let handlers = self.handlers();
        let (wanted, shadowed) = check::active_set(&handlers);
        let mut trouble: BTreeMap<String, Trouble> = BTreeMap::new();
        for (name, reason) in shadowed {
            let Some(digest) = handlers.get(&name).and_then(|deployment| deployment.active) else { continue };
            trouble.insert(name, Trouble { digest, reason });
        }
        let mut next = BTreeMap::new();
        let (mut lacking, mut lacking_upcasters) = (Vec::new(), Vec::new());
        for (deployment, version) in wanted {
            match self.serve(deployment, version).await {
                Ok(handler) => drop(next.insert(deployment.name.as_str(), handler)),
                Err(reason) => {
                    let kinds = version.manifest.kinds.iter().cloned();
                    match &*version.world {
                        world if check::decides(world) => lacking.extend(kinds),
                        world if check::upcasts(world) => lacking_upcasters.extend(kinds),
                        _ => {}
                    }
                    trouble.insert(deployment.name.clone(), Trouble { digest: version.digest, reason });
                }
            }
        }
        self.report(trouble);
        let identity = |active: &ActiveHandler| (active.name.clone(), active.revision, active.handler.digest());
        let before = self.inner.catalog.active();
        let same = before.iter().map(|active| identity(active)).eq(next.values().map(identity));
        let known = lacking.iter().all(|kind| before.lacks(kind))
            && lacking_upcasters.iter().all(|kind| before.lacks_upcaster(kind));
        if !same || !known {
            let next = Active::new(next.into_values()).expect("the names are keys, and no type has two deciders");
            self.inner.catalog.replace(next.lacking(lacking).lacking_upcasters(lacking_upcasters));
            failpoint::pass("deploy.after_swap");
        }
    }

    /// The handler of an active version, or why it cannot serve.
    async fn serve(&self, deployment: &Deployment, version: &fold::Version) -> Result<ActiveHandler, String> {
        let handler = self.inner.components.handler(version.digest).await.map_err(|error| error.to_string())?;
        let description = handler.description();
        if description.name != deployment.name || Manifest::from(description) != version.manifest {
            return Err("the component says something else of itself than the deployment history".into());
        }
        let name = deployment.name.as_str().into();
        Ok(ActiveHandler { name, revision: deployment.revision, handler })
    }

    /// Keeps the reasons, and logs each when it begins and when it ends.
    fn report(&self, trouble: BTreeMap<String, Trouble>) {
        let mut known = self.inner.trouble.write();
        for (name, Trouble { digest, reason }) in &trouble {
            if known.get(name).is_none_or(|before| before.reason != *reason) {
                tracing::error!(handler = name, %digest, reason, "an active handler does not serve");
            }
        }
        for name in known.keys().filter(|name| !trouble.contains_key(*name)) {
            tracing::info!(handler = name, "the handler serves again");
        }
        *known = trouble;
    }
}

/// Whether an upload made a new entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Created {
    Yes,
    No,
}

/// Whether an activation made a new entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changed {
    Yes,
    No,
}

fn answer(all: &Handlers, name: &str, digest: Digest, created: Created) -> Upload {
    let deployment = all.get(name).expect("an uploaded handler is known");
    let version = deployment.version(digest).expect("an uploaded version is known").clone();
    let state = deployment.state(digest).expect("a known version has a state");
    Upload { created: created == Created::Yes, name: name.into(), version, state }
}

fn activation(all: &Handlers, name: &str, digest: Digest, changed: Changed) -> Activation {
    let deployment = all.get(name).expect("an active handler is known");
    Activation {
        name: name.into(),
        digest,
        revision: deployment.revision,
        previous: deployment.before_active(),
        changed: changed == Changed::Yes,
    }
}

fn check_reason(reason: Option<&String>) -> Result<(), Error> {
    match reason.map(String::len) {
        Some(bytes) if bytes > REASON_BYTES_MAX => Err(Error::Reason { bytes, max: REASON_BYTES_MAX }),
        _ => Ok(()),
    }
}

fn bounded(what: &'static str, count: usize, max: usize) -> Result<(), Error> {
    if count >= max { Err(Error::TooMany { what, max }) } else { Ok(()) }
}
