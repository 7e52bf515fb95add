//! The read model of databases, classes and instances: a document of each, and a light graph of the instances.
//!
//! Nodes carry their class and id, edges their predicate, nothing else: what an instance holds is in its
//! document. Every write belongs to the aggregate of its event.

use carryall_domain::class::Class;
use carryall_domain::data::Data;
use carryall_domain::events::{
    BatchAccepted, ClassDefined, ClassDeleted, DatabaseCreated, DatabaseDeleted, InstanceDeleted, InstanceWritten,
};
use carryall_domain::names::{DATABASE, INSTANCE, INSTANCE_BATCH, ONTOLOGY_CLASS, instance_id, split_reference};
use carryall_sdk::prelude::*;
use serde::{Deserialize, Serialize};

const DATABASES: &str = "databases";
const CLASSES: &str = "classes";
const INSTANCES: &str = "instances";

carryall_sdk::messages! {
    pub enum Event {
        "DATABASE_CREATED" "1.0.0" => DatabaseCreated(DatabaseCreated),
        "DATABASE_DELETED" "1.0.0" => DatabaseDeleted(DatabaseDeleted),
        "ONTOLOGY_CLASS_CREATED" "1.0.0" => ClassCreated(ClassDefined),
        "ONTOLOGY_CLASS_UPDATED" "1.0.0" => ClassUpdated(ClassDefined),
        "ONTOLOGY_CLASS_DELETED" "1.0.0" => ClassDeleted(ClassDeleted),
        "INSTANCE_CREATED" "1.0.0" => InstanceCreated(InstanceWritten),
        "INSTANCE_UPDATED" "1.0.0" => InstanceUpdated(InstanceWritten),
        "INSTANCE_DELETED" "1.0.0" => InstanceDeleted(InstanceDeleted),
        "INSTANCE_BATCH_ACCEPTED" "1.0.0" => BatchAccepted(BatchAccepted),
    }
}

#[derive(Serialize)]
struct DatabaseDocument<'a> {
    name: &'a str,
    description: Option<&'a str>,
    sequence_number: u64,
    created_at: String,
}

/// The class object itself, with where it belongs and its version.
#[derive(Serialize)]
struct ClassDocument<'a> {
    db_name: &'a str,
    sequence_number: u64,
    #[serde(flatten)]
    class: &'a Class,
}

#[derive(Serialize)]
struct InstanceDocument<'a> {
    instance_id: &'a str,
    class_id: &'a str,
    db_name: &'a str,
    data: &'a Data,
    sequence_number: u64,
    created_at: &'a str,
    updated_at: &'a str,
}

/// What is kept of the document before.
#[derive(Deserialize)]
struct Earlier {
    created_at: String,
}

pub struct Projection;

impl ProjectionHandler for Projection {
    type Event = Event;

    fn manifest() -> Manifest {
        Manifest::new("projection", env!("CARGO_PKG_VERSION"))
            .kind(INSTANCE)
            .kind(INSTANCE_BATCH)
            .kind(ONTOLOGY_CLASS)
            .kind(DATABASE)
            .collection(INSTANCES, 1)
            .collection(CLASSES, 1)
            .collection(DATABASES, 1)
    }

    fn needs(event: &Recorded<Event>) -> Result<Vec<DocKey>, Fault> {
        Ok(match &event.body {
            Event::InstanceUpdated(_) => vec![DocKey::new(INSTANCES, &event.source.id)],
            _ => Vec::new(),
        })
    }

    fn project(event: &Recorded<Event>, documents: &Documents) -> Result<Vec<Write>, Fault> {
        let id = &event.source.id;
        let at = event.at.to_string();
        match &event.body {
            Event::DatabaseCreated(created) => {
                let description = created.description.as_deref();
                let body =
                    DatabaseDocument { name: &created.name, description, sequence_number: event.seq, created_at: at };
                Ok(vec![Write::put(DATABASES, id, &body)?])
            }
            Event::DatabaseDeleted(_) => Ok(vec![Write::remove(DATABASES, id)]),
            Event::ClassCreated(defined) | Event::ClassUpdated(defined) => {
                let body =
                    ClassDocument { db_name: &defined.db_name, sequence_number: event.seq, class: &defined.class };
                Ok(vec![Write::put(CLASSES, id, &body)?])
            }
            Event::ClassDeleted(_) => Ok(vec![Write::remove(CLASSES, id)]),
            Event::InstanceCreated(written) => write_instance(event, written, None, &at),
            Event::InstanceUpdated(written) => {
                // Without a document this is an update delivered again after a deletion: its writes are stale,
                // and the versions of the read model keep them from taking effect.
                write_instance(event, written, documents.get(INSTANCES, id)?, &at)
            }
            Event::InstanceDeleted(deleted) => {
                let node = Node::new(&deleted.class_id, id);
                let mut writes = vec![Write::remove(INSTANCES, id), Write::RemoveNode(node.clone())];
                for predicate in &deleted.predicates {
                    let (source, predicate) = (node.clone(), predicate.clone());
                    writes.push(Write::SetEdges(Edges { source, predicate, targets: Vec::new() }));
                }
                Ok(writes)
            }
            // Its rows are events of their own instances.
            Event::BatchAccepted(_) => Ok(Vec::new()),
        }
    }
}

/// The node comes and goes with the document: where there is one, there is the other.
fn write_instance(
    event: &Recorded<Event>,
    written: &InstanceWritten,
    earlier: Option<Earlier>,
    at: &str,
) -> Result<Vec<Write>, Fault> {
    let id = &event.source.id;
    let body = InstanceDocument {
        instance_id: &written.instance_id,
        class_id: &written.class_id,
        db_name: &written.db_name,
        data: &written.data,
        sequence_number: event.seq,
        created_at: earlier.as_ref().map_or(at, |earlier| &earlier.created_at),
        updated_at: at,
    };
    let node = Node::new(&written.class_id, id);
    let mut writes = vec![Write::put(INSTANCES, id, &body)?];
    if earlier.is_none() {
        writes.push(Write::PutNode(node.clone()));
    }
    for (predicate, references) in &written.relationships {
        let targets = references
            .iter()
            .filter_map(|reference| split_reference(reference))
            .map(|(class, instance)| Node::new(class, instance_id(&written.db_name, class, instance)))
            .collect();
        writes.push(Write::SetEdges(Edges { source: node.clone(), predicate: predicate.clone(), targets }));
    }
    Ok(writes)
}

carryall_sdk::export!(projection: Projection);

#[cfg(test)]
mod tests;
