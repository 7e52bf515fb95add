//! The rules of deployment, judged on manifests alone: what may be uploaded, and what may become active beside what is
//! active now. Pure: no component runs here and nothing is read.
//!
//! The rule behind all of them: readers first. Whoever understands a new shape is activated before whoever writes it,
//! so at no moment is something stored that an active handler does not understand (I9).

use std::collections::BTreeMap;

use super::fold::{Deployment, State, Version, sorted};
use super::reach::{Reader, reaches, takes};
use super::record::{Contract, Finding, Manifest};
use crate::domain::{AggregateType, Digest, event_topic, event_type};
use crate::sandbox::{Version as SchemaVersion, World};

/// Handlers by name.
pub type Handlers = BTreeMap<String, Deployment>;

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

/// Whether a world brings stored events to newer versions.
pub fn upcasts(world: &str) -> bool {
    world == World::Upcaster.as_str()
}

/// Contract checks of an upload that need more than the component itself; the sandbox has judged names, versions and
/// counts. An empty list means that the component may be stored.
pub fn upload_refusals(name: &str, world: &str, manifest: &Manifest, all: &Handlers) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(other) = all.get(name).and_then(|deployment| deployment.versions.first())
        && other.world != world
    {
        found.push(Finding::new(
            "name_taken",
            format!("{name} is the name of an {}, this is an {world}: give it another name", other.world),
        ));
    }
    if !decides(world) {
        return found;
    }
    for (index, kind) in manifest.kinds.iter().enumerate() {
        if let Some((topic, owner)) = topic_taken(kind) {
            let message =
                format!("the events of {kind} would go to the topic {topic} of {owner}: rename the aggregate type");
            found.push(Finding::new("topic_taken", message).at(format!("/kinds/{index}")));
        }
    }
    for (index, contract) in manifest.emits.iter().enumerate() {
        for version in not_folded(contract, &manifest.folds) {
            let message = format!("it emits {} {version} and does not fold it: add it to `folds`", contract.name);
            found.push(Finding::new("emits_not_folded", message).at(format!("/emits/{index}")));
        }
    }
    let own = manifest.reads.iter().enumerate().filter(|(_, read)| manifest.kinds.contains(&read.name));
    for (index, read) in own {
        for version in manifest.state.iter().flat_map(|state| &state.versions).filter(|v| !has(&read.versions, v)) {
            let message = format!("it keeps the state of {} in version {version} and does not read it", read.name);
            found.push(Finding::new("own_state_not_read", message).at(format!("/reads/{index}")));
        }
    }
    found
}

/// The topic of a type that belongs to another type, and that type. Names map to topics one to one, except for the
/// types that the contract gives shared topics, so these are the only ones that can clash.
fn topic_taken(kind: &str) -> Option<(String, &'static str)> {
    if SHARED_TOPIC_KINDS.contains(&kind) {
        return None;
    }
    let topic_of = |kind| AggregateType::parse(kind).ok().map(|kind| event_topic(&kind));
    let topic = topic_of(kind)?;
    let owner = SHARED_TOPIC_KINDS.into_iter().find(|other| topic_of(other).as_ref() == Some(&topic))?;
    Some((topic, owner))
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

/// What an operator should know before a version is activated, though nothing forbids it: its documents would be
/// written otherwise than those that are there.
pub fn upload_warnings(name: &str, candidate: Candidate<'_>, all: &Handlers) -> Vec<Finding> {
    let active = all.get(name).and_then(Deployment::active_version).filter(|_| projects(candidate.world));
    let changes = |active: &&Version| sorted(&active.manifest.collections) != sorted(&candidate.manifest.collections);
    match active.filter(changes) {
        Some(active) => vec![Finding::new(
            "rebuild_needed",
            format!(
                "its collections are not those of the active {name} {}: after the activation, readers see what that \
                 version writes until all of it is written anew",
                active.version
            ),
        )],
        None => Vec::new(),
    }
}

/// Each aggregate type has one decider, each collection one writer, each version of an event one upcaster.
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
    if upcasts(candidate.world) && upcasts(&active.world) {
        for kind in &candidate.manifest.kinds {
            for contract in &candidate.manifest.folds {
                let versions = contract.versions.iter().filter_map(|text| SchemaVersion::parse(text));
                for version in versions.filter(|version| takes(&active.manifest, kind, &contract.name, *version)) {
                    let event = format!("{} {version} of {kind}", contract.name);
                    let message = format!("the active upcaster {other_name} takes {event}: one upcaster a version");
                    found.push(Finding::new("upcast_taken", message));
                }
            }
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
                             {other_name} reads only version {understood}: first activate a {other_name} that reads \
                             both",
                            candidate.version, read.name
                        ),
                    )
                });
            }
        }
    }
}

