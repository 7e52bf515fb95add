//! The rules of deployment, judged on manifests alone: what may be uploaded, and what may become active beside what is
//! active now. Pure: no component runs here and nothing is read.
//!
//! The rule behind all of them: readers first. Whoever understands a new shape is activated before whoever writes it,
//! so at no moment is something stored that an active handler does not understand (I9).

use std::collections::BTreeMap;

use super::fold::{Deployment, State, Version};
use super::record::{Contract, Finding, Manifest};
use crate::domain::{AggregateType, Digest, event_topic, event_type};

/// Handlers by name.
pub type Handlers = BTreeMap<String, Deployment>;

/// Entries of one list of a manifest. A handler far above that is a generated mistake.
const MANIFEST_ENTRIES_MAX: usize = 1024;
/// Aggregate types that belong to the host: their streams are deployment history and operations.
const RESERVED_KINDS: [&str; 2] = ["Handler", "Operations"];
/// Aggregate types whose topics are shared by the contract and are not derived from their names.
const SHARED_TOPIC_KINDS: [&str; 3] = ["Instance", "InstanceBatch", "OntologyClass"];

/// Worlds that decide commands.
pub fn decides(world: &str) -> bool {
    matches!(world, "instance-handler" | "ontology-handler")
}

/// Whether a world projects.
pub fn projects(world: &str) -> bool {
    world == "projection-handler"
}

/// Whether the text can name a handler: it becomes part of consumer names, of keys and of routes.
pub fn is_handler_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

/// Contract checks of an upload. An empty list means that the component may be stored.
pub fn upload_refusals(name: &str, version: &str, world: &str, manifest: &Manifest, all: &Handlers) -> Vec<Finding> {
    let mut found = Vec::new();
    if !is_handler_name(name) {
        found.push(invalid(
            "name",
            "/name",
            format!("the handler name {name:?} must be a lower-case letter and at most 62 of a-z, 0-9, - and _ after it"),
        ));
    }
    if version.is_empty() || version.len() > 64 || !version.bytes().all(|b| b.is_ascii_graphic()) {
        found.push(invalid("version", "/version", format!("the version {version:?} must be 1 to 64 visible characters")));
    }
    if let Some(other) = all.get(name).and_then(|deployment| deployment.versions.first())
        && other.world != world
    {
        found.push(Finding::new(
            "name_taken",
            format!("{name} is the name of an {}, this is an {world}: give it another name", other.world),
        ));
    }
    kinds(world, manifest, &mut found);
    contracts(world, manifest, &mut found);
    collections(world, manifest, &mut found);
    found
}

fn kinds(world: &str, manifest: &Manifest, found: &mut Vec<Finding>) {
    if manifest.kinds.is_empty() && decides(world) {
        found.push(invalid("kinds", "/kinds", "it decides for no aggregate type: name at least one in `kinds`".into()));
    }
    if manifest.kinds.len() > MANIFEST_ENTRIES_MAX {
        found.push(too_many("kinds"));
        return;
    }
    for (index, kind) in manifest.kinds.iter().enumerate() {
        let pointer = format!("/kinds/{index}");
        let parsed = match AggregateType::parse(kind) {
            Ok(parsed) => parsed,
            Err(error) => {
                found.push(invalid("kind", &pointer, error.to_string()));
                continue;
            }
        };
        if manifest.kinds[..index].contains(kind) {
            found.push(invalid("kind_twice", &pointer, format!("{kind} is named twice")));
        }
        if RESERVED_KINDS.contains(&kind.as_str()) && decides(world) {
            let message = format!("the aggregate type {kind} belongs to the host");
            found.push(invalid("kind_reserved", &pointer, message));
        }
        if let Some(owner) = topic_owner(&parsed) {
            let message = format!(
                "the events of {kind} would go to the topic {}, which belongs to {owner}: rename the aggregate type",
                event_topic(&parsed)
            );
            found.push(invalid("topic_taken", &pointer, message));
        }
    }
}

/// The other type that a type's topics belong to. Names map to topics one to one, except for the types that the
/// contract gives shared topics, so these are the only ones that can clash.
fn topic_owner(kind: &AggregateType) -> Option<&'static str> {
    if SHARED_TOPIC_KINDS.contains(&kind.as_str()) {
        return None;
    }
    let topic = event_topic(kind);
    SHARED_TOPIC_KINDS
        .into_iter()
        .find(|other| AggregateType::parse(other).is_ok_and(|other| event_topic(&other) == topic))
}

