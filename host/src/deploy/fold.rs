//! The deployment history folded: what is stored, what is active, who did what. Pure and total: no event, however odd,
//! stops the fold, since a host that cannot read one entry of this history could decide nothing at all. An entry that
//! cannot be understood changes nothing and stays visible in the history with the reason.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::check;
use super::record::{self, Activated, Collection, Finding, Manifest, RebuildAsked, Uploaded, Verified};
use crate::domain::{Digest, Sequence, Timestamp};
use crate::port::read_model::builds::later_build;

/// One event of a `Handler` stream, as the fold needs it.
#[derive(Debug, Clone, Copy)]
pub struct Fact<'a> {
    pub sequence: Sequence,
    pub at: Timestamp,
    pub actor: &'a str,
    pub event_type: &'a str,
    /// The event's `data`.
    pub data: &'a str,
}

/// Where a version is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Stored, never active, without a green report.
    Uploaded,
    /// Never active, the last report is green.
    Verified,
    /// Decides now.
    Active,
    /// Was active before.
    Retired,
}

impl State {
    /// The text in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Uploaded => "uploaded",
            State::Verified => "verified",
            State::Active => "active",
            State::Retired => "retired",
        }
    }
}

/// One component of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub digest: Digest,
    pub version: String,
    pub world: String,
    pub bytes: u64,
    pub manifest: Manifest,
    pub uploaded_at: Timestamp,
    /// Who uploaded it.
    pub by: String,
    /// Of the upload.
    pub findings: Vec<Finding>,
    /// The last verification report: green or not, and its findings.
    pub report: Option<Verified>,
    /// Whether it was ever active: events it emitted may be in the log.
    pub deployed: bool,
}

/// One line of who did what, when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub sequence: Sequence,
    pub at: Timestamp,
    pub actor: String,
    pub event_type: String,
    pub digest: Option<Digest>,
    pub revision: Option<u64>,
    pub forced: Option<bool>,
    pub reason: Option<String>,
    pub previous: Option<Digest>,
    /// Why the entry has no effect, when this host could not understand it.
    pub ignored: Option<String>,
}

/// What the versions of a projection with the same collections write, up to the next rebuild that is asked for
/// (decision 0011). Its name follows from the history, as does everything here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    pub name: String,
    /// In the order of their names.
    pub collections: Vec<Collection>,
    /// Rebuilds asked for before it.
    pub rebuilds: u64,
    /// The last of these versions that was active: who goes on writing it when another build is wanted.
    pub digest: Digest,
    /// Aggregate types that any of these versions projects.
    pub kinds: BTreeSet<String>,
}

/// A handler, over all its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    pub name: String,
    /// Sequence of the last event folded.
    pub last: Sequence,
    pub active: Option<Digest>,
    /// How many activations there were.
    pub revision: u64,
    /// When the active version was activated.
    pub active_since: Option<Timestamp>,
    /// In the order of their first upload.
    pub versions: Vec<Version>,
    /// Oldest first.
    pub history: Vec<Entry>,
    /// Of a projection: every build that was wanted once, in the order in which they first were.
    pub builds: Vec<Build>,
    /// Rebuilds asked for.
    rebuilds: u64,
}

impl Deployment {
    /// A handler of which nothing is known.
    pub fn new(name: &str) -> Deployment {
        Deployment {
            name: name.into(),
            last: Sequence(0),
            active: None,
            revision: 0,
            active_since: None,
            versions: Vec::new(),
            history: Vec::new(),
            builds: Vec::new(),
            rebuilds: 0,
        }
    }

    /// The version with this digest.
    pub fn version(&self, digest: Digest) -> Option<&Version> {
        self.versions.iter().find(|version| version.digest == digest)
    }

    /// The version that decides now.
    pub fn active_version(&self) -> Option<&Version> {
        self.active.and_then(|digest| self.version(digest))
    }

    /// The build that the active version of a projection writes, or is to write.
    pub fn wanted_build(&self) -> Option<&Build> {
        let active = self.active_version()?;
        let collections = sorted(&active.manifest.collections);
        self.builds.iter().find(|build| build.rebuilds == self.rebuilds && build.collections == collections)
    }

    /// Notes which build is wanted by now.
    fn want(&mut self) {
        let Some(active) = self.active_version().filter(|version| check::projects(&version.world)) else { return };
        let (digest, kinds) = (active.digest, active.manifest.kinds.clone());
        let (collections, rebuilds) = (sorted(&active.manifest.collections), self.rebuilds);
        let of_these = |build: &&mut Build| build.rebuilds == rebuilds && build.collections == collections;
        if let Some(build) = self.builds.iter_mut().find(of_these) {
            build.digest = digest;
            build.kinds.extend(kinds);
            return;
        }
        let name = match self.builds.is_empty() {
            true => self.name.clone(),
            false => later_build(&self.name, &digest.to_string()[..12], rebuilds),
        };
        self.builds.push(Build { name, collections, rebuilds, digest, kinds: kinds.into_iter().collect() });
    }

