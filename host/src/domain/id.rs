//! Identifiers, parsed once at the edge. Every value of these types satisfies the rules of contract §1.

use std::fmt;
use std::sync::Arc;

/// Why a text is no identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {got:?} is not allowed: it must be {rule}")]
pub struct IdError {
    /// Which identifier: `aggregate_type`, `aggregate_id`, `db_name`, `class_id`, `instance_id`.
    pub what: &'static str,
    /// The text refused, cut to 80 characters.
    pub got: String,
    /// What would have been allowed, in words.
    pub rule: &'static str,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the text as it is, byte for byte.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let check: fn(&[u8]) -> bool = $check;
                if check(text.as_bytes()) {
                    Ok(Self(text.into()))
                } else {
                    Err(IdError { what: $what, got: text.chars().take(80).collect(), rule: $rule })
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

fn starts(bytes: &[u8], first: fn(&u8) -> bool, rest: fn(&u8) -> bool, rest_max: usize) -> bool {
    bytes.split_first().is_some_and(|(head, tail)| first(head) && tail.len() <= rest_max && tail.iter().all(rest))
}

fn is_name(bytes: &[u8]) -> bool {
    starts(bytes, u8::is_ascii_alphabetic, |b| b.is_ascii_alphanumeric() || *b == b'_', 62)
}

identifier! {
    /// Type of an aggregate, such as `Instance`.
    AggregateType, "aggregate_type", "an upper-case letter and at most 62 letters or digits after it",
    |b| starts(b, u8::is_ascii_uppercase, u8::is_ascii_alphanumeric, 62)
}
identifier! {
    /// Id of an aggregate within its type. Bundled types have narrower rules, see [`Aggregate::parse`].
    AggregateId, "aggregate_id", "1 to 512 bytes of UTF-8 without control characters",
    |b| !b.is_empty() && b.len() <= 512
        && std::str::from_utf8(b).is_ok_and(|text| !text.chars().any(char::is_control))
}
identifier! {
    /// Name of a database.
    DatabaseName, "db_name", "a letter and at most 62 letters, digits or underscores after it", is_name
}
identifier! {
    /// Name of a class within a database.
    ClassName, "class_id", "a letter and at most 62 letters, digits or underscores after it", is_name
}
identifier! {
    /// Id of an instance within a class.
    InstanceId, "instance_id",
    "a letter or digit and at most 254 letters, digits, dots, underscores or hyphens after it",
    |b| starts(b, u8::is_ascii_alphanumeric, |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'), 254)
}

/// A stream of events: one aggregate.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregate {
    pub kind: AggregateType,
    pub id: AggregateId,
}

impl Aggregate {
    /// Parses both parts, with the narrower rules of the bundled types (`Database`, `OntologyClass`, `Instance`,
    /// `InstanceBatch`).
    pub fn parse(kind: &str, id: &str) -> Result<Self, IdError> {
        let kind = AggregateType::parse(kind)?;
        let parts: Vec<&str> = id.splitn(3, ':').collect();
        match (kind.as_str(), parts.as_slice()) {
            ("Database", [db]) => {
                DatabaseName::parse(db)?;
            }
            ("OntologyClass", [db, class]) => {
                DatabaseName::parse(db)?;
                ClassName::parse(class)?;
            }
            ("Instance" | "InstanceBatch", [db, class, instance]) => {
                DatabaseName::parse(db)?;
                ClassName::parse(class)?;
                InstanceId::parse(instance)?;
            }
            ("Database", _) => return Err(shape(id, "`db`")),
            ("OntologyClass", _) => return Err(shape(id, "`db:Class`")),
            ("Instance", _) => return Err(shape(id, "`db:Class:instance_id`")),
            ("InstanceBatch", _) => return Err(shape(id, "`db:Class:command_id`")),
            _ => {}
        }
        Ok(Aggregate { kind, id: AggregateId::parse(id)? })
    }

    /// The database this aggregate belongs to, for the bundled types.
    pub fn database(&self) -> Option<&str> {
        match self.kind.as_str() {
            "Database" | "OntologyClass" | "Instance" | "InstanceBatch" => self.id.as_str().split(':').next(),
            _ => None,
        }
    }
}

fn shape(id: &str, rule: &'static str) -> IdError {
    IdError { what: "aggregate_id", got: id.chars().take(80).collect(), rule }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}

impl fmt::Debug for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Topic that carries the commands of an aggregate type.
pub fn command_topic(kind: &AggregateType) -> String {
    format!("{}_commands", topic_stem(kind))
}

/// Topic that carries the domain events of an aggregate type.
pub fn event_topic(kind: &AggregateType) -> String {
    format!("{}_events", topic_stem(kind))
}

fn topic_stem(kind: &AggregateType) -> String {
    match kind.as_str() {
        "Instance" | "InstanceBatch" => "instance".into(),
        "OntologyClass" => "ontology".into(),
        other => snake_case(other),
    }
}

/// `BankAccount` → `bank_account`.
pub fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (index, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
