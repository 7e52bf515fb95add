//! The harness lets a good handler pass and catches each kind of bad one.
#![allow(clippy::unwrap_used)]

use super::{given, given_nothing, history, projected, upcast};
use crate::{
    Aggregate, Context, Decision, DocKey, Documents, Fault, InstanceHandler, Manifest, Problem, ProjectionHandler,
    Reads, Received, Recorded, Stored, UpcasterHandler, Write,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Name {
    name: String,
}

crate::messages! {
    pub enum Command {
        "SET" "1.0.0" => Set(Name),
        "READ_FOR_EVER" "1.0.0" => ReadForEver(Name),
        "DRAW" "1.0.0" => Draw(Name),
        "COPY" "1.0.0" => Copy(Name),
    }
}

crate::messages! {
    pub enum Event {
        "WAS_SET" "1.0.0" => WasSet(Name),
        "WAS_FORGOTTEN" "1.0.0" => WasForgotten(Name),
    }
}

/// Forgets on reading whether it was written: the state does not survive the host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    name: String,
    #[serde(skip)]
    events: u32,
}

struct Sample;

fn set(name: &str) -> Command {
    Command::Set(Name { name: name.into() })
}

fn was_set(name: &str) -> Event {
    Event::WasSet(Name { name: name.into() })
}

impl InstanceHandler for Sample {
    type State = State;
    type Command = Command;
    type Event = Event;

    fn manifest() -> Manifest {
        Manifest::new("sample", "1.0.0").kind("Sample")
    }

    fn needs(command: &Received<Command>, _: Option<&State>, have: &Reads) -> Result<Vec<Aggregate>, Fault> {
        Ok(match &command.body {
            Command::ReadForEver(_) => vec![Aggregate::new("Sample", format!("s{}", have.values().len()))],
            Command::Copy(from) => vec![Aggregate::new("Sample", &from.name)],
            _ => Vec::new(),
        })
    }

    fn decide(context: &Context, state: Option<&State>, command: &Received<Command>) -> Result<Decision<Event>, Fault> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        Ok(match &command.body {
            Command::Set(set) if state.is_some_and(|state| state.name == set.name) => Decision::Unchanged,
            Command::Set(set) if set.name.is_empty() => Decision::reject(Problem::new("name-missing", "no name")),
            Command::Set(set) => Decision::accept(Event::WasSet(set.clone())),
            Command::ReadForEver(name) => Decision::accept(Event::WasSet(name.clone())),
            Command::Draw(_) => {
                let drawn = CALLS.fetch_add(1, Ordering::Relaxed);
                Decision::accept(was_set(&drawn.to_string()))
            }
            Command::Copy(from) => match context.reads.get::<State>("Sample", &from.name)? {
                Some(state) => Decision::accept(was_set(&state.name)),
                None => Decision::reject(Problem::new("source-missing", "nothing to copy")),
            },
        })
    }

    fn evolve(state: Option<State>, event: Recorded<Event>) -> Result<Option<State>, Fault> {
        let events = state.map_or(0, |state| state.events) + 1;
        Ok(match event.body {
            Event::WasSet(set) => Some(State { name: set.name, events }),
            // What was not written decides: the fault that splits find.
            Event::WasForgotten(forgotten) => Some(State { name: format!("{}{events}", forgotten.name), events }),
        })
    }
}

#[test]
fn a_scenario_goes_from_command_to_command() {
    given_nothing::<Sample>()
        .when(set("a"))
        .then([was_set("a")])
        .when(set("a"))
        .then_unchanged()
        .when(set(""))
        .then_rejected("name-missing")
        .when(("SET", json!({"name": 5})))
        .then_rejected("invalid-payload")
        .when(("COPY", json!({"name": "b"})))
        .then_rejected("source-missing")
        .reading("Sample", "b", &json!({"name": "from b"}))
        .when(("COPY", json!({"name": "b"})))
        .then([("WAS_SET", json!({"name": "from b"}))]);
}

#[test]
#[should_panic(expected = "other events than expected")]
fn other_events_are_seen() {
    given_nothing::<Sample>().when(set("a")).then([was_set("b")]);
}

