//! The state of an instance or of a batch.

use carryall_domain::data::Data;
use carryall_domain::events::{BatchAccepted, InstanceWritten};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Written without a tag, since readers know the kind of the aggregate. Read through one struct of all fields:
/// trying one shape after the other would hold every state in memory twice, on the path of every command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, try_from = "Fields")]
pub enum State {
    Instance(InstanceWritten),
    Batch(BatchAccepted),
}

#[derive(Deserialize)]
struct Fields {
    db_name: String,
    class_id: String,
    instance_id: Option<String>,
    data: Option<Data>,
    relationships: Option<BTreeMap<String, Vec<String>>>,
    count: Option<u64>,
    instance_ids: Option<Vec<String>>,
}

impl TryFrom<Fields> for State {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        let Fields { db_name, class_id, instance_id, data, relationships, count, instance_ids } = fields;
        match (instance_id, data, relationships, count, instance_ids) {
            (Some(instance_id), Some(data), Some(relationships), None, None) => {
                Ok(Self::Instance(InstanceWritten { db_name, class_id, instance_id, data, relationships }))
            }
            (None, None, None, Some(count), Some(instance_ids)) => {
                Ok(Self::Batch(BatchAccepted { db_name, class_id, count, instance_ids }))
            }
            _ => Err("neither an instance nor a batch"),
        }
    }
}