fn contracts(world: &str, manifest: &Manifest, found: &mut Vec<Finding>) {
    let lists = [
        ("commands", &manifest.commands),
        ("emits", &manifest.emits),
        ("folds", &manifest.folds),
        ("reads", &manifest.reads),
    ];
    for (list, contracts) in lists {
        if contracts.len() > MANIFEST_ENTRIES_MAX {
            found.push(too_many(list));
            return;
        }
        for (index, contract) in contracts.iter().enumerate() {
            let pointer = format!("/{list}/{index}");
            contract_of(list, &pointer, contract, found);
            if contracts[..index].iter().any(|other| other.name == contract.name) {
                found.push(invalid("contract_twice", &pointer, format!("{} is named twice in {list}", contract.name)));
            }
        }
    }
    if let Some(state) = &manifest.state {
        versions("/state", state, found);
    }
    if !decides(world) {
        return;
    }
    for (index, contract) in manifest.commands.iter().enumerate() {
        if contract.name.starts_with("COMMAND_") {
            let message = format!("{} is refused: names that begin with COMMAND_ belong to the host", contract.name);
            found.push(invalid("name_reserved", &format!("/commands/{index}"), message));
        }
    }
    for (index, contract) in manifest.emits.iter().enumerate() {
        let pointer = format!("/emits/{index}");
        if event_type::is_host_outcome(&contract.name) {
            let message = format!("{} is refused: names that begin with COMMAND_ belong to the host", contract.name);
            found.push(invalid("name_reserved", &pointer, message));
        }
        for version in not_folded(contract, &manifest.folds) {
            let message = format!("it emits {} {version} and does not fold it: add it to `folds`", contract.name);
            found.push(invalid("emits_not_folded", &pointer, message));
        }
    }
}

fn contract_of(list: &str, pointer: &str, contract: &Contract, found: &mut Vec<Finding>) {
    let named = match list {
        "reads" => AggregateType::parse(&contract.name).is_ok(),
        _ => is_shouting(&contract.name),
    };
    if !named {
        let rule = match list {
            "reads" => "an aggregate type",
            _ => "an upper-case letter and at most 99 of A-Z, 0-9 and _ after it",
        };
        found.push(invalid("contract_name", pointer, format!("the name {:?} must be {rule}", contract.name)));
    }
    // A command's payload carries no version of its own, so its list may be empty.
    if list != "commands" || !contract.versions.is_empty() {
        versions(pointer, contract, found);
    }
}

fn versions(pointer: &str, contract: &Contract, found: &mut Vec<Finding>) {
    if contract.versions.is_empty() || contract.versions.len() > MANIFEST_ENTRIES_MAX {
        let message = format!("{} needs 1 to {MANIFEST_ENTRIES_MAX} versions", contract.name);
        found.push(invalid("contract_versions", pointer, message));
    }
    for version in contract.versions.iter().take(MANIFEST_ENTRIES_MAX) {
        if schema_version(version).is_none() {
            let message = format!("the version {version:?} of {} must be MAJOR.MINOR.PATCH", contract.name);
            found.push(invalid("contract_versions", pointer, message));
        }
    }
}

fn collections(world: &str, manifest: &Manifest, found: &mut Vec<Finding>) {
    if !projects(world) {
        return;
    }
    if !matches!(manifest.ordering.as_str(), "aggregate" | "partition") {
        let message = format!("the ordering {:?} must be `aggregate` or `partition`", manifest.ordering);
        found.push(invalid("ordering", "/ordering", message));
    }
    if manifest.collections.len() > MANIFEST_ENTRIES_MAX {
        found.push(too_many("collections"));
        return;
    }
    for (index, collection) in manifest.collections.iter().enumerate() {
        let pointer = format!("/collections/{index}");
        if !is_handler_name(&collection.name) {
            let message = format!("the collection name {:?} must be lower case", collection.name);
            found.push(invalid("collection_name", &pointer, message));
        }
        if manifest.collections[..index].iter().any(|other| other.name == collection.name) {
            found.push(invalid("collection_twice", &pointer, format!("{} is named twice", collection.name)));
        }
    }
}

