//! What a handler says of itself, checked once when it is loaded: later parts rely on names, versions and counts.

use std::collections::HashSet;
use std::fmt;

use super::failure::{Error, short};
use super::handler::World;
use crate::domain::{AggregateType, event_type};

/// Aggregate kinds whose streams the host writes itself.
/// Aggregate types that only the host writes: deployments, and parking.
pub const RESERVED_KINDS: [&str; 2] = ["Handler", "Operations"];
/// Bounds of a description. A handler near one of them is several handlers.
const KINDS_MAX: usize = 32;
const CONTRACTS_MAX: usize = 256;
const VERSIONS_MAX: usize = 64;
const COLLECTIONS_MAX: usize = 32;
const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 1_024;
const SCHEMA_BYTES_MAX: usize = 256 << 10;
const NAME_BYTES_MAX: usize = 63;
const MESSAGE_NAME_BYTES_MAX: usize = 128;

/// Version of a schema. A bare `1` reads as 1.0.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Version {
    /// Parses `MAJOR.MINOR.PATCH` or `MAJOR`, without leading zeros.
    pub fn parse(text: &str) -> Option<Version> {
        let number = |part: &str| {
            let canonical = part == "0" || !part.starts_with('0');
            (canonical && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok()).flatten()
        };
        let mut parts = text.split('.');
        let major = number(parts.next()?)?;
        let (minor, patch) = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => (0, 0),
            (Some(minor), Some(patch), None) => (number(minor)?, number(patch)?),
            _ => return None,
        };
        Some(Version { major, minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A message or state, by name, and the versions of it that are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    pub name: String,
    /// At least one.
    pub versions: Vec<Version>,
    /// JSON Schema, as text.
    pub json_schema: Option<String>,
}

/// A collection of documents that a projection owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    pub name: String,
    pub revision: u32,
    /// JSON, as text.
    pub mapping: Option<String>,
}

/// In which order a projection gets events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// The events of an aggregate in sequence; aggregates in any order.
    Aggregate,
    /// All events of a partition in position order.
    Partition,
}

/// A checked description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    /// Semantic version of the handler.
    pub version: String,
    /// Kinds it decides for (instance, ontology), or whose events it reads (projection, upcaster).
    pub kinds: Vec<AggregateType>,
    pub commands: Vec<Contract>,
    pub emits: Vec<Contract>,
    pub folds: Vec<Contract>,
    /// The state that `evolve` produces.
    pub state: Option<Contract>,
    /// States of other aggregates it understands; the name is the kind.
    pub reads: Vec<Contract>,
    pub ordering: Ordering,
    pub collections: Vec<Collection>,
    pub labels: Vec<(String, String)>,
}

/// A contract as a handler states it.
pub(super) struct DraftContract {
    pub(super) name: String,
    pub(super) versions: Vec<String>,
    pub(super) json_schema: Option<String>,
}

/// A description as a handler states it.
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) kinds: Vec<String>,
    pub(super) commands: Vec<DraftContract>,
    pub(super) emits: Vec<DraftContract>,
    pub(super) folds: Vec<DraftContract>,
    pub(super) state: Option<DraftContract>,
    pub(super) reads: Vec<DraftContract>,
    pub(super) ordering: String,
    pub(super) collections: Vec<Collection>,
    pub(super) labels: Vec<(String, String)>,
}

/// Whether this is a name of a command or event: `[A-Z][A-Z0-9_]*`, at most 128 bytes.
pub(super) fn is_message_name(name: &str) -> bool {
    name.len() <= MESSAGE_NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn is_slug(name: &str, separator: u8) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == separator)
}

/// MAJOR.MINOR.PATCH with an optional pre-release and build part.
fn is_semver(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let rest = &version[core.len()..];
    version.len() <= NAME_BYTES_MAX
        && core.split('.').count() == 3
        && Version::parse(core).is_some()
        && (rest.is_empty() || rest.len() > 1)
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.'))
}

fn refuse(field: &str, message: impl Into<String>) -> Error {
    Error::Contract { field: field.to_owned(), message: short(&message.into()) }
}

fn bounded(field: &str, count: usize, max: usize) -> Result<(), Error> {
    if count > max {
        return Err(refuse(field, format!("{count} entries, {max} are allowed")));
    }
    Ok(())
}

fn distinct<'a>(field: &str, names: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(refuse(field, format!("{name} is named twice")));
        }
    }
    Ok(())
}

fn json(field: &str, text: Option<&str>) -> Result<(), Error> {
    let Some(text) = text else { return Ok(()) };
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(refuse(field, format!("{} bytes of JSON, {SCHEMA_BYTES_MAX} are allowed", text.len())));
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(drop)
        .map_err(|error| refuse(field, format!("no JSON: {error}")))
}

fn kind(field: &str, text: &str) -> Result<AggregateType, Error> {
    let kind = AggregateType::parse(text).map_err(|error| refuse(field, error.to_string()))?;
    if RESERVED_KINDS.contains(&text) {
        return Err(refuse(field, format!("the host writes the streams of {text} itself")));
    }
    Ok(kind)
}

