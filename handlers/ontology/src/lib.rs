//! Databases and classes: what exists, and what instances may look like.
//!
//! A class is refused when it could not work: unknown parents and targets, cycles, constraints that never hold.
//! A change that what is stored might not survive is refused unless the sender insists. Deleting a database or
//! a class looks at nothing else: the handler sees the aggregates it asks for by name, and cannot ask "who uses
//! me". What is left behind is refused when it is used next, since every command reads what it builds on.

mod command;
mod compare;
mod define;

use carryall_domain::VERSION;
use carryall_domain::events::{ClassDefined, ClassDeleted, DatabaseCreated, DatabaseDeleted, OntologyEvent as Event};
use carryall_domain::lineage::{DEPTH_MAX, End, Lineage};
use carryall_domain::names::{DATABASE, ONTOLOGY_CLASS, class_id, is_name, split_class};
use carryall_sdk::prelude::*;
use command::{Command, CreateDatabase, DefineClass, DeleteDatabase};
use serde::{Deserialize, Serialize};

/// A database or a class; the shapes have no field in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum State {
    Class(ClassDefined),
    Database(DatabaseCreated),
}

pub struct Ontology;

impl InstanceHandler for Ontology {
    type State = State;
    type Command = Command;
    type Event = Event;

    fn manifest() -> Manifest {
        Manifest::new("ontology", env!("CARGO_PKG_VERSION"))
            .kind(DATABASE)
            .kind(ONTOLOGY_CLASS)
            .state("ontology", VERSION)
            .reads(DATABASE, &[VERSION])
            .reads(ONTOLOGY_CLASS, &[VERSION])
    }

    fn needs(command: &Received<Command>, state: Option<&State>, have: &Reads) -> Result<Vec<Aggregate>, Fault> {
        let definition = match (&command.body, state) {
            (Command::CreateClass(definition), None) | (Command::UpdateClass(definition), Some(_)) => definition,
            _ => return Ok(Vec::new()),
        };
        let Some((db, id)) = split_class(&command.target.id) else {
            return Ok(Vec::new());
        };
        let mut wanted = vec![Aggregate::new(DATABASE, db)];
        let relationships = &definition.class.relationships;
        if relationships.len() > define::RELATIONSHIPS_MAX {
            return Ok(wanted);
        }
        let targets = relationships.iter().map(|relationship| relationship.target.as_str());
        for target in targets.filter(|target| *target != id && is_name(target)) {
            wanted.push(Aggregate::new(ONTOLOGY_CLASS, class_id(db, target)));
        }
        if let Some(parent) = definition.class.parent.as_deref().filter(|parent| is_name(parent)) {
            let above = Lineage::walk(have, db, parent, Some(id))?.wanted(db);
            wanted.extend(above.into_iter().filter(|class| class.id != command.target.id));
        }
        wanted.sort_unstable();
        wanted.dedup();
        Ok(wanted)
    }

    fn decide(context: &Context, state: Option<&State>, command: &Received<Command>) -> Result<Decision<Event>, Fault> {
        let target = &command.target;
        match &command.body {
            Command::CreateDatabase(create) => Ok(create_database(state, target, create)),
            Command::DeleteDatabase(delete) => Ok(delete_database(state, target, delete)),
            Command::CreateClass(definition) => create_class(context, state, target, definition),
            Command::UpdateClass(definition) => update_class(context, state, target, definition),
            Command::DeleteClass(delete) => Ok(match (split_class(&target.id), state) {
                (None, _) => not_a_class(target),
                (Some((_, class)), _) if delete.id.as_deref().is_some_and(|id| id != class) => mismatch("/id"),
                (Some(_), None) => missing("class"),
                (Some((db, class)), Some(_)) => {
                    Decision::accept(Event::ClassDeleted(ClassDeleted { db_name: db.into(), class_id: class.into() }))
                }
            }),
        }
    }

    fn evolve(_: Option<State>, event: Recorded<Event>) -> Result<Option<State>, Fault> {
        Ok(match event.body {
            Event::DatabaseCreated(created) => Some(State::Database(created)),
            Event::ClassCreated(defined) | Event::ClassUpdated(defined) => Some(State::Class(defined)),
            Event::DatabaseDeleted(_) | Event::ClassDeleted(_) => None,
        })
    }
}

impl OntologyHandler for Ontology {
    fn compare(older: &str, newer: &str) -> Result<Comparison, Fault> {
        let older = carryall_sdk::json::read("older class", older)?;
        let newer = carryall_sdk::json::read("newer class", newer)?;
        Ok(compare::compare(&older, &newer))
    }
}

fn create_database(state: Option<&State>, target: &Aggregate, create: &CreateDatabase) -> Decision<Event> {
    if target.kind != DATABASE || !is_name(&target.id) {
        return refuse("invalid-name", "a database is named by a letter, then letters, digits and underscores");
    }
    if create.name.as_ref().is_some_and(|name| *name != target.id) {
        return mismatch("/name");
    }
    if state.is_some() {
        return refuse("already-exists", "this database exists");
    }
    let description = create.description.clone();
    Decision::accept(Event::DatabaseCreated(DatabaseCreated { name: target.id.clone(), description }))
}

