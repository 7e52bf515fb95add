//! The data of the events of databases, classes and instances. Several handlers read what one of them writes.

use crate::class::Class;
use crate::data::Data;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatabaseCreated {
    pub name: String,
    pub description: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatabaseDeleted {
    pub name: String,
}

/// Data of ONTOLOGY_CLASS_CREATED and ONTOLOGY_CLASS_UPDATED: the whole definition after the command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassDefined {
    pub db_name: String,
    pub class_id: String,
    pub class: Class,
    /// The classes above, nearest first, as they were when this was decided: a hint of what to read, never a
    /// truth, since any of them may have got another parent since.
    pub ancestors: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassDeleted {
    pub db_name: String,
    pub class_id: String,
}

/// Data of INSTANCE_CREATED and INSTANCE_UPDATED: the whole instance after the command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceWritten {
    pub db_name: String,
    pub class_id: String,
    pub instance_id: String,
    pub data: Data,
    /// The references of `data` by predicate, so that nobody needs the class to tell them from properties. A
    /// predicate that once had references stays, with an empty list.
    pub relationships: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceDeleted {
    pub db_name: String,
    pub class_id: String,
    pub instance_id: String,
    /// The predicates that had references, so that a graph knows which edges end.
    pub predicates: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchAccepted {
    pub db_name: String,
    pub class_id: String,
    pub count: u64,
    pub instance_ids: Vec<String>,
}

carryall_sdk::messages! {
    pub enum OntologyEvent {
        "DATABASE_CREATED" "1.0.0" => DatabaseCreated(DatabaseCreated),
        "DATABASE_DELETED" "1.0.0" => DatabaseDeleted(DatabaseDeleted),
        "ONTOLOGY_CLASS_CREATED" "1.0.0" => ClassCreated(ClassDefined),
        "ONTOLOGY_CLASS_UPDATED" "1.0.0" => ClassUpdated(ClassDefined),
        "ONTOLOGY_CLASS_DELETED" "1.0.0" => ClassDeleted(ClassDeleted),
    }
}

carryall_sdk::messages! {
    pub enum InstanceEvent {
        "INSTANCE_CREATED" "1.0.0" => Created(InstanceWritten),
        "INSTANCE_UPDATED" "1.0.0" => Updated(InstanceWritten),
        "INSTANCE_DELETED" "1.0.0" => Deleted(InstanceDeleted),
        "INSTANCE_BATCH_ACCEPTED" "1.0.0" => BatchAccepted(BatchAccepted),
    }
}