/// What speaks against this version being active beside everything else that is active. Reported as findings of an
/// upload, refusals of an activation.
pub fn activation_refusals(name: &str, digest: Digest, all: &Handlers) -> Vec<Finding> {
    let Some(own) = all.get(name) else { return Vec::new() };
    let Some(candidate) = own.version(digest) else { return Vec::new() };
    let mut found = candidate_refusals(name, candidate.into(), all);
    found.dedup();
    found
}

/// A version that is judged, stored already or not.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub world: &'a str,
    pub version: &'a str,
    pub manifest: &'a Manifest,
}

impl<'a> From<&'a Version> for Candidate<'a> {
    fn from(version: &'a Version) -> Self {
        Candidate { world: &version.world, version: &version.version, manifest: &version.manifest }
    }
}

/// As [`activation_refusals`], for a version that is not stored yet.
pub fn candidate_refusals(name: &str, candidate: Candidate<'_>, all: &Handlers) -> Vec<Finding> {
    let mut found = Vec::new();
    for (other_name, other) in all {
        if other_name != name
            && let Some(active) = other.active_version()
        {
            ownership(candidate, other_name, active, &mut found);
            states(name, candidate, other_name, active, &mut found);
        }
    }
    events(name, candidate, all, &mut found);
    found
}

/// Each aggregate type has one decider, each collection one writer.
fn ownership(candidate: Candidate<'_>, other_name: &str, active: &Version, found: &mut Vec<Finding>) {
    if decides(candidate.world) && decides(&active.world) {
        for kind in candidate.manifest.kinds.iter().filter(|kind| active.manifest.kinds.contains(kind)) {
            found.push(Finding::new(
                "kind_taken",
                format!("the active handler {other_name} decides for {kind}: two handlers cannot"),
            ));
        }
    }
    if projects(candidate.world) && projects(&active.world) {
        let taken = |name: &str| active.manifest.collections.iter().any(|other| other.name == name);
        for collection in candidate.manifest.collections.iter().filter(|collection| taken(&collection.name)) {
            let message = format!("the active projection {other_name} writes the collection {}", collection.name);
            found.push(Finding::new("collection_taken", message));
        }
    }
}

/// A state is read only by handlers that understand its version: both ways, whichever of the two is the candidate.
fn states(name: &str, candidate: Candidate<'_>, other_name: &str, active: &Version, found: &mut Vec<Finding>) {
    for (producer, reader) in [(candidate, Candidate::from(active)), (Candidate::from(active), candidate)] {
        let Some(state) = producer.manifest.state.as_ref().filter(|_| decides(producer.world)) else { continue };
        for read in reader.manifest.reads.iter().filter(|read| producer.manifest.kinds.contains(&read.name)) {
            for version in state.versions.iter().filter(|version| !has(&read.versions, version)) {
                let candidate_reads = std::ptr::eq(reader.manifest, candidate.manifest);
                let understood = read.versions.join(", ");
                found.push(if candidate_reads {
                    Finding::new(
                        "state_not_read",
                        format!(
                            "{name} {} reads the state of {} in version {understood}, and the active handler \
                             {other_name} keeps it in version {version}: let {name} read both",
                            candidate.version, read.name
                        ),
                    )
                } else {
                    Finding::new(
                        "state_not_read",
                        format!(
                            "{name} {} keeps the state of {} in version {version}, and the active handler \
                             {other_name} reads only version {understood}: first activate a {other_name} that reads both",
                            candidate.version, read.name
                        ),
                    )
                });
            }
        }
    }
}

