//! Adapter for WIT 0.1: finds the world a component fulfils, and translates between its bindings and the types of this
//! module. Judges nothing itself: every value that comes out goes through the checker.

use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use bindings::carryall::handler::types as wit;
use bindings::exports::carryall::handler as exports;

use super::check::Checker;
use super::describe::{Collection, Draft, DraftContract};
use super::failure::{Error, Failure};
use super::handler::{CallContext, World};
use super::state::State;
use super::types::{
    AggregateRef, CausedChange, Command, Comparison, FetchedDocument, Header, Level, Outcome, Problem, ReadValue,
    RecordedEvent, Stored, StoredRef, Verdict,
};
use crate::codec::json::Json;
use crate::domain::{Aggregate, Timestamp};
use crate::port::read_model::{Change, DocumentKey, Node};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit/0.1",
        inline: "
            package carryall:host;
            world every-export {
                export carryall:handler/manifest@0.1.0;
                export carryall:handler/instance@0.1.0;
                export carryall:handler/ontology@0.1.0;
                export carryall:handler/projection@0.1.0;
                export carryall:handler/upcaster@0.1.0;
            }
        ",
        world: "carryall:host/every-export",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

const MANIFEST: &str = "carryall:handler/manifest@0.1.0";
const TYPES: &str = "carryall:handler/types@0.1.0";
const WORLDS: [(&str, World); 4] = [
    ("carryall:handler/instance@0.1.0", World::Instance),
    ("carryall:handler/ontology@0.1.0", World::Ontology),
    ("carryall:handler/projection@0.1.0", World::Projection),
    ("carryall:handler/upcaster@0.1.0", World::Upcaster),
];

/// What a call into a guest gives: an error of the engine, a failure of the handler, or a checked answer.
type Called<T> = wasmtime::Result<Result<T, Failure>>;

/// Whether an import is the interface that holds nothing but types.
pub(super) fn is_types(import: &str) -> bool {
    import == TYPES
}

/// The world that these exports fulfil, by name.
pub(super) fn find_world(exports: &[String]) -> Result<Found, Error> {
    let mut found = WORLDS.iter().filter(|(name, _)| exports.iter().any(|export| export == name));
    let (Some((interface, world)), None) = (found.next(), found.next()) else {
        return Err(Error::UnknownWorld { exports: exports.to_vec() });
    };
    if !exports.iter().any(|export| export == MANIFEST) {
        let message = format!("a component of world {world} describes itself");
        return Err(Error::MissingExport { name: MANIFEST.into(), message });
    }
    Ok(Found { interface, world: *world })
}

/// A world that was found by the names of its exports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    interface: &'static str,
    world: World,
}

/// The functions of a component, found once.
pub(super) struct Exports {
    found: Found,
    manifest: exports::manifest::GuestIndices,
    functions: Functions,
}

enum Functions {
    Instance(exports::instance::GuestIndices),
    Ontology(exports::ontology::GuestIndices),
    Projection(exports::projection::GuestIndices),
    Upcaster(exports::upcaster::GuestIndices),
}

/// The functions of one instance.
pub(super) enum Guest {
    Instance(exports::instance::Guest),
    Ontology(exports::ontology::Guest),
    Projection(exports::projection::Guest),
    Upcaster(exports::upcaster::Guest),
}

impl Found {
    /// Finds every function the world demands.
    pub(super) fn bind(self, component: &InstancePre<State>) -> Result<Exports, Error> {
        let missing = |error: wasmtime::Error| self.missing(self.interface, &error);
        let manifest =
            exports::manifest::GuestIndices::new(component).map_err(|error| self.missing(MANIFEST, &error))?;
        let functions = match self.world {
            World::Instance => Functions::Instance(exports::instance::GuestIndices::new(component).map_err(missing)?),
            World::Ontology => Functions::Ontology(exports::ontology::GuestIndices::new(component).map_err(missing)?),
            World::Projection => {
                Functions::Projection(exports::projection::GuestIndices::new(component).map_err(missing)?)
            }
            World::Upcaster => Functions::Upcaster(exports::upcaster::GuestIndices::new(component).map_err(missing)?),
        };
        Ok(Exports { found: self, manifest, functions })
    }

    fn missing(&self, interface: &str, error: &wasmtime::Error) -> Error {
        Error::MissingExport { name: interface.to_owned(), message: super::failure::short(&format!("{error:#}")) }
    }
}

