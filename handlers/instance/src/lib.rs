//! Instances of classes. A payload is judged against its class as it was read, with everything inherited, and
//! the host records at which sequence that was.
//!
//! A reference is checked when it is added: it must point to an instance that exists, of the target class or a
//! class below it. A reference that was there before is not looked at again, so that deleting one instance does
//! not block changes of those that point to it. Whether two instances share the target of a 1:1 is not seen
//! here: no decision reads all instances of a class.

mod batch;
mod check;
mod command;
mod references;
mod state;

use carryall_domain::VERSION;
use carryall_domain::data::Data;
use carryall_domain::events::{InstanceDeleted, InstanceEvent as Event, InstanceWritten};
use carryall_domain::lineage::{End, Lineage};
use carryall_domain::names::{DATABASE, INSTANCE, INSTANCE_BATCH, ONTOLOGY_CLASS, split_instance};
use carryall_sdk::json::merge_patch;
use carryall_sdk::prelude::*;
use command::{Command, WriteInstance};
use serde_json::{Map, Value};
pub use state::State;

/// `db:Class:id` of the command's target, in its parts.
#[derive(Clone, Copy)]
struct Target<'a> {
    db: &'a str,
    class: &'a str,
    id: &'a str,
}

pub struct Instance;

impl InstanceHandler for Instance {
    type State = State;
    type Command = Command;
    type Event = Event;

    fn manifest() -> Manifest {
        Manifest::new("instance", env!("CARGO_PKG_VERSION"))
            .kind(INSTANCE)
            .kind(INSTANCE_BATCH)
            .state("instance", VERSION)
            .reads(DATABASE, &[VERSION])
            .reads(ONTOLOGY_CLASS, &[VERSION])
            .reads(INSTANCE, &[VERSION])
    }

    fn needs(command: &Received<Command>, state: Option<&State>, have: &Reads) -> Result<Vec<Aggregate>, Fault> {
        let Some(target) = split(&command.target) else {
            return Ok(Vec::new());
        };
        let mut wanted = match (&command.body, state) {
            (Command::Create(write), None) => {
                let mut wanted = references::wanted(target, have, &write.data, None)?;
                wanted.push(Aggregate::new(DATABASE, target.db));
                wanted
            }
            (Command::Update(write), Some(State::Instance(before))) => {
                references::wanted(target, have, &write.data, Some(before))?
            }
            (Command::CreateBatch(_), None) => batch::wanted(target),
            _ => Vec::new(),
        };
        wanted.sort_unstable();
        wanted.dedup();
        // Asking for more than a decision may read would be a fault; `decide` refuses what was not read.
        Ok(if wanted.len() > references::READS_MAX { Vec::new() } else { wanted })
    }

    fn decide(context: &Context, state: Option<&State>, command: &Received<Command>) -> Result<Decision<Event>, Fault> {
        let kind = match command.body {
            Command::CreateBatch(_) => INSTANCE_BATCH,
            _ => INSTANCE,
        };
        let (true, Some(target)) = (command.target.kind == kind, split(&command.target)) else {
            let message = format!("{} is no target: the type is {kind} and the id db:Class:id", command.target);
            return Ok(Decision::reject(Problem::new("target-mismatch", message)));
        };
        if let Some(problem) = command.body.mismatch(target) {
            return Ok(Decision::reject(problem));
        }
        match (&command.body, state) {
            (Command::Create(write), None) => create(context, target, write),
            (Command::CreateBatch(rows), None) => batch::decide(context, target, &command.id, rows),
            (Command::Create(_) | Command::CreateBatch(_), Some(_)) => Ok(refuse("already-exists", "this id is taken")),
            (Command::Update(write), Some(State::Instance(instance))) => update(context, target, instance, write),
            (Command::Delete(_), Some(State::Instance(instance))) => {
                Ok(Decision::accept(Event::Deleted(deleted(target, instance))))
            }
            (Command::Update(_) | Command::Delete(_), None) => {
                Ok(refuse("not-found", "this instance does not exist, or not any more"))
            }
            (Command::Update(_) | Command::Delete(_), Some(State::Batch(_))) => {
                Err(Fault::new("wrong-state", format!("{} holds no instance", command.target)))
            }
        }
    }

