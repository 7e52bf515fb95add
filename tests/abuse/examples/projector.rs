//! A projection that misbehaves on demand: the name of the first event says how.
#![cfg(target_family = "wasm")]

use exports::carryall::handler::{manifest, projection};
use projection::{Change, DocKey, Document, Edges, Fault, Node, RecordedEvent, Write};

wit_bindgen::generate!({ path: "../../wit/0.1", world: "projection-handler" });

struct Projector;
export!(Projector);

impl manifest::Guest for Projector {
    fn describe() -> manifest::Description {
        manifest::Description {
            name: "abuse-projection".into(),
            version: "0.1.0".into(),
            kinds: vec!["Thing".into()],
            commands: Vec::new(),
            emits: Vec::new(),
            folds: Vec::new(),
            state: None,
            reads: Vec::new(),
            ordering: "partition".into(),
            collections: vec![manifest::Collection { name: "things".into(), revision: 1, mapping: None }],
            labels: Vec::new(),
        }
    }
}

fn key(id: &str) -> DocKey {
    DocKey { collection: "things".into(), id: id.into() }
}

fn put(cause: u32, body: &str) -> Change {
    Change { cause, write: Write::Put(Document { key: key("t-1"), body: body.into() }) }
}

impl projection::Guest for Projector {
    fn needs(events: Vec<RecordedEvent>) -> Result<Vec<DocKey>, Fault> {
        Ok(events.iter().map(|event| key(&event.source.id)).collect())
    }

    fn project(events: Vec<RecordedEvent>, documents: Vec<Document>) -> Result<Vec<Change>, Fault> {
        let node = |id: &str| Node { kind: "Thing".into(), id: id.into() };
        Ok(match events[0].name.as_str() {
            "RUBBISH" => vec![put(0, "rubbish")],
            "ARRAY" => vec![put(0, "[1]")],
            "DEEP" => vec![put(0, &format!("{{\"a\":{}{}}}", "[".repeat(2_000), "]".repeat(2_000)))],
            "FUTURE" => vec![put(7, "{}")],
            "BACKWARDS" => vec![put(1, "{}"), put(0, "{}")],
            "MANY" => (0..30_000).map(|_| put(0, "{}")).collect(),
            "FOREIGN" => {
                let key = DocKey { collection: "others".into(), id: "x".into() };
                vec![Change { cause: 0, write: Write::Remove(key) }]
            }
            "EMPTY_ID" => vec![Change { cause: 0, write: Write::PutNode(node("")) }],
            _ => {
                let edges = Edges { source: node("t-1"), predicate: "next".into(), targets: vec![node("t-2")] };
                let body = documents.first().map_or("{\"new\":true}", |document| &document.body);
                vec![
                    put(0, body),
                    Change { cause: 0, write: Write::PutNode(node("t-1")) },
                    Change { cause: 1, write: Write::SetEdges(edges) },
                    Change { cause: 1, write: Write::RemoveNode(node("t-3")) },
                    Change { cause: 1, write: Write::Remove(key("t-3")) },
                ]
            }
        })
    }
}