impl Exports {
    pub(super) fn world(&self) -> World {
        self.found.world
    }

    /// Whether every function has the signature of the contract.
    pub(super) fn check_signatures(&self, store: &mut Store<State>, instance: &Instance) -> Result<(), Error> {
        self.manifest.load(&mut *store, instance).map_err(|error| self.found.missing(MANIFEST, &error))?;
        self.load(store, instance).map(drop).map_err(|error| self.found.missing(self.found.interface, &error))
    }

    pub(super) fn describe(&self, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Draft> {
        let manifest = self.manifest.load(&mut *store, instance)?;
        manifest.call_describe(&mut *store).map(draft)
    }

    /// A fresh instance.
    pub(super) fn open(&self, component: &InstancePre<State>, store: &mut Store<State>) -> wasmtime::Result<Guest> {
        let instance = component.instantiate(&mut *store)?;
        self.load(store, &instance)
    }

    fn load(&self, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Guest> {
        Ok(match &self.functions {
            Functions::Instance(indices) => Guest::Instance(indices.load(&mut *store, instance)?),
            Functions::Ontology(indices) => Guest::Ontology(indices.load(&mut *store, instance)?),
            Functions::Projection(indices) => Guest::Projection(indices.load(&mut *store, instance)?),
            Functions::Upcaster(indices) => Guest::Upcaster(indices.load(&mut *store, instance)?),
        })
    }
}

/// The host asked a handler for something its world does not have.
fn wrong_world<T>(function: &str) -> Called<T> {
    Ok(Err(Failure::fault("wrong-world", format!("a handler of this world has no {function}"))))
}

/// Separates the handler's own fault from its answer, and checks the answer.
fn answer<T, U>(result: Result<T, wit::Fault>, check: impl FnOnce(T) -> Result<U, Failure>) -> Called<U> {
    Ok(match result {
        Ok(value) => check(value),
        Err(fault) => Err(Failure::fault(&fault.code, fault.message)),
    })
}

impl Guest {
    pub(super) fn needs(
        &self,
        store: &mut Store<State>,
        checker: Checker<'_>,
        command: &Command,
        state: Option<&str>,
        have: &[ReadValue],
    ) -> Called<Vec<Aggregate>> {
        let headers = headers(command.headers);
        let (command, have) = (to_command(command, &headers), to_reads(have));
        let wanted = match self {
            Guest::Instance(guest) => guest.call_needs(store, command, state, &have)?,
            Guest::Ontology(guest) => guest.call_needs(store, command, state, &have)?,
            Guest::Projection(_) | Guest::Upcaster(_) => return wrong_world("needs"),
        };
        answer(wanted, |wanted| {
            checker.count("aggregates to read", wanted.len(), checker.limits.reads_max)?;
            wanted.iter().map(|wanted| checker.aggregate(&wanted.kind, &wanted.id)).collect()
        })
    }

    pub(super) fn decide(
        &self,
        store: &mut Store<State>,
        checker: Checker<'_>,
        context: CallContext,
        state: Option<&str>,
        command: &Command,
        reads: &[ReadValue],
    ) -> Called<Verdict> {
        let headers = headers(command.headers);
        let (command, reads) = (to_command(command, &headers), to_reads(reads));
        let context = wit::Context { now: to_timestamp(context.now), seed: context.seed, reads: &reads };
        let verdict = match self {
            Guest::Instance(guest) => guest.call_decide(store, context, state, command)?,
            Guest::Ontology(guest) => guest.call_decide(store, context, state, command)?,
            Guest::Projection(_) | Guest::Upcaster(_) => return wrong_world("decide"),
        };
        answer(verdict, |verdict| match verdict {
            wit::Verdict::Accepted(outcome) => checker.outcome(from_outcome(checker, outcome)?),
            wit::Verdict::Unchanged => Ok(Verdict::Unchanged),
            wit::Verdict::Rejected(problems) => checker.rejected(from_problems(problems)),
        })
    }

    pub(super) fn evolve(
        &self,
        store: &mut Store<State>,
        checker: Checker<'_>,
        state: Option<&str>,
        events: &[RecordedEvent],
    ) -> Called<Option<Json>> {
        let headers = headers_of_all(events);
        let events = to_events(events, &headers);
        let state = match self {
            Guest::Instance(guest) => guest.call_evolve(store, state, &events)?,
            Guest::Ontology(guest) => guest.call_evolve(store, state, &events)?,
            Guest::Projection(_) | Guest::Upcaster(_) => return wrong_world("evolve"),
        };
        answer(state, |state| checker.state(state))
    }

    pub(super) fn compare(
        &self,
        store: &mut Store<State>,
        checker: Checker<'_>,
        older: &str,
        newer: &str,
    ) -> Called<Comparison> {
        let Guest::Ontology(guest) = self else { return wrong_world("compare") };
        answer(guest.call_compare(store, older, newer)?, |comparison| {
            let level = match comparison.level {
                exports::ontology::Level::Identical => Level::Identical,
                exports::ontology::Level::Compatible => Level::Compatible,
                exports::ontology::Level::Breaking => Level::Breaking,
            };
            Ok(Comparison { level, findings: checker.problems(from_problems(comparison.findings)) })
        })
    }

    pub(super) fn project_needs(
        &self,
        store: &mut Store<State>,
        checker: Checker<'_>,
        events: &[RecordedEvent],
    ) -> Called<Vec<DocumentKey>> {
        let Guest::Projection(guest) = self else { return wrong_world("needs of a projection") };
        let headers = headers_of_all(events);
        answer(guest.call_needs(store, &to_events(events, &headers))?, |keys| {
            checker.count("documents to read", keys.len(), checker.limits.writes_max)?;
            keys.into_iter().map(|key| checker.key(key.collection, key.id)).collect()
        })
    }

    pub(super) fn project(
        &self,
        store: &mut Store<State>,
        checker: Checker<'_>,
        events: &[RecordedEvent],
        documents: &[FetchedDocument],
    ) -> Called<Vec<CausedChange>> {
        let Guest::Projection(guest) = self else { return wrong_world("project") };
        let headers = headers_of_all(events);
        let documents: Vec<_> = documents
            .iter()
            .map(|document| exports::projection::DocumentParam {
                key: exports::projection::DocKeyParam { collection: &document.key.collection, id: &document.key.id },
                body: document.body,
            })
            .collect();
        let changes = guest.call_project(store, &to_events(events, &headers), &documents)?;
        answer(changes, |changes| {
            checker.count("writes", changes.len(), checker.limits.writes_max)?;
            let mut latest = 0;
            changes
                .into_iter()
                .map(|change| {
                    let write = from_write(checker, change.write)?;
                    checker.change(change.cause, &mut latest, events.len(), write)
                })
                .collect()
        })
    }

    pub(super) fn upcast(
        &self,
        store: &mut Store<State>,
        checker: Checker<'_>,
        event: StoredRef<'_>,
    ) -> Called<Vec<Stored>> {
        let Guest::Upcaster(guest) = self else { return wrong_world("upcast") };
        let event =
            exports::upcaster::StoredParam { name: event.name, schema_version: event.schema_version, data: event.data };
        answer(guest.call_upcast(store, event)?, |events| {
            checker.count("events of one upcast", events.len(), checker.limits.upcast_max)?;
            events.into_iter().map(|event| checker.upcast(event.name, event.schema_version, &event.data)).collect()
        })
    }
}

fn to_timestamp(at: Timestamp) -> wit::Timestamp {
    let (seconds, nanoseconds) = at.seconds_and_nanos();
    wit::Timestamp { seconds, nanoseconds }
}

fn to_aggregate(aggregate: AggregateRef<'_>) -> wit::AggregateParam<'_> {
    wit::AggregateParam { kind: aggregate.kind, id: aggregate.id }
}

fn headers<'a>(headers: &'a [Header<'a>]) -> Vec<wit::HeaderParam<'a>> {
    headers.iter().map(|header| wit::HeaderParam { name: header.name, value: header.value }).collect()
}

/// The headers of all events one after the other, for [`to_events`] to slice: one allocation for a batch, none when
/// there are no headers.
fn headers_of_all<'a>(events: &'a [RecordedEvent<'a>]) -> Vec<wit::HeaderParam<'a>> {
    events.iter().flat_map(|event| headers(event.headers)).collect()
}

fn to_command<'a>(command: &Command<'a>, headers: &'a [wit::HeaderParam<'a>]) -> wit::Command<'a> {
    wit::Command {
        id: command.id,
        name: command.name,
        target: to_aggregate(command.target),
        expected_seq: command.expected_seq,
        payload: command.payload,
        actor: command.actor,
        headers,
    }
}

fn to_events<'a>(events: &'a [RecordedEvent<'a>], headers: &'a [wit::HeaderParam<'a>]) -> Vec<wit::RecordedEvent<'a>> {
    let mut rest = headers;
    events
        .iter()
        .map(|event| {
            let (own, others) = rest.split_at(event.headers.len());
            rest = others;
            wit::RecordedEvent {
                id: event.id,
                name: event.name,
                schema_version: event.schema_version,
                source: to_aggregate(event.source),
                seq: event.seq,
                at: to_timestamp(event.at),
                data: event.data,
                headers: own,
            }
        })
        .collect()
}

fn to_reads<'a>(reads: &'a [ReadValue<'a>]) -> Vec<wit::ReadValue<'a>> {
    reads
        .iter()
        .map(|read| wit::ReadValue {
            source: to_aggregate(read.source),
            seq: read.seq,
            schema_version: read.schema_version,
            state: read.state,
        })
        .collect()
}

fn from_problems(problems: Vec<wit::Problem>) -> Vec<Problem> {
    problems
        .into_iter()
        .map(|problem| Problem { code: problem.code, message: problem.message, pointer: problem.pointer })
        .collect()
}

fn from_outcome(checker: Checker<'_>, outcome: wit::Outcome) -> Result<Outcome, Failure> {
    checker.count("events", outcome.events.len(), checker.limits.events_max)?;
    checker.count("issued commands", outcome.commands.len(), checker.limits.commands_max)?;
    let from_headers = |headers: Vec<wit::HeaderResult>| {
        checker.headers(headers.into_iter().map(|header| (header.name, header.value)))
    };
    Ok(Outcome {
        events: outcome
            .events
            .into_iter()
            .map(|event| checker.event(event.name, event.schema_version, &event.data, from_headers(event.headers)?))
            .collect::<Result<_, _>>()?,
        commands: outcome
            .commands
            .into_iter()
            .map(|command| {
                let target = checker.aggregate(&command.target.kind, &command.target.id)?;
                let headers = from_headers(command.headers)?;
                checker.command(command.name, target, command.expected_seq, &command.payload, headers)
            })
            .collect::<Result<_, _>>()?,
    })
}

fn from_node(checker: Checker<'_>, node: exports::projection::Node) -> Result<Node, Failure> {
    checker.node(node.kind, node.id)
}

fn from_write(checker: Checker<'_>, write: exports::projection::Write) -> Result<Change, Failure> {
    use exports::projection::Write;

    Ok(match write {
        Write::Put(document) => Change::Put {
            key: checker.key(document.key.collection, document.key.id)?,
            body: checker.body(document.body)?,
        },
        Write::Remove(key) => Change::Remove { key: checker.key(key.collection, key.id)? },
        Write::PutNode(node) => Change::PutNode { node: from_node(checker, node)? },
        Write::RemoveNode(node) => Change::RemoveNode { node: from_node(checker, node)? },
        Write::SetEdges(edges) => {
            checker.count("targets of one set of edges", edges.targets.len(), checker.limits.writes_max)?;
            Change::SetEdges {
                source: from_node(checker, edges.source)?,
                predicate: checker.predicate(edges.predicate)?,
                targets: edges
                    .targets
                    .into_iter()
                    .map(|target| from_node(checker, target))
                    .collect::<Result<_, _>>()?,
            }
        }
    })
}

fn draft(description: exports::manifest::Description) -> Draft {
    let contract = |contract: exports::manifest::Contract| DraftContract {
        name: contract.name,
        versions: contract.versions,
        json_schema: contract.json_schema,
    };
    let contracts = |contracts: Vec<exports::manifest::Contract>| contracts.into_iter().map(contract).collect();
    Draft {
        name: description.name,
        version: description.version,
        kinds: description.kinds,
        commands: contracts(description.commands),
        emits: contracts(description.emits),
        folds: contracts(description.folds),
        state: description.state.map(contract),
        reads: contracts(description.reads),
        ordering: description.ordering,
        collections: description
            .collections
            .into_iter()
            .map(|collection| Collection {
                name: collection.name,
                revision: collection.revision,
                mapping: collection.mapping,
            })
            .collect(),
        labels: description.labels,
    }
}
