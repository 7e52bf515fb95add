//! The list of mutations must not rot: what each one looks for is in the source.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use super::broken;
use super::table::MUTATIONS;

#[test]
fn every_mutation_finds_its_place_in_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let broken = broken(&root).unwrap();
    for mutation in MUTATIONS {
        let switch = format!("crate::mutant(\"{}\")", mutation.name);
        assert_eq!(broken[mutation.file].matches(&switch).count(), 1, "{} has one switch", mutation.name);
    }
    let names: BTreeSet<_> = MUTATIONS.iter().map(|mutation| mutation.name).collect();
    assert_eq!(names.len(), MUTATIONS.len(), "each has a name of its own");
}
