//! An upcaster that splits an event, or returns too many, or what nobody declared. Of the movements of an account it
//! makes a deposit and a withdrawal, and of a circle a circle.
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
            kinds: vec!["Thing".into(), "Account".into()],
            commands: Vec::new(),
            emits: vec![
                contract("NOTED", "2.0.0"),
                contract("MONEY_DEPOSITED", "1.0.0"),
                contract("MONEY_WITHDRAWN", "1.0.0"),
                contract("CIRCLED", "1.0.0"),
            ],
            folds: vec![contract("NOTED", "1"), contract("MONEY_MOVED", "1.0.0"), contract("CIRCLED", "1.0.0")],
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
        let made = |name: &str, version: &str, data: &str| Stored {
            name: name.into(),
            schema_version: version.into(),
            data: data.into(),
        };
        if event.name == "MONEY_MOVED" {
            let balance = |cents: u64| format!("{{\"amount_cents\":5,\"balance_cents\":{cents}}}");
            let (up, down) = (balance(5), balance(0));
            return Ok(vec![made("MONEY_DEPOSITED", "1.0.0", &up), made("MONEY_WITHDRAWN", "1.0.0", &down)]);
        }
        if event.name == "CIRCLED" {
            return Ok(vec![made("CIRCLED", "1.0.0", "{}")]);
        }
        let newer = |name: &str| made(name, "2.0.0", &event.data);
        Ok(match event.data.as_str() {
            "\"many\"" => (0..100).map(|_| newer("NOTED")).collect(),
            "\"other\"" => vec![newer("SURPRISE")],
            _ => vec![newer("NOTED"), newer("NOTED")],
        })
    }
}
