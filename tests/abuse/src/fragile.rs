//! A handler of notebooks in two versions. A note that says "poison" is too much for the broken one; all else is the
//! same in both, so that the mended one goes on where the broken one stopped.

use crate::{BROKEN, VERSION};
use exports::carryall::handler::{instance, manifest};
use instance::{Aggregate, Command, Context, Fault, ReadValue, RecordedEvent, Verdict};

wit_bindgen::generate!({ path: "../../wit/0.1", world: "instance-handler" });

use carryall::handler::types::{NewEvent, Outcome};

struct Fragile;
export!(Fragile);

impl manifest::Guest for Fragile {
    fn describe() -> manifest::Description {
        let contract =
            |name: &str| manifest::Contract { name: name.into(), versions: vec!["1.0.0".into()], json_schema: None };
        manifest::Description {
            name: "fragile".into(),
            version: VERSION.into(),
            kinds: vec!["Notebook".into()],
            commands: vec![contract("NOTE")],
            emits: vec![contract("NOTED")],
            folds: vec![contract("NOTED")],
            state: Some(contract("Notebook")),
            reads: Vec::new(),
            ordering: "aggregate".into(),
            collections: Vec::new(),
            labels: Vec::new(),
        }
    }
}

impl instance::Guest for Fragile {
    fn needs(_: Command, _: Option<String>, _: Vec<ReadValue>) -> Result<Vec<Aggregate>, Fault> {
        Ok(Vec::new())
    }

    fn decide(_: Context, _: Option<String>, command: Command) -> Result<Verdict, Fault> {
        assert!(!(BROKEN && command.payload.contains("poison")), "this note is too much");
        let noted = NewEvent {
            name: "NOTED".into(),
            schema_version: "1.0.0".into(),
            data: command.payload,
            headers: Vec::new(),
        };
        Ok(Verdict::Accepted(Outcome { events: vec![noted], commands: Vec::new() }))
    }

    /// The state is the list of all notes.
    fn evolve(state: Option<String>, events: Vec<RecordedEvent>) -> Result<Option<String>, Fault> {
        let corrupt = |error: serde_json::Error| Fault { code: "corrupt".into(), message: error.to_string() };
        let mut notes: Vec<serde_json::Value> =
            state.map_or(Ok(Vec::new()), |text| serde_json::from_str(&text)).map_err(corrupt)?;
        for event in events {
            notes.push(serde_json::from_str(&event.data).map_err(corrupt)?);
        }
        serde_json::to_string(&notes).map(Some).map_err(corrupt)
    }
}
