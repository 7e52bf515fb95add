//! Rules of the house that a compiler does not check: the layer table, one place for each vendor crate, the form of
//! source files, and what dependencies may bring. Each test lists everything it found, so that one run mends all.
#![allow(clippy::unwrap_used)]

mod compose;
mod contract;
mod dependencies;
mod failpoints;
mod files;
mod layers;

use std::path::{Path, PathBuf};

/// The workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All files of the workspace that people write, relative to its root, in order.
fn sources() -> Vec<PathBuf> {
    const SKIPPED: [&str; 3] = ["target", "data", ".git"];
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if SKIPPED.contains(&name.as_str()) || name.starts_with(".carryall-") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Source files in Rust, with their text.
fn rust_files() -> Vec<(PathBuf, String)> {
    let rust = sources().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| (path.clone(), std::fs::read_to_string(root().join(path)).unwrap())).collect()
}

/// Whether a file holds tests only; tests may look wherever they need to.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "benches")))
}

/// Fails with everything that was found.
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}