/// Every event version that may be in the log is folded by whoever folds events of that name.
fn events(name: &str, candidate: Candidate<'_>, all: &Handlers, found: &mut Vec<Finding>) {
    let shares_kind = |other: &Manifest| other.kinds.iter().any(|kind| candidate.manifest.kinds.contains(kind));
    for (other_name, other) in all {
        for emitted in other.versions.iter().filter(|version| version.deployed && decides(&version.world)) {
            if !shares_kind(&emitted.manifest) {
                continue;
            }
            for contract in &emitted.manifest.emits {
                let folds = candidate.manifest.folds.iter().find(|fold| fold.name == contract.name);
                // A decider meets every event of its aggregates; a projection chooses those it folds by name.
                if folds.is_none() && !decides(candidate.world) {
                    continue;
                }
                for version in not_folded(contract, &candidate.manifest.folds) {
                    found.push(Finding::new(
                        "event_not_folded",
                        format!(
                            "{} {version} was emitted by {other_name} {} ({}) and {name} {} does not fold it",
                            contract.name, emitted.version, emitted.digest, candidate.version
                        ),
                    ));
                }
            }
        }
        // A new writer must be understood by the projections that are active now.
        let Some(active) = other.active_version().filter(|active| projects(&active.world)) else { continue };
        if other_name == name || !decides(candidate.world) || !shares_kind(&active.manifest) {
            continue;
        }
        for contract in &candidate.manifest.emits {
            if !active.manifest.folds.iter().any(|fold| fold.name == contract.name) {
                continue;
            }
            for version in not_folded(contract, &active.manifest.folds) {
                found.push(Finding::new(
                    "event_not_folded",
                    format!(
                        "{name} {} emits {} {version}, which the active projection {other_name} does not fold: first \
                         activate a {other_name} that does",
                        candidate.version, contract.name
                    ),
                ));
            }
        }
    }
}

/// Versions of `contract` that `folds` does not have. Host outcomes are never folded.
fn not_folded<'a>(contract: &'a Contract, folds: &[Contract]) -> Vec<&'a str> {
    if event_type::is_host_outcome(&contract.name) {
        return Vec::new();
    }
    let folded = folds.iter().find(|fold| fold.name == contract.name);
    let missing = |version: &&String| !folded.is_some_and(|fold| has(&fold.versions, version));
    contract.versions.iter().filter(missing).map(String::as_str).collect()
}

fn has(versions: &[String], wanted: &str) -> bool {
    let wanted = schema_version(wanted);
    wanted.is_some() && versions.iter().any(|version| schema_version(version) == wanted)
}

/// `MAJOR.MINOR.PATCH`; a bare `MAJOR` reads as `MAJOR.0.0` (contract §1).
fn schema_version(text: &str) -> Option<(u32, u32, u32)> {
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten();
    match text.split('.').collect::<Vec<_>>().as_slice() {
        [major] => Some((number(major)?, 0, 0)),
        [major, minor, patch] => Some((number(major)?, number(minor)?, number(patch)?)),
        _ => None,
    }
}

fn is_shouting(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_uppercase)
        && bytes.len() <= 100
        && bytes.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
}

fn invalid(code: &str, pointer: &str, message: String) -> Finding {
    Finding::new(code, message).at(pointer.into())
}

fn too_many(list: &str) -> Finding {
    invalid("too_many", &format!("/{list}"), format!("{list} may have at most {MANIFEST_ENTRIES_MAX} entries"))
}

/// What an operator asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// The revision the operator looked at.
    pub if_revision: Option<u64>,
    /// Go ahead without a green verification report.
    pub force: bool,
    /// Why, for the history.
    pub reason: Option<String>,
}

/// What a judged activation comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It may be appended.
    Go { revision: u64, forced: bool, previous: Option<Digest> },
    /// It is active already: nothing to append.
    Already,
}

/// Why an activation is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No handler has this name.
    UnknownHandler,
    /// The handler has no version with this digest.
    UnknownDigest,
    /// Another activation came first.
    Revision { expected: u64, actual: u64 },
    /// No green report, and no `force`.
    NotVerified,
    /// It does not fit what is active or what is stored.
    Incompatible(Vec<Finding>),
}

/// Judges an activation against everything that is deployed.
pub fn judge(name: &str, digest: Digest, ask: &Ask, all: &Handlers) -> Result<Judged, Refusal> {
    let deployment = all.get(name).ok_or(Refusal::UnknownHandler)?;
    let state = deployment.state(digest).ok_or(Refusal::UnknownDigest)?;
    if let Some(expected) = ask.if_revision
        && expected != deployment.revision
    {
        return Err(Refusal::Revision { expected, actual: deployment.revision });
    }
    if state == State::Active {
        return Ok(Judged::Already);
    }
    let found = activation_refusals(name, digest, all);
    if !found.is_empty() {
        return Err(Refusal::Incompatible(found));
    }
    let green = deployment.version(digest).and_then(|version| version.report.as_ref()).is_some_and(|r| r.green);
    if !green && !ask.force {
        return Err(Refusal::NotVerified);
    }
    Ok(Judged::Go { revision: deployment.revision + 1, forced: !green, previous: deployment.active })
}