#[test]
#[should_panic(expected = "expected a refusal with name-missing")]
fn an_accepted_command_is_no_refusal() {
    given_nothing::<Sample>().when(set("a")).then_rejected("name-missing");
}

#[test]
#[should_panic(expected = "expected no change")]
fn a_change_is_seen() {
    given_nothing::<Sample>().when(set("a")).then_unchanged();
}

#[test]
#[should_panic(expected = "deciding twice gives two answers")]
fn a_decision_that_depends_on_anything_else_is_caught() {
    given_nothing::<Sample>().when(Command::Draw(Name { name: String::new() }));
}

#[test]
#[should_panic(expected = "still asks for more after 8 rounds")]
fn endless_reading_is_caught() {
    given_nothing::<Sample>().when(Command::ReadForEver(Name { name: String::new() }));
}

#[test]
#[should_panic(expected = "folds to another state")]
fn a_fold_that_depends_on_where_the_history_is_split_is_caught() {
    let forgotten = Event::WasForgotten(Name { name: "x".into() });
    given::<Sample>([was_set("a"), forgotten]).when(set("x2")).then_unchanged();
}

#[test]
#[should_panic(expected = "the history can be folded")]
fn an_event_that_is_not_understood_is_caught() {
    given::<Sample>([("WAS_LOST", json!({}))]).when(set("a"));
}

/// Counts in a document without asking for it.
struct Forgetful;

impl ProjectionHandler for Forgetful {
    type Event = Event;

    fn manifest() -> Manifest {
        Manifest::new("forgetful", "1.0.0").kind("Sample").collection("counts", 1)
    }

    fn project(event: &Recorded<Event>, documents: &Documents) -> Result<Vec<Write>, Fault> {
        let before = documents.get::<u32>("counts", &event.source.id)?.unwrap_or(0);
        Ok(vec![Write::put("counts", &event.source.id, &(before + 1))?])
    }
}

/// The same, and it asks.
struct Mindful;

impl ProjectionHandler for Mindful {
    type Event = Event;

    fn manifest() -> Manifest {
        Forgetful::manifest()
    }

    fn needs(event: &Recorded<Event>) -> Result<Vec<DocKey>, Fault> {
        Ok(vec![DocKey::new("counts", &event.source.id)])
    }

    fn project(event: &Recorded<Event>, documents: &Documents) -> Result<Vec<Write>, Fault> {
        Forgetful::project(event, documents)
    }
}

#[test]
fn a_projection_sees_what_the_events_before_left() {
    let events = history("Sample", "s", [was_set("a"), was_set("b"), was_set("c")]);
    assert_eq!(projected::<Mindful>(&events).document("counts", "s"), Some(json!(3)));
}

#[test]
#[should_panic(expected = "leaves another read model")]
fn a_projection_that_forgets_to_ask_for_a_document_is_caught() {
    projected::<Forgetful>(&history("Sample", "s", [was_set("a"), was_set("b")]));
}

struct Rename;

impl UpcasterHandler for Rename {
    fn manifest() -> Manifest {
        Manifest::new("rename", "1.0.0").kind("Sample")
    }

    fn understands() -> Vec<(&'static str, &'static str)> {
        vec![("WAS_SET", "0.9.0")]
    }

    fn makes() -> Vec<(&'static str, &'static str)> {
        vec![("WAS_SET", "1.0.0")]
    }

    fn upcast(event: Stored) -> Result<Vec<Stored>, Fault> {
        let old: Value = crate::json::read("event", &event.data)?;
        let data = crate::json::write(&json!({"name": old["title"]}))?;
        Ok(vec![Stored { name: event.name, schema_version: "1.0.0".into(), data }])
    }
}

#[test]
fn an_upcaster_brings_an_event_to_a_newer_version() {
    assert_eq!(
        upcast::<Rename>("WAS_SET", "0.9.0", &json!({"title": "a"})),
        [("WAS_SET".to_owned(), "1.0.0".to_owned(), json!({"name": "a"}))]
    );
    let manifest = super::described_upcaster::<Rename>();
    assert_eq!(manifest.folds[0].versions, ["0.9.0"]);
    assert_eq!(manifest.emits[0].versions, ["1.0.0"]);
}
