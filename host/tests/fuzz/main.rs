//! A short run of the fuzz targets: the seeds, and some thousand mutations of them that are the same in every run. A
//! panic names its input; the long runs are cargo-fuzz's (`docs/fuzzing.md`).
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/src/abuse.rs"]
mod abuse;
#[path = "../../../fuzz/bodies/mod.rs"]
mod bodies;
mod mutate;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutate::Mutator;

/// No target takes longer, however slow the machine: mutations are bounded by time as well.
const AT_MOST: Duration = Duration::from_secs(6);

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Runs a target on its seeds and on mutations of them.
fn run(target: &str, seeds: Vec<Vec<u8>>, mutations: usize) {
    let (_, body) = bodies::TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    let meet = |input: &[u8]| {
        let met = std::panic::catch_unwind(|| body(input));
        if met.is_err() {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
            std::fs::write(&path, input).unwrap();
            panic!("{target} breaks on {} bytes, kept as {}", input.len(), path.display());
        }
    };
    seeds.iter().for_each(|seed| meet(seed));
    // The first input makes what all of them need.
    let begun = Instant::now();
    let mut mutator = Mutator::new(target);
    for count in 0..mutations {
        if begun.elapsed() > AT_MOST {
            assert!(count > 0, "{target} is too slow to be mutated at all");
            return;
        }
        meet(&mutator.mutate(&seeds));
    }
}

#[test]
fn no_segment_breaks_its_reader() {
    let golden = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/segment-1.ndjson")).unwrap();
    run("segment", [seeds("segment"), vec![golden]].concat(), 8_000);
}

#[test]
fn no_line_breaks_its_reader() {
    run("envelope", seeds("envelope"), 20_000);
}

#[test]
fn no_body_breaks_the_api() {
    run("http_body", seeds("http_body"), 3_000);
}

#[test]
fn no_answer_of_a_guest_breaks_the_host() {
    abuse::abuse("decider").unwrap();
    run("lifting", seeds("lifting"), 3_000);
}

#[test]
fn no_upload_breaks_the_host() {
    let account = bodies::guests::component("account");
    run("upload", [seeds("upload"), vec![account]].concat(), 2_000);
}