fn delete_database(state: Option<&State>, target: &Aggregate, delete: &DeleteDatabase) -> Decision<Event> {
    if target.kind != DATABASE {
        return refuse("target-mismatch", "this command is for an aggregate of type Database");
    }
    if delete.name.as_ref().is_some_and(|name| *name != target.id) {
        return mismatch("/name");
    }
    match state {
        Some(_) => Decision::accept(Event::DatabaseDeleted(DatabaseDeleted { name: target.id.clone() })),
        None => missing("database"),
    }
}

fn create_class(
    context: &Context,
    state: Option<&State>,
    target: &Aggregate,
    definition: &DefineClass,
) -> Result<Decision<Event>, Fault> {
    if state.is_some() {
        return Ok(refuse("already-exists", "this class exists"));
    }
    Ok(match judge(context, target, definition)? {
        Ok(defined) => Decision::accept(Event::ClassCreated(defined)),
        Err(refusal) => refusal,
    })
}

fn update_class(
    context: &Context,
    state: Option<&State>,
    target: &Aggregate,
    definition: &DefineClass,
) -> Result<Decision<Event>, Fault> {
    let Some(state) = state else {
        return Ok(missing("class"));
    };
    let State::Class(older) = state else {
        return Err(Fault::new("wrong-state", format!("{target} holds no class")));
    };
    let defined = match judge(context, target, definition)? {
        Ok(defined) => defined,
        Err(refusal) => return Ok(refusal),
    };
    let comparison = compare::compare(&older.class, &defined.class);
    Ok(match comparison.level {
        Level::Identical => Decision::Unchanged,
        Level::Breaking if !definition.allow_breaking => {
            let advice = "stored instances may not fit the new definition; send allow_breaking: true to insist";
            let mut problems = vec![Problem::new("breaking-change", advice)];
            problems.extend(comparison.findings);
            Decision::Rejected(problems)
        }
        Level::Compatible | Level::Breaking => Decision::accept(Event::ClassUpdated(defined)),
    })
}

/// The definition as it will be recorded, or the refusal.
fn judge(
    context: &Context,
    target: &Aggregate,
    definition: &DefineClass,
) -> Result<Result<ClassDefined, Decision<Event>>, Fault> {
    let (ONTOLOGY_CLASS, Some((db, id))) = (target.kind.as_str(), split_class(&target.id)) else {
        return Ok(Err(not_a_class(target)));
    };
    let mut class = definition.class.clone();
    if class.id.is_empty() {
        class.id = id.into();
    }
    if class.id != id {
        return Ok(Err(mismatch("/id")));
    }
    if definition.db_name.as_ref().is_some_and(|name| name != db) {
        return Ok(Err(mismatch("/db_name")));
    }
    if !context.reads.exists(DATABASE, db) {
        return Ok(Err(refuse("unknown-database", "create the database first")));
    }
    let mut problems = define::check(&class);
    if problems.is_empty() {
        for (index, relationship) in class.relationships.iter().enumerate() {
            let known =
                relationship.target == id || context.reads.exists(ONTOLOGY_CLASS, &class_id(db, &relationship.target));
            if !known {
                let message = format!("there is no class {}", relationship.target);
                let at = format!("/relationships/{index}/target");
                problems.push(Problem::new("unknown-target", message).at(at));
            }
        }
    }
    let mut ancestors = Vec::new();
    if let Some(parent) = class.parent.as_deref().filter(|_| problems.is_empty()) {
        let lineage = Lineage::walk(&context.reads, db, parent, Some(id))?;
        problems.extend(judge_lineage(&lineage)?);
        ancestors = lineage.classes.iter().map(|class| class.class_id.clone()).collect();
    }
    if !problems.is_empty() {
        return Ok(Err(Decision::Rejected(problems)));
    }
    Ok(Ok(ClassDefined { db_name: db.into(), class_id: id.into(), class, ancestors }))
}

fn judge_lineage(lineage: &Lineage) -> Result<Option<Problem>, Fault> {
    let too_deep = || Problem::new("inheritance-too-deep", format!("a class has at most {} above it", DEPTH_MAX - 1));
    let problem = match &lineage.end {
        End::Top if lineage.classes.len() >= DEPTH_MAX => Some(too_deep()),
        End::Top => None,
        End::Absent(class) => Some(Problem::new("unknown-parent", format!("there is no class {class}"))),
        End::Cycle(class) => Some(Problem::new("inheritance-cycle", format!("{class} would inherit from itself"))),
        End::TooDeep => Some(too_deep()),
        End::Unread(class) => return Err(Fault::new("not-read", format!("class {class} was asked for, not given"))),
    };
    Ok(problem.map(|problem| problem.at("/parent")))
}

fn refuse(code: &str, message: &str) -> Decision<Event> {
    Decision::reject(Problem::new(code, message))
}

fn missing(what: &str) -> Decision<Event> {
    Decision::reject(Problem::new("not-found", format!("this {what} does not exist")))
}

fn mismatch(pointer: &str) -> Decision<Event> {
    Decision::reject(Problem::new("target-mismatch", "the payload names another target than the command").at(pointer))
}

fn not_a_class(target: &Aggregate) -> Decision<Event> {
    let message = format!("{target} is no class: the type is OntologyClass and the id db:Class");
    Decision::reject(Problem::new("target-mismatch", message))
}

carryall_sdk::export!(ontology: Ontology);

#[cfg(test)]
mod tests;
