//! A class definition: what its instances may look like. The JSON form is the one clients send and read.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

/// Unknown fields are refused: a misspelt `requird` must not silently mean "optional".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    #[serde(default)]
    pub id: String,
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub parent: Option<String>,
    /// No instance can be made of an abstract class, only of its subclasses.
    #[serde(default, rename = "abstract")]
    pub is_abstract: bool,
    #[serde(default)]
    pub properties: Vec<Property>,
    #[serde(default)]
    pub relationships: Vec<Relationship>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Property {
    pub name: String,
    #[serde(rename = "type")]
    pub value_type: ValueType,
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub required: bool,
    /// Filled in when an instance is created without the property. Null is none.
    #[serde(default)]
    pub default: Option<Value>,
    #[serde(default)]
    pub constraints: Constraints,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    String,
    Text,
    Integer,
    Long,
    Float,
    Double,
    Decimal,
    Boolean,
    Date,
    Datetime,
    Uuid,
    Email,
    Url,
    Enum,
    Array,
    Object,
    Json,
    Link,
}

impl ValueType {
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Decimal => "decimal",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Datetime => "datetime",
            Self::Uuid => "uuid",
            Self::Email => "email",
            Self::Url => "url",
            Self::Enum => "enum",
            Self::Array => "array",
            Self::Object => "object",
            Self::Json => "json",
            Self::Link => "link",
        }
    }

    pub fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Long | Self::Float | Self::Double | Self::Decimal)
    }

    /// Types whose values are texts with a length and a pattern.
    pub fn is_text(self) -> bool {
        matches!(self, Self::String | Self::Text | Self::Email | Self::Url)
    }
}

/// What a value must keep to, besides its type. An absent constraint is not written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraints {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Number>,
    /// Characters of a text, or elements of an array.
    #[serde(default, rename = "minLength", skip_serializing_if = "Option::is_none")]
    pub length_min: Option<u64>,
    #[serde(default, rename = "maxLength", skip_serializing_if = "Option::is_none")]
    pub length_max: Option<u64>,
    /// Found anywhere in the text, as in JSON Schema; anchor it with `^` and `$`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    #[serde(default, rename = "enum", skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Vec<Value>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relationship {
    pub predicate: String,
    pub target: String,
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
    pub cardinality: Cardinality,
    #[serde(default)]
    pub inverse: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cardinality {
    #[serde(rename = "1:1")]
    OneToOne,
    #[serde(rename = "1:n")]
    OneToMany,
    #[serde(rename = "n:1")]
    ManyToOne,
    #[serde(rename = "n:m")]
    ManyToMany,
}

impl Cardinality {
    /// Whether an instance holds a list of references instead of one.
    pub fn is_list(self) -> bool {
        matches!(self, Self::OneToMany | Self::ManyToMany)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::OneToOne => "1:1",
            Self::OneToMany => "1:n",
            Self::ManyToOne => "n:1",
            Self::ManyToMany => "n:m",
        }
    }
}
