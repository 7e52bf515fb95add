//! What the deployment history holds: the data of the events of a `Handler` stream. These shapes are stored for ever:
//! fields are added, never renamed or reused, and everything that reads them accepts fields it does not know (I9).

use serde::{Deserialize, Serialize};

use crate::domain::Digest;
use crate::sandbox;

/// Type of the aggregates whose streams are the deployment history; the id is the handler's name.
pub const AGGREGATE_TYPE: &str = "Handler";
/// Topic of the deployment history.
pub const TOPIC: &str = "handler_events";
/// Version of the data shapes below.
pub const SCHEMA_VERSION: &str = "1.0.0";

/// A component was stored and found fit to be activated some day.
pub const UPLOADED: &str = "HANDLER_UPLOADED";
/// A version was checked against history.
pub const VERIFIED: &str = "HANDLER_VERIFIED";
/// A version decides from here on; the one before it is retired.
pub const ACTIVATED: &str = "HANDLER_ACTIVATED";

/// An operator wants all that a projection writes written anew.
pub const REBUILD_ASKED: &str = "HANDLER_REBUILD_ASKED";

/// Data of [`UPLOADED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    pub digest: Digest,
    pub version: String,
    /// The WIT world, such as `instance-handler`.
    pub world: String,
    /// Size of the component in bytes.
    pub bytes: u64,
    pub manifest: Manifest,
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// Data of [`VERIFIED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    pub digest: Digest,
    /// Whether nothing speaks against the activation.
    pub green: bool,
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// Data of [`ACTIVATED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    pub digest: Digest,
    /// How many activations the handler has had, this one included.
    pub revision: u64,
    /// Whether it went ahead without a green verification report.
    #[serde(default)]
    pub forced: bool,
    #[serde(default)]
    pub reason: Option<String>,
    /// The digest that was active until now.
    #[serde(default)]
    pub previous: Option<Digest>,
}

/// Data of [`REBUILD_ASKED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildAsked {
    #[serde(default)]
    pub reason: Option<String>,
}

/// What a component says about itself, as far as deployment decides by it. Schemas and mappings stay in the component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Aggregate types it decides for, or (projections) reads.
    #[serde(default)]
    pub kinds: Vec<String>,
    #[serde(default)]
    pub commands: Vec<Contract>,
    #[serde(default)]
    pub emits: Vec<Contract>,
    #[serde(default)]
    pub folds: Vec<Contract>,
    #[serde(default)]
    pub state: Option<Contract>,
    /// States of other aggregates that it understands; the name is the aggregate type.
    #[serde(default)]
    pub reads: Vec<Contract>,
    #[serde(default)]
    pub ordering: String,
    #[serde(default)]
    pub collections: Vec<Collection>,
    #[serde(default)]
    pub labels: Vec<(String, String)>,
}

/// A named shape and the versions of it that are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    pub name: String,
    #[serde(default)]
    pub versions: Vec<String>,
}

/// A collection that a projection writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Collection {
    pub name: String,
    #[serde(default)]
    pub revision: u32,
}

/// Something an operator should know about a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name in snake_case.
    pub code: String,
    pub message: String,
    /// JSON pointer into the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

impl Finding {
    pub(super) fn new(code: &str, message: String) -> Finding {
        Finding { code: code.into(), message, pointer: None }
    }

    pub(super) fn at(self, pointer: String) -> Finding {
        Finding { pointer: Some(pointer), ..self }
    }
}

impl From<&sandbox::Description> for Manifest {
    fn from(description: &sandbox::Description) -> Self {
        let contract = |contract: &sandbox::Contract| Contract {
            name: contract.name.clone(),
            versions: contract.versions.iter().map(ToString::to_string).collect(),
        };
        let contracts = |list: &[sandbox::Contract]| list.iter().map(contract).collect();
        Manifest {
            kinds: description.kinds.iter().map(ToString::to_string).collect(),
            commands: contracts(&description.commands),
            emits: contracts(&description.emits),
            folds: contracts(&description.folds),
            state: description.state.as_ref().map(contract),
            reads: contracts(&description.reads),
            ordering: match description.ordering {
                sandbox::Ordering::Aggregate => "aggregate".into(),
                sandbox::Ordering::Partition => "partition".into(),
            },
            collections: collections(description),
            labels: description.labels.clone(),
        }
    }
}

/// The collections that a component writes.
pub fn collections(description: &sandbox::Description) -> Vec<Collection> {
    description.collections.iter().map(|c| Collection { name: c.name.clone(), revision: c.revision }).collect()
}
