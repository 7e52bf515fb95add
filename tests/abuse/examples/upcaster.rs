//! An upcaster that splits an event, or returns too many, or what nobody declared.
#![cfg(target_family = "wasm")]

use exports::carryall::handler::{manifest, upcaster};
use upcaster::{Fault, Stored};

wit_bindgen::generate!({ path: "../../wit/0.1", world: "upcaster-handler" });

struct Upcaster;
export!(Upcaster);

impl manifest::Guest for Upcaster {
    fn describe() -> manifest::Description {
        let contract = |name: &str, version: &str| manifest::Contract {
            name: name.into(),
            versions: vec![version.into()],
            json_schema: None,
        };
        manifest::Description {
            name: "abuse-upcaster".into(),
            version: "0.1.0".into(),
            kinds: vec!["Thing".into()],
            commands: Vec::new(),
            emits: vec![contract("NOTED", "2.0.0")],
            folds: vec![contract("NOTED", "1")],
            state: None,
            reads: Vec::new(),
            ordering: String::new(),
            collections: Vec::new(),
            labels: Vec::new(),
        }
    }
}

impl upcaster::Guest for Upcaster {
    fn upcast(event: Stored) -> Result<Vec<Stored>, Fault> {
        let newer = |name: &str| Stored { name: name.into(), schema_version: "2.0.0".into(), data: event.data.clone() };
        Ok(match event.data.as_str() {
            "\"many\"" => (0..100).map(|_| newer("NOTED")).collect(),
            "\"other\"" => vec![newer("SURPRISE")],
            _ => vec![newer("NOTED"), newer("NOTED")],
        })
    }
}
