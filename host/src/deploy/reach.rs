//! Whether stored events reach those who read them: folded as they are, or brought there by upcasters. Judged on
//! manifests alone, which do not say what becomes of one event but what an upcaster takes and makes: an event becomes
//! newer versions of itself when the upcaster makes such, else all the other events that it makes. Pure.

use std::collections::HashMap;

use super::record::{Contract, Manifest};
use crate::sandbox::{Version, World};

/// Whoever folds or projects.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub world: &'a str,
    pub manifest: &'a Manifest,
}

/// Whether an event of an aggregate type, in a version that may be stored, reaches the reader.
pub fn reaches(reader: Reader<'_>, upcasters: &[&Manifest], kind: &str, name: &str, version: &str) -> bool {
    let Some(version) = Version::parse(version) else { return false };
    Search { reader, upcasters, kind, known: HashMap::new() }.event(name, version)
}

/// The manifests that take this version of an event.
pub fn takes(upcaster: &Manifest, kind: &str, name: &str, version: Version) -> bool {
    upcaster.kinds.iter().any(|own| own == kind) && has(&upcaster.folds, name, version)
}

struct Search<'a> {
    reader: Reader<'a>,
    upcasters: &'a [&'a Manifest],
    kind: &'a str,
    /// What was asked before; a circle leads nowhere.
    known: HashMap<(&'a str, Version), bool>,
}

impl<'a> Search<'a> {
    fn event(&mut self, name: &str, version: Version) -> bool {
        let folds = &self.reader.manifest.folds;
        if folds.is_empty() || has(folds, name, version) {
            return true;
        }
        let Some(upcaster) = self.upcasters.iter().find(|upcaster| takes(upcaster, self.kind, name, version)) else {
            // A decider meets every event of its aggregates; a projection chooses those it folds by name.
            return self.reader.world == World::Projection.as_str() && !folds.iter().any(|fold| fold.name == name);
        };
        let (newer, others): (Vec<_>, Vec<_>) =
            upcaster.emits.iter().flat_map(versions).partition(|(made, _)| *made == name);
        let newer: Vec<_> = newer.into_iter().filter(|(_, made)| *made > version).collect();
        if newer.is_empty() {
            !others.is_empty() && others.into_iter().all(|made| self.step(made))
        } else {
            newer.into_iter().any(|made| self.step(made))
        }
    }

    fn step(&mut self, made: (&'a str, Version)) -> bool {
        if let Some(known) = self.known.insert(made, false) {
            self.known.insert(made, known);
            return known;
        }
        let reached = self.event(made.0, made.1);
        self.known.insert(made, reached);
        reached
    }
}

fn versions(contract: &Contract) -> impl Iterator<Item = (&str, Version)> {
    contract.versions.iter().filter_map(|text| Some((contract.name.as_str(), Version::parse(text)?)))
}

fn has(contracts: &[Contract], name: &str, version: Version) -> bool {
    contracts.iter().flat_map(versions).any(|known| known == (name, version))
}
