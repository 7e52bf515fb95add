//! Many instances in one command: the batch is accepted, and each row becomes a command of its own, decided and
//! reported by itself.

use crate::command::CreateBatch;
use crate::{Target, refuse};
use carryall_domain::events::{BatchAccepted, InstanceEvent as Event};
use carryall_domain::names::{
    DATABASE, INSTANCE, ONTOLOGY_CLASS, class_id, identifier_field, instance_id, is_instance_id,
};
use carryall_sdk::ids::{derived, issued_command};
use carryall_sdk::json::{self, pointer};
use carryall_sdk::{Aggregate, Context, Decision, Fault, NewCommand, Problem};
use serde::Serialize;
use serde_json::{Map, Value};

/// Each row is an event of its own in the log; more of them belong into several batches.
pub const ROWS_MAX: usize = 1_000;

/// The payload of one row's CREATE_INSTANCE.
#[derive(Serialize)]
struct Row<'a> {
    db_name: &'a str,
    class_id: &'a str,
    instance_id: &'a str,
    data: &'a Map<String, Value>,
}

/// The class is looked at once before there are a thousand refusals; its parents wait for the rows.
pub(crate) fn wanted(target: Target<'_>) -> Vec<Aggregate> {
    vec![Aggregate::new(DATABASE, target.db), Aggregate::new(ONTOLOGY_CLASS, class_id(target.db, target.class))]
}

pub(crate) fn decide(
    context: &Context,
    target: Target<'_>,
    command_id: &str,
    batch: &CreateBatch,
) -> Result<Decision<Event>, Fault> {
    if batch.instances.is_empty() {
        return Ok(Decision::reject(Problem::new("batch-empty", "a batch has at least one row").at("/instances")));
    }
    if batch.instances.len() > ROWS_MAX {
        let message = format!("a batch has at most {ROWS_MAX} rows");
        return Ok(Decision::reject(Problem::new("batch-too-large", message).at("/instances")));
    }
    if !context.reads.exists(DATABASE, target.db) {
        return Ok(refuse("unknown-database", "create the database first"));
    }
    if !context.reads.exists(ONTOLOGY_CLASS, &class_id(target.db, target.class)) {
        return Ok(refuse("unknown-class", &format!("there is no class {}", target.class)));
    }
    let mut commands = Vec::with_capacity(batch.instances.len());
    let mut instance_ids = Vec::with_capacity(batch.instances.len());
    for (index, data) in batch.instances.iter().enumerate() {
        let id = match id_of_row(target.class, data, || issued_command(command_id, index)) {
            Ok(id) => id,
            Err((field, message)) => {
                let at = pointer(&format!("/instances/{index}"), &field);
                return Ok(Decision::reject(Problem::new("invalid-instance-id", message).at(at)));
            }
        };
        let row = Row { db_name: target.db, class_id: target.class, instance_id: &id, data };
        commands.push(NewCommand {
            name: "CREATE_INSTANCE".into(),
            target: Aggregate::new(INSTANCE, instance_id(target.db, target.class, &id)),
            expected_seq: None,
            payload: json::write(&row)?,
            headers: Vec::new(),
        });
        instance_ids.push(id);
    }
    let event = Event::BatchAccepted(BatchAccepted {
        db_name: target.db.into(),
        class_id: target.class.into(),
        count: instance_ids.len() as u64,
        instance_ids,
    });
    Ok(Decision::Accepted { events: vec![event], commands })
}

/// The rule of the HTTP interface for a single create: `<class>_id`, else the first other field that ends in
/// `_id` in byte order, else derived from the command's id. A field that is null names nothing.
fn id_of_row(
    class: &str,
    data: &Map<String, Value>,
    command_id: impl Fn() -> String,
) -> Result<String, (String, String)> {
    let identifier = identifier_field(class);
    let names = |field: &&String| data.get(*field).is_some_and(|value| !value.is_null());
    let others = || data.keys().filter(|key| key.ends_with("_id")).find(names);
    let field = Some(&identifier).filter(names).or_else(others);
    let Some(field) = field else {
        return Ok(derived(&format!("carryall:{}:instance", command_id())));
    };
    let id = match &data[field] {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return Err((field.clone(), format!("`{field}` must be a string or a whole number"))),
    };
    if !is_instance_id(&id) {
        return Err((field.clone(), format!("`{id}` is no instance id")));
    }
    Ok(id)
}