impl DraftContract {
    fn check(self, field: &str, is_name: fn(&str) -> bool) -> Result<Contract, Error> {
        if !is_name(&self.name) {
            return Err(refuse(field, format!("{:?} is no name that may stand here", short(&self.name))));
        }
        bounded(field, self.versions.len(), VERSIONS_MAX)?;
        if self.versions.is_empty() {
            return Err(refuse(field, format!("{} has no version", self.name)));
        }
        let mut versions = Vec::with_capacity(self.versions.len());
        for text in &self.versions {
            let version = Version::parse(text).ok_or_else(|| {
                refuse(field, format!("{}: {:?} is no version MAJOR.MINOR.PATCH", self.name, short(text)))
            })?;
            if versions.contains(&version) {
                return Err(refuse(field, format!("{} {version} is named twice", self.name)));
            }
            versions.push(version);
        }
        json(field, self.json_schema.as_deref())?;
        Ok(Contract { name: self.name, versions, json_schema: self.json_schema })
    }
}

fn contracts(field: &str, drafts: Vec<DraftContract>, is_name: fn(&str) -> bool) -> Result<Vec<Contract>, Error> {
    bounded(field, drafts.len(), CONTRACTS_MAX)?;
    let checked = drafts.into_iter().map(|draft| draft.check(field, is_name)).collect::<Result<Vec<_>, _>>()?;
    distinct(field, checked.iter().map(|contract| contract.name.as_str()))?;
    Ok(checked)
}

impl Draft {
    /// The description, if it is acceptable for a handler of this world.
    pub(super) fn check(self, world: World) -> Result<Description, Error> {
        if !is_slug(&self.name, b'-') {
            let rule = "a lower-case letter and at most 62 lower-case letters, digits or hyphens after it";
            return Err(refuse("name", format!("{:?} must be {rule}", short(&self.name))));
        }
        if !is_semver(&self.version) {
            return Err(refuse("version", format!("{:?} is no semantic version", short(&self.version))));
        }
        bounded("kinds", self.kinds.len(), KINDS_MAX)?;
        distinct("kinds", self.kinds.iter().map(String::as_str))?;
        let is_kind = |name: &str| AggregateType::parse(name).is_ok();
        let description = Description {
            kinds: self.kinds.iter().map(|text| kind("kinds", text)).collect::<Result<_, _>>()?,
            commands: contracts("commands", self.commands, is_message_name)?,
            emits: contracts("emits", self.emits, |name| is_message_name(name) && !event_type::is_host_outcome(name))?,
            folds: contracts("folds", self.folds, |name| is_message_name(name) && !event_type::is_host_outcome(name))?,
            state: self.state.map(|draft| draft.check("state", |name| !name.is_empty())).transpose()?,
            reads: contracts("reads", self.reads, is_kind)?,
            ordering: match (self.ordering.as_str(), world) {
                ("partition", World::Projection) => Ordering::Partition,
                ("aggregate", _) => Ordering::Aggregate,
                ("", World::Instance | World::Ontology | World::Upcaster) => Ordering::Aggregate,
                (other, _) => {
                    return Err(refuse("ordering", format!("{:?} is not offered to a {world}", short(other))));
                }
            },
            collections: collections(self.collections)?,
            labels: labels(self.labels)?,
            name: self.name,
            version: self.version,
        };
        description.fits(world)?;
        Ok(description)
    }
}

fn collections(collections: Vec<Collection>) -> Result<Vec<Collection>, Error> {
    bounded("collections", collections.len(), COLLECTIONS_MAX)?;
    distinct("collections", collections.iter().map(|collection| collection.name.as_str()))?;
    for collection in &collections {
        if !is_slug(&collection.name, b'_') {
            let rule = "a lower-case letter and at most 62 lower-case letters, digits or underscores after it";
            return Err(refuse("collections", format!("{:?} must be {rule}", short(&collection.name))));
        }
        json("collections", collection.mapping.as_deref())?;
    }
    Ok(collections)
}

fn labels(labels: Vec<(String, String)>) -> Result<Vec<(String, String)>, Error> {
    bounded("labels", labels.len(), LABELS_MAX)?;
    distinct("labels", labels.iter().map(|(name, _)| name.as_str()))?;
    for (name, value) in &labels {
        if name.is_empty() || name.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
            return Err(refuse("labels", format!("a name is empty or a text exceeds {LABEL_BYTES_MAX} bytes")));
        }
    }
    Ok(labels)
}

impl Description {
    /// Whether it reads states of this type in this version; where it names no versions, any.
    pub fn understands(&self, kind: &str, version: &str) -> bool {
        let versions = self.reads.iter().find(|read| read.name == kind).map(|read| &read.versions);
        versions.is_none_or(|versions| Version::parse(version).is_some_and(|version| versions.contains(&version)))
    }

    /// Whether what is declared makes sense for the world that is exported.
    fn fits(&self, world: World) -> Result<(), Error> {
        let must = |field: &str, holds: bool, message: &str| {
            if holds { Ok(()) } else { Err(refuse(field, format!("a {world} {message}"))) }
        };
        must("kinds", !self.kinds.is_empty(), "names at least one kind")?;
        let decides = matches!(world, World::Instance | World::Ontology);
        if decides {
            must("commands", !self.commands.is_empty(), "accepts at least one command")?;
        } else {
            must("commands", self.commands.is_empty(), "accepts no commands")?;
            must("state", self.state.is_none(), "has no state")?;
            must("reads", self.reads.is_empty(), "reads no states")?;
        }
        if world == World::Projection {
            must("emits", self.emits.is_empty(), "emits no events")?;
        } else {
            must("collections", self.collections.is_empty(), "has no collections")?;
        }
        if world == World::Upcaster {
            must("folds", !self.folds.is_empty(), "names the events it takes in folds")?;
            must("emits", !self.emits.is_empty(), "names the events it makes in emits")?;
        }
        Ok(())
    }
}
