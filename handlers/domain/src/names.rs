//! Names and aggregate ids. Compared byte for byte; nothing is trimmed or folded.

/// Kinds of aggregates.
pub const DATABASE: &str = "Database";
pub const ONTOLOGY_CLASS: &str = "OntologyClass";
pub const INSTANCE: &str = "Instance";
pub const INSTANCE_BATCH: &str = "InstanceBatch";

/// Databases and classes: a letter, then up to 62 letters, digits and underscores.
pub fn is_name(text: &str) -> bool {
    bounded(text, 63, |byte| byte.is_ascii_alphabetic(), |byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Properties and predicates: as a class, and they may begin with an underscore and hold hyphens.
pub fn is_field(text: &str) -> bool {
    bounded(
        text,
        63,
        |byte| byte.is_ascii_alphabetic() || byte == b'_',
        |byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-',
    )
}

/// Instance ids: a letter or digit, then up to 254 letters, digits, dots, underscores and hyphens.
pub fn is_instance_id(text: &str) -> bool {
    bounded(
        text,
        255,
        |byte| byte.is_ascii_alphanumeric(),
        |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'),
    )
}

fn bounded(text: &str, bytes_max: usize, first: impl Fn(u8) -> bool, rest: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [head, tail @ ..] => tail.len() < bytes_max && first(*head) && tail.iter().all(|byte| rest(*byte)),
        [] => false,
    }
}

/// The aggregate id of a class.
pub fn class_id(db: &str, class: &str) -> String {
    format!("{db}:{class}")
}

/// The aggregate id of an instance.
pub fn instance_id(db: &str, class: &str, instance: &str) -> String {
    format!("{db}:{class}:{instance}")
}

/// `db:Class` in its parts.
pub fn split_class(id: &str) -> Option<(&str, &str)> {
    let (db, class) = id.split_once(':')?;
    (is_name(db) && is_name(class)).then_some((db, class))
}

/// `db:Class:rest` in its parts; what `rest` may be depends on the kind of aggregate.
pub fn split_instance(id: &str) -> Option<(&str, &str, &str)> {
    let (db, rest) = id.split_once(':')?;
    let (class, instance) = rest.split_once(':')?;
    (is_name(db) && is_name(class) && is_instance_id(instance)).then_some((db, class, instance))
}

/// A reference `Class/id` in its parts.
pub fn split_reference(text: &str) -> Option<(&str, &str)> {
    let (class, instance) = text.split_once('/')?;
    (is_name(class) && is_instance_id(instance)).then_some((class, instance))
}

/// The field of an instance's data that holds its id by convention: `product_id` for `Product`.
pub fn identifier_field(class: &str) -> String {
    format!("{}_id", class.to_ascii_lowercase())
}
