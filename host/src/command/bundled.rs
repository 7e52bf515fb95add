//! The commands that the typed routes stand for: databases, classes, instances (contract §2). Pure. Puts ids from the
//! route into the payload and never looks into what the client says about its data: whether it fits is the handler's.

use serde_json::value::RawValue;
use uuid::Uuid;

use super::Error;
use crate::codec::json::Json;
use crate::domain::{Aggregate, ClassName, DatabaseName, InstanceId};

/// What a typed route asks for.
#[derive(Debug, Clone)]
pub struct Bundled {
    pub command_type: &'static str,
    pub aggregate: Aggregate,
    pub payload: Json,
}

/// `CREATE_DATABASE` with the body as its payload.
pub fn create_database(db: &DatabaseName, body: &str) -> Result<Bundled, Error> {
    bundled("CREATE_DATABASE", "Database", db.as_str(), body)
}

/// `DELETE_DATABASE`.
pub fn delete_database(db: &DatabaseName) -> Result<Bundled, Error> {
    bundled("DELETE_DATABASE", "Database", db.as_str(), &format!(r#"{{"name":"{db}"}}"#))
}

/// `CREATE_ONTOLOGY_CLASS` with the class as its payload.
pub fn create_class(db: &DatabaseName, class: &ClassName, body: &str) -> Result<Bundled, Error> {
    bundled("CREATE_ONTOLOGY_CLASS", "OntologyClass", &class_key(db, class), body)
}

/// `UPDATE_ONTOLOGY_CLASS` with the class (and `allow_breaking`) as its payload.
pub fn update_class(db: &DatabaseName, class: &ClassName, body: &str) -> Result<Bundled, Error> {
    bundled("UPDATE_ONTOLOGY_CLASS", "OntologyClass", &class_key(db, class), body)
}

/// `DELETE_ONTOLOGY_CLASS`.
pub fn delete_class(db: &DatabaseName, class: &ClassName) -> Result<Bundled, Error> {
    bundled("DELETE_ONTOLOGY_CLASS", "OntologyClass", &class_key(db, class), &format!(r#"{{"id":"{class}"}}"#))
}

/// One instance of one class of one database.
#[derive(Debug, Clone)]
pub struct InstanceKey {
    pub db: DatabaseName,
    pub class: ClassName,
    pub instance: InstanceId,
}

impl InstanceKey {
    /// Parses the parts of a route.
    pub fn parse(db: &str, class: &str, instance: &str) -> Result<InstanceKey, Error> {
        Ok(InstanceKey {
            db: DatabaseName::parse(db)?,
            class: ClassName::parse(class)?,
            instance: InstanceId::parse(instance)?,
        })
    }

    fn id(&self) -> String {
        format!("{}:{}:{}", self.db, self.class, self.instance)
    }

    // Identifiers hold nothing that JSON would escape.
    fn members(&self) -> String {
        format!(r#""db_name":"{}","class_id":"{}","instance_id":"{}""#, self.db, self.class, self.instance)
    }
}

/// `CREATE_INSTANCE`.
pub fn create_instance(key: &InstanceKey, data: &RawValue) -> Result<Bundled, Error> {
    with_data("CREATE_INSTANCE", key, data)
}

/// `UPDATE_INSTANCE`.
pub fn update_instance(key: &InstanceKey, data: &RawValue) -> Result<Bundled, Error> {
    with_data("UPDATE_INSTANCE", key, data)
}

/// `DELETE_INSTANCE`.
pub fn delete_instance(key: &InstanceKey) -> Result<Bundled, Error> {
    bundled("DELETE_INSTANCE", "Instance", &key.id(), &format!("{{{}}}", key.members()))
}

/// `BULK_CREATE_INSTANCES`: the batch is named by its command.
pub fn bulk_create(
    db: &DatabaseName,
    class: &ClassName,
    instances: &RawValue,
    command_id: Uuid,
) -> Result<Bundled, Error> {
    if !instances.get().starts_with('[') {
        return Err(Error::Field { field: "instances", reason: "it must be a list of objects".into() });
    }
    let payload = format!(r#"{{"db_name":"{db}","class_id":"{class}","instances":{}}}"#, instances.get());
    bundled("BULK_CREATE_INSTANCES", "InstanceBatch", &format!("{db}:{class}:{command_id}"), &payload)
}

fn with_data(command_type: &'static str, key: &InstanceKey, data: &RawValue) -> Result<Bundled, Error> {
    if !data.get().starts_with('{') {
        return Err(Error::Field { field: "data", reason: "it must be a JSON object".into() });
    }
    let payload = format!(r#"{{{},"data":{}}}"#, key.members(), data.get());
    bundled(command_type, "Instance", &key.id(), &payload)
}

fn class_key(db: &DatabaseName, class: &ClassName) -> String {
    format!("{db}:{class}")
}

fn bundled(command_type: &'static str, kind: &str, id: &str, payload: &str) -> Result<Bundled, Error> {
    Ok(Bundled { command_type, aggregate: Aggregate::parse(kind, id)?, payload: Json::parse(payload.as_bytes())? })
}