    fn evolve(_: Option<State>, event: Recorded<Event>) -> Result<Option<State>, Fault> {
        Ok(match event.body {
            Event::Created(written) | Event::Updated(written) => Some(State::Instance(written)),
            Event::BatchAccepted(accepted) => Some(State::Batch(accepted)),
            Event::Deleted(_) => None,
        })
    }
}

fn split(target: &Aggregate) -> Option<Target<'_>> {
    split_instance(&target.id).map(|(db, class, id)| Target { db, class, id })
}

fn create(context: &Context, target: Target<'_>, write: &WriteInstance) -> Result<Decision<Event>, Fault> {
    if !context.reads.exists(DATABASE, target.db) {
        return Ok(refuse("unknown-database", "create the database first"));
    }
    let lineage = match lineage(&context.reads, target)? {
        Ok(lineage) => lineage,
        Err(problem) => return Ok(Decision::reject(problem)),
    };
    if lineage.definitions().next().is_some_and(|class| class.is_abstract) {
        return Ok(refuse("abstract-class", "an abstract class has no instances, only its subclasses have"));
    }
    // Null says "nothing here", as in an update.
    let given: Map<String, Value> = write
        .data
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let data = check::with_defaults(&lineage, given, check::Defaults::All);
    Ok(match judge(context, &lineage, target, data, None)? {
        Ok(written) => Decision::accept(Event::Created(written)),
        Err(problems) => Decision::Rejected(problems),
    })
}

fn update(
    context: &Context,
    target: Target<'_>,
    instance: &InstanceWritten,
    write: &WriteInstance,
) -> Result<Decision<Event>, Fault> {
    let lineage = match lineage(&context.reads, target)? {
        Ok(lineage) => lineage,
        Err(problem) => return Ok(Decision::reject(problem)),
    };
    let mut merged = instance.data.map()?.clone();
    merge_patch(&mut merged, &write.data);
    // A property that became required since gets its default; one that was removed on purpose does not.
    let data = check::with_defaults(&lineage, merged, check::Defaults::OfRequired);
    Ok(match judge(context, &lineage, target, data, Some(instance))? {
        Ok(written) if written == *instance => Decision::Unchanged,
        Ok(written) => Decision::accept(Event::Updated(written)),
        Err(problems) => Decision::Rejected(problems),
    })
}

fn deleted(target: Target<'_>, instance: &InstanceWritten) -> InstanceDeleted {
    InstanceDeleted {
        db_name: target.db.into(),
        class_id: target.class.into(),
        instance_id: target.id.into(),
        predicates: instance.relationships.keys().cloned().collect(),
    }
}

/// The whole instance as it will be recorded, or what is wrong with it.
fn judge(
    context: &Context,
    lineage: &Lineage,
    target: Target<'_>,
    data: Map<String, Value>,
    before: Option<&InstanceWritten>,
) -> Result<Result<InstanceWritten, Vec<Problem>>, Fault> {
    let (mut relationships, mut problems) = check::check(lineage, target, &data);
    // A predicate that lost its references keeps an empty list, so that the event says which edges end.
    for predicate in before.iter().flat_map(|before| before.relationships.keys()) {
        relationships.entry(predicate.clone()).or_default();
    }
    if problems.is_empty() {
        problems = references::check(context, lineage, target, &data, before)?;
    }
    if !problems.is_empty() {
        return Ok(Err(problems));
    }
    Ok(Ok(InstanceWritten {
        db_name: target.db.into(),
        class_id: target.class.into(),
        instance_id: target.id.into(),
        data: Data::new(data)?,
        relationships,
    }))
}

/// The class of the target with all above it, or why it cannot be used.
fn lineage(reads: &Reads, target: Target<'_>) -> Result<Result<Lineage, Problem>, Fault> {
    let lineage = Lineage::walk(reads, target.db, target.class, None)?;
    let problem = match &lineage.end {
        End::Top => return Ok(Ok(lineage)),
        End::Absent(class) => Problem::new("unknown-class", format!("there is no class {class}")),
        End::Cycle(class) => Problem::new("inheritance-cycle", format!("{class} inherits from itself")),
        End::TooDeep => Problem::new("inheritance-too-deep", "the class has too many above it"),
        End::Unread(_) => Problem::new("too-many-references", "this needs more reads than one decision may do"),
    };
    Ok(Err(problem))
}

fn refuse(code: &str, message: &str) -> Decision<Event> {
    Decision::reject(Problem::new(code, message))
}

carryall_sdk::export!(instance: Instance);

#[cfg(test)]
mod tests;
