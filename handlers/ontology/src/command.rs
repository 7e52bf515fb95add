//! The commands of databases and classes, as clients send them.

use carryall_domain::class::Class;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The name may be left out: the command's target has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateDatabase {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeleteDatabase {
    pub name: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeleteClass {
    pub id: Option<String>,
}

/// A class object with fields beside it: what the sender wants, and what the read model adds to a class. The
/// latter is taken and dropped, so that a class can be read, changed and sent back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct DefineClass {
    pub class: Class,
    pub allow_breaking: bool,
    pub db_name: Option<String>,
}

impl TryFrom<Map<String, Value>> for DefineClass {
    type Error = serde_json::Error;

    fn try_from(mut fields: Map<String, Value>) -> Result<Self, Self::Error> {
        let mut take = |name: &str| fields.remove(name).unwrap_or(Value::Null);
        let allow_breaking = serde_json::from_value::<Option<bool>>(take("allow_breaking"))?.unwrap_or(false);
        let db_name = serde_json::from_value(take("db_name"))?;
        take("sequence_number");
        Ok(Self { class: serde_json::from_value(Value::Object(fields))?, allow_breaking, db_name })
    }
}

impl From<DefineClass> for Map<String, Value> {
    fn from(definition: DefineClass) -> Self {
        let class = serde_json::to_value(definition.class).expect("a class has string keys only");
        let mut fields = match class {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        if definition.allow_breaking {
            fields.insert("allow_breaking".into(), Value::Bool(true));
        }
        if let Some(db_name) = definition.db_name {
            fields.insert("db_name".into(), Value::String(db_name));
        }
        fields
    }
}

carryall_sdk::messages! {
    pub enum Command {
        "CREATE_DATABASE" "1.0.0" => CreateDatabase(CreateDatabase),
        "DELETE_DATABASE" "1.0.0" => DeleteDatabase(DeleteDatabase),
        "CREATE_ONTOLOGY_CLASS" "1.0.0" => CreateClass(DefineClass),
        "UPDATE_ONTOLOGY_CLASS" "1.0.0" => UpdateClass(DefineClass),
        "DELETE_ONTOLOGY_CLASS" "1.0.0" => DeleteClass(DeleteClass),
    }
}