/// Every event version that may be in the log reaches whoever reads events of its type, by an upcaster if need be.
fn events(name: &str, candidate: Candidate<'_>, all: &Handlers, found: &mut Vec<Finding>) {
    let others = || all.iter().filter(|(other, _)| *other != name);
    let active = || others().filter_map(|(other, deployment)| Some((other, deployment.active_version()?)));
    let mut upcasters: Vec<&Manifest> =
        active().filter(|(_, version)| upcasts(&version.world)).map(|(_, version)| &version.manifest).collect();
    if upcasts(candidate.world) {
        let mut before = upcasters.clone();
        before.extend(all.get(name).and_then(Deployment::active_version).map(|version| &version.manifest));
        upcasters.push(candidate.manifest);
        for (reader_name, reader) in active().filter(|(_, version)| !upcasts(&version.world)) {
            let reader = Candidate::from(reader);
            let missing = |upcasters: &[&Manifest]| unread(reader, upcasters, all);
            let read_before = missing(&before);
            for event in missing(&upcasters).into_iter().filter(|event| !read_before.contains(event)) {
                found.push(event.finding(reader_name, reader));
            }
        }
        return;
    }
    found.extend(unread(candidate, &upcasters, all).iter().map(|event| event.finding(name, candidate)));
    // A new writer must be understood by the projections that are active now.
    for (other_name, projection) in active().filter(|(_, version)| projects(&version.world)) {
        if !decides(candidate.world) {
            break;
        }
        let reader = Reader { world: &projection.world, manifest: &projection.manifest };
        for (contract, version) in unread_contracts(candidate.manifest, reader, &upcasters) {
            found.push(Finding::new(
                "event_not_folded",
                format!(
                    "{name} {} emits {contract} {version}, which the active projection {other_name} does not fold: \
                     first activate a {other_name} that does",
                    candidate.version
                ),
            ));
        }
    }
}

/// An event that may be in the log and that a reader does not understand.
#[derive(PartialEq)]
struct Unread<'a> {
    event: &'a str,
    version: &'a str,
    /// Who emitted it.
    by: &'a str,
    emitted: &'a Version,
}

impl Unread<'_> {
    fn finding(&self, name: &str, reader: Candidate<'_>) -> Finding {
        let Unread { event, version, by, emitted } = self;
        let understood = reader.manifest.folds.iter().find(|fold| fold.name == *event);
        let understood = understood.map_or_else(|| "nothing".into(), |fold| fold.versions.join(", "));
        Finding::new(
            "event_not_folded",
            format!(
                "{event} {version} was emitted by {by} {} ({}), {name} {} folds {understood} of it, and no active \
                 upcaster leads there: let {name} fold {version}, or first activate an upcaster that takes it",
                emitted.version, emitted.digest, reader.version
            ),
        )
    }
}

/// What may be in the log and does not reach a reader.
fn unread<'a>(reader: Candidate<'_>, upcasters: &[&Manifest], all: &'a Handlers) -> Vec<Unread<'a>> {
    let mut found = Vec::new();
    for (by, deployment) in all {
        for emitted in deployment.versions.iter().filter(|version| version.deployed && decides(&version.world)) {
            let reader = Reader { world: reader.world, manifest: reader.manifest };
            let missing = unread_contracts(&emitted.manifest, reader, upcasters);
            found.extend(missing.into_iter().map(|(event, version)| Unread { event, version, by, emitted }));
        }
    }
    found
}

/// Events and versions of a writer that do not reach a reader of its aggregate types.
fn unread_contracts<'a>(writer: &'a Manifest, reader: Reader<'_>, upcasters: &[&Manifest]) -> Vec<(&'a str, &'a str)> {
    let shared: Vec<&String> = writer.kinds.iter().filter(|kind| reader.manifest.kinds.contains(kind)).collect();
    let emits = writer.emits.iter().filter(|contract| !event_type::is_host_outcome(&contract.name));
    let events = emits.flat_map(|contract| contract.versions.iter().map(|version| (&*contract.name, &**version)));
    events.filter(|(name, v)| shared.iter().any(|kind| !reaches(reader, upcasters, kind, name, v))).collect()
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
    let wanted = SchemaVersion::parse(wanted);
    wanted.is_some() && versions.iter().any(|version| SchemaVersion::parse(version) == wanted)
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

/// What the history says should be serving now, by name, and what of it cannot, with the reason. Activations are judged
/// before they are appended, but two processes may append to two streams at the same moment; then whichever was
/// activated first keeps the aggregate type, in every process alike.
pub fn active_set(all: &Handlers) -> (Vec<(&Deployment, &Version)>, BTreeMap<String, String>) {
    let mut wanted: Vec<_> = all.values().filter_map(|d| d.active_version().map(|version| (d, version))).collect();
    wanted.sort_by_key(|(deployment, _)| (deployment.active_since, deployment.name.clone()));
    let mut serving: Vec<(&Deployment, &Version)> = Vec::new();
    let mut shadowed = BTreeMap::new();
    for (deployment, version) in wanted {
        let mut found = Vec::new();
        for (other, active) in &serving {
            ownership(version.into(), &other.name, active, &mut found);
        }
        match found.into_iter().next() {
            Some(finding) => drop(shadowed.insert(deployment.name.clone(), finding.message)),
            None => serving.push((deployment, version)),
        }
    }
    (serving, shadowed)
}
