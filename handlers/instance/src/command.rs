//! The commands of instances, as the HTTP interface and other clients send them.

use crate::Target;
use carryall_sdk::Problem;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The names may be left out, since the command's target has them; given, they must agree with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteInstance {
    pub db_name: Option<String>,
    pub class_id: Option<String>,
    pub instance_id: Option<String>,
    pub data: Map<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteInstance {
    pub db_name: Option<String>,
    pub class_id: Option<String>,
    pub instance_id: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateBatch {
    pub db_name: Option<String>,
    pub class_id: Option<String>,
    /// The data of each instance.
    pub instances: Vec<Map<String, Value>>,
}

impl Command {
    /// The problem when the payload names another target than the command.
    pub(crate) fn mismatch(&self, target: Target<'_>) -> Option<Problem> {
        let (db_name, class_id, instance_id) = match self {
            Self::Create(write) | Self::Update(write) => (&write.db_name, &write.class_id, &write.instance_id),
            Self::Delete(delete) => (&delete.db_name, &delete.class_id, &delete.instance_id),
            Self::CreateBatch(batch) => (&batch.db_name, &batch.class_id, &None),
        };
        [
            ("/db_name", db_name, target.db),
            ("/class_id", class_id, target.class),
            ("/instance_id", instance_id, target.id),
        ]
        .into_iter()
        .find(|(_, given, wanted)| given.as_ref().is_some_and(|given| given != wanted))
        .map(|(at, _, wanted)| Problem::new("target-mismatch", format!("the command's target says {wanted}")).at(at))
    }
}

carryall_sdk::messages! {
    pub enum Command {
        "CREATE_INSTANCE" "1.0.0" => Create(WriteInstance),
        "UPDATE_INSTANCE" "1.0.0" => Update(WriteInstance),
        "DELETE_INSTANCE" "1.0.0" => Delete(DeleteInstance),
        "BULK_CREATE_INSTANCES" "1.0.0" => CreateBatch(CreateBatch),
    }
}