    /// Where a version is on its way; `None` for a digest never uploaded.
    pub fn state(&self, digest: Digest) -> Option<State> {
        let version = self.version(digest)?;
        Some(match version {
            _ if self.active == Some(digest) => State::Active,
            Version { deployed: true, .. } => State::Retired,
            Version { report: Some(report), .. } if report.green => State::Verified,
            _ => State::Uploaded,
        })
    }

    /// The digest that was active before the present one: where a rollback goes.
    pub fn before_active(&self) -> Option<Digest> {
        self.history.iter().rev().find(|entry| entry.revision == Some(self.revision)).and_then(|entry| entry.previous)
    }
}

/// Folds a whole stream.
pub fn fold<'a>(name: &str, facts: impl IntoIterator<Item = Fact<'a>>) -> Deployment {
    let mut deployment = Deployment::new(name);
    for fact in facts {
        step(&mut deployment, fact);
    }
    deployment
}

/// Folds one event. An event that was folded before (by its sequence) changes nothing, so a reader may repeat itself.
pub fn step(deployment: &mut Deployment, fact: Fact<'_>) {
    if fact.sequence <= deployment.last {
        return;
    }
    deployment.last = fact.sequence;
    let entry = match fact.event_type {
        record::UPLOADED => read::<Uploaded>(fact).and_then(|data| uploaded(deployment, fact, data)),
        record::VERIFIED => read::<Verified>(fact).and_then(|data| verified(deployment, fact, data)),
        record::ACTIVATED => read::<Activated>(fact).and_then(|data| activated(deployment, fact, data)),
        record::REBUILD_ASKED => read::<RebuildAsked>(fact).map(|data| rebuild_asked(deployment, fact, data)),
        _ => Err("this host does not know this event type".into()),
    };
    let entry = entry.unwrap_or_else(|reason| Entry { ignored: Some(reason), ..entry_of(fact) });
    deployment.history.push(entry);
}

fn uploaded(deployment: &mut Deployment, fact: Fact<'_>, data: Uploaded) -> Result<Entry, String> {
    let entry = Entry { digest: Some(data.digest), ..entry_of(fact) };
    if deployment.version(data.digest).is_some() {
        return Err(format!("{} was uploaded before", data.digest));
    }
    deployment.versions.push(Version {
        digest: data.digest,
        version: data.version,
        world: data.world,
        bytes: data.bytes,
        manifest: data.manifest,
        uploaded_at: fact.at,
        by: fact.actor.into(),
        findings: data.findings,
        report: None,
        deployed: false,
    });
    Ok(entry)
}

fn verified(deployment: &mut Deployment, fact: Fact<'_>, data: Verified) -> Result<Entry, String> {
    let entry = Entry { digest: Some(data.digest), ..entry_of(fact) };
    match deployment.versions.iter_mut().find(|version| version.digest == data.digest) {
        Some(version) => version.report = Some(data),
        None => return Err(format!("{} was never uploaded", data.digest)),
    }
    Ok(entry)
}

/// The revision is counted here and not taken from the data, so that it is the number of activations whatever a
/// writer claimed; the data's is kept for those who read the log without this fold.
fn activated(deployment: &mut Deployment, fact: Fact<'_>, data: Activated) -> Result<Entry, String> {
    let previous = deployment.active;
    match deployment.versions.iter_mut().find(|version| version.digest == data.digest) {
        Some(version) => version.deployed = true,
        None => return Err(format!("{} was never uploaded", data.digest)),
    }
    deployment.revision += 1;
    deployment.active = Some(data.digest);
    deployment.active_since = Some(fact.at);
    deployment.want();
    Ok(Entry {
        digest: Some(data.digest),
        revision: Some(deployment.revision),
        forced: Some(data.forced),
        reason: data.reason,
        previous,
        ..entry_of(fact)
    })
}

fn rebuild_asked(deployment: &mut Deployment, fact: Fact<'_>, data: RebuildAsked) -> Entry {
    deployment.rebuilds += 1;
    deployment.want();
    Entry { digest: deployment.active, reason: data.reason, ..entry_of(fact) }
}

/// Collections in the order of their names, in which they compare.
pub fn sorted(collections: &[Collection]) -> Vec<Collection> {
    let mut sorted = collections.to_vec();
    sorted.sort();
    sorted
}

fn entry_of(fact: Fact<'_>) -> Entry {
    Entry {
        sequence: fact.sequence,
        at: fact.at,
        actor: fact.actor.into(),
        event_type: fact.event_type.into(),
        digest: None,
        revision: None,
        forced: None,
        reason: None,
        previous: None,
        ignored: None,
    }
}

fn read<T: DeserializeOwned>(fact: Fact<'_>) -> Result<T, String> {
    serde_json::from_str(fact.data).map_err(|error| format!("its data cannot be read: {error}"))
}
