//! Licences, bans and duplicates of the dependency graph, by the rules of `deny.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

use super::{none, root};

#[derive(Deserialize)]
struct Rules {
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Named>,
    skip: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
}

fn rules() -> Rules {
    toml::from_str(&std::fs::read_to_string(root().join("deny.toml")).unwrap()).unwrap()
}

/// Every package that is compiled for this machine.
fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host.trim()])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).unwrap();
    let used: BTreeSet<String> = metadata.resolve.nodes.into_iter().map(|node| node.id).collect();
    metadata.packages.into_iter().filter(|package| used.contains(&package.id)).collect()
}

#[test]
fn every_licence_is_allowed() {
    let rules = rules();
    let mut found = Vec::new();
    for package in packages() {
        let licence = package.license.as_deref().unwrap_or_default();
        let own = package.source.is_none();
        if !own && !allowed(licence, &rules.licenses.allow) {
            found.push(format!("{} {}: {licence:?}", package.name, package.version));
        }
    }
    none("licences that deny.toml does not allow", &found);
}

#[test]
fn nothing_banned_or_needlessly_doubled_is_compiled() {
    let rules = rules();
    let mut found = Vec::new();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        if rules.bans.deny.iter().any(|banned| banned.name == package.name) {
            found.push(format!("{} is banned", package.name));
        }
        if package.source.as_deref().is_some_and(|source| !source.starts_with("registry+")) {
            found.push(format!("{} does not come from the registry", package.name));
        }
        versions.entry(package.name).or_default().insert(package.version);
    }
    let skipped: BTreeSet<&str> = rules.bans.skip.iter().map(|named| named.name.as_str()).collect();
    for (name, versions) in &versions {
        let doubled = versions.len() > 1;
        if doubled && !skipped.contains(name.as_str()) {
            found.push(format!("{name} in several versions: {versions:?}"));
        }
        if !doubled && skipped.contains(name.as_str()) {
            found.push(format!("{name} is skipped in deny.toml and needs it no more"));
        }
    }
    none("dependencies against deny.toml", &found);
}

/// Whether an SPDX expression can be fulfilled by what is allowed: any side of an OR, both sides of an AND.
fn allowed(expression: &str, allow: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = expression.split_whitespace().peekable();
    let fulfilled = any(&mut words, allow);
    fulfilled && words.peek().is_none()
}

type Words<'a, 'b> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_, '_>, allow: &BTreeSet<String>) -> bool {
    let mut fulfilled = all(words, allow);
    while words.next_if_eq(&"OR").is_some() {
        // Read in any case, so that what follows is read from the right word.
        let other = all(words, allow);
        fulfilled |= other;
    }
    fulfilled
}

fn all(words: &mut Words<'_, '_>, allow: &BTreeSet<String>) -> bool {
    let mut fulfilled = one(words, allow);
    while words.next_if_eq(&"AND").is_some() {
        let other = one(words, allow);
        fulfilled &= other;
    }
    fulfilled
}

fn one(words: &mut Words<'_, '_>, allow: &BTreeSet<String>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let fulfilled = any(words, allow);
        return words.next_if_eq(&")").is_some() && fulfilled;
    }
    let Some(mut licence) = words.next().map(str::to_owned) else { return false };
    if words.next_if_eq(&"WITH").is_some() {
        licence.push_str(" WITH ");
        licence.push_str(words.next().unwrap_or_default());
    }
    allow.contains(&licence)
}

#[test]
fn licence_expressions_are_understood() {
    let allow: BTreeSet<String> = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(String::from).into();
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-3.0", "(MIT OR X) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(allowed(good, &allow), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT OR X", "MIT MIT"] {
        assert!(!allowed(bad, &allow), "{bad}");
    }
}
