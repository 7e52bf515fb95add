//! Tests of deployment: the pure fold and rules, the service on a log in memory, the bundled handlers.
#![allow(clippy::unwrap_used)]

mod bundled;
mod fold;
mod host;
mod rules;
mod service;

use serde_json::{Value, json};

use super::record::{Collection, Contract, Manifest};
use crate::domain::Digest;

/// A digest that reads like a number.
fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn contract(name: &str, versions: &[&str]) -> Contract {
    Contract { name: name.into(), versions: versions.iter().map(|v| (*v).into()).collect() }
}

/// What an account handler says of itself: events of version `emits`, folded in `folds`, state in `state`.
fn account(emits: &[&str], folds: &[&str], state: &str) -> Manifest {
    Manifest {
        kinds: vec!["Account".into()],
        commands: vec![contract("DEPOSIT", &["1.0.0"])],
        emits: vec![contract("DEPOSITED", emits)],
        folds: vec![contract("DEPOSITED", folds)],
        state: Some(contract("account", &[state])),
        ordering: "aggregate".into(),
        ..Manifest::default()
    }
}

/// A projection of accounts into one collection.
fn statements(folds: &[&str], collection: &str) -> Manifest {
    Manifest {
        kinds: vec!["Account".into()],
        folds: vec![contract("DEPOSITED", folds)],
        ordering: "aggregate".into(),
        collections: vec![Collection { name: collection.into(), revision: 1 }],
        ..Manifest::default()
    }
}

fn uploaded(digest: Digest, version: &str, world: &str, manifest: &Manifest) -> Value {
    json!({"digest": digest, "version": version, "world": world, "bytes": 10, "manifest": manifest, "findings": []})
}

fn activated(digest: Digest, revision: u64) -> Value {
    json!({"digest": digest, "revision": revision, "forced": true, "reason": "because", "previous": null})
}
