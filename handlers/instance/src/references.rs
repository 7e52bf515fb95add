//! What a write must read, and whether its references point to something of the right class.

use crate::Target;
use carryall_domain::class::ValueType;
use carryall_domain::events::InstanceWritten;
use carryall_domain::lineage::Lineage;
use carryall_domain::names::{INSTANCE, ONTOLOGY_CLASS, class_id, instance_id, split_reference};
use carryall_sdk::json::pointer;
use carryall_sdk::{Aggregate, Context, Fault, Problem, Reads};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The host's bound on what one decision reads.
pub const READS_MAX: usize = 64;
/// References one command may add: with the classes that judge them they stay below `READS_MAX`.
const ADDED_MAX: usize = 40;

/// A reference in the data, and what the class says it must point to; a link points to any class.
struct Reference<'a> {
    at: String,
    class: &'a str,
    instance: &'a str,
    target: Option<String>,
}

/// The class with all above it, and for each reference that `before` does not have the instance and, where it is of
/// another class than the relationship names, the classes above that.
pub(crate) fn wanted(
    target: Target<'_>,
    have: &Reads,
    data: &Map<String, Value>,
    before: Option<&InstanceWritten>,
) -> Result<Vec<Aggregate>, Fault> {
    let lineage = Lineage::walk(have, target.db, target.class, None)?;
    let mut wanted = lineage.wanted(target.db);
    wanted.extend(read_classes(target.db, &lineage));
    for reference in added(&lineage, data, before)? {
        if reference.class == target.class && reference.instance == target.id {
            continue;
        }
        wanted.push(Aggregate::new(INSTANCE, instance_id(target.db, reference.class, reference.instance)));
        if reference.target.as_deref().is_some_and(|wanted| wanted != reference.class) {
            let above = Lineage::walk(have, target.db, reference.class, None)?;
            wanted.extend(above.wanted(target.db));
            wanted.extend(read_classes(target.db, &above));
        }
    }
    Ok(wanted)
}

/// What was read is asked for again: the answer of a round then is what the decision rests on.
fn read_classes(db: &str, lineage: &Lineage) -> Vec<Aggregate> {
    lineage.classes.iter().map(|class| Aggregate::new(ONTOLOGY_CLASS, class_id(db, &class.class_id))).collect()
}

/// The problems of references that `before` did not have.
pub(crate) fn check(
    context: &Context,
    lineage: &Lineage,
    target: Target<'_>,
    data: &Map<String, Value>,
    before: Option<&InstanceWritten>,
) -> Result<Vec<Problem>, Fault> {
    let added = added(lineage, data, before)?;
    if added.len() > ADDED_MAX {
        let message = format!("one command adds at most {ADDED_MAX} references; add the others with updates");
        return Ok(vec![Problem::new("too-many-references", message)]);
    }
    let mut problems = Vec::new();
    for reference in &added {
        problems.extend(check_one(context, lineage, target, reference)?);
    }
    Ok(problems)
}

/// The references of the data that `before` does not have, under whatever predicate.
fn added<'a>(
    lineage: &Lineage,
    data: &'a Map<String, Value>,
    before: Option<&InstanceWritten>,
) -> Result<Vec<Reference<'a>>, Fault> {
    let mut all = references(lineage, data);
    if let Some(before) = before {
        let known: BTreeSet<(&str, &str)> =
            references(lineage, before.data.map()?).iter().map(|known| (known.class, known.instance)).collect();
        all.retain(|reference| !known.contains(&(reference.class, reference.instance)));
    }
    Ok(all)
}

fn check_one(
    context: &Context,
    lineage: &Lineage,
    target: Target<'_>,
    reference: &Reference<'_>,
) -> Result<Option<Problem>, Fault> {
    let Reference { at, class, instance, target: wanted } = reference;
    let is_self = *class == target.class && *instance == target.id;
    let id = instance_id(target.db, class, instance);
    if !is_self && !context.reads.contains(INSTANCE, &id) {
        let message = "this needs more reads than one decision may do";
        return Ok(Some(Problem::new("too-many-references", message).at(at)));
    }
    if !is_self && !context.reads.exists(INSTANCE, &id) {
        return Ok(Some(Problem::new("reference-not-found", format!("{class}/{instance} does not exist")).at(at)));
    }
    let fits = match wanted {
        None => true,
        Some(wanted) if wanted == class => true,
        Some(wanted) if is_self => lineage.contains(wanted),
        Some(wanted) => Lineage::walk(&context.reads, target.db, class, None)?.contains(wanted),
    };
    Ok((!fits).then(|| {
        let message = format!("{class} is neither {} nor a class below it", wanted.as_deref().unwrap_or_default());
        Problem::new("reference-wrong-class", message).at(at)
    }))
}

/// Every well-formed reference of the data, as far as the classes read so far can tell.
fn references<'a>(lineage: &Lineage, data: &'a Map<String, Value>) -> Vec<Reference<'a>> {
    let mut all = Vec::new();
    for (field, value) in data {
        let at = || pointer("/data", field);
        if let Some(property) = lineage.property(field) {
            if property.value_type == ValueType::Link {
                all.extend(reference(value, at(), None));
            }
        } else if let Some(relationship) = lineage.relationship(field) {
            let (wanted, at) = (&relationship.target, at());
            match value {
                Value::Array(elements) => {
                    for (index, element) in elements.iter().enumerate() {
                        all.extend(reference(element, format!("{at}/{index}"), Some(wanted.clone())));
                    }
                }
                value => all.extend(reference(value, at, Some(wanted.clone()))),
            }
        }
    }
    all
}

fn reference(value: &Value, at: String, target: Option<String>) -> Option<Reference<'_>> {
    let (class, instance) = split_reference(value.as_str()?)?;
    Some(Reference { at, class, instance, target })
}
