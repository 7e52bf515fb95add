//! The generated bindings of `wit/0.1`, and their connection to the traits. Compiled for `wasm32` only.
//!
//! Each interface is generated once, as a world that exports nothing else, and all share the generated `types`. A
//! world of the WIT is the union of two of them: the componentizer unites the worlds that it finds described in a
//! module. Generating the real worlds in one crate fails, since each would define the macro that exports
//! `manifest`. The conversions move strings, they copy none.
#![allow(unsafe_code, reason = "generated: a component's exports lift and lower through raw memory")]

use crate::{
    Aggregate, Change, Command, Comparison, Context, Description, DocKey, Document, Fault, Header, InstanceHandler,
    Level, NewCommand, NewEvent, OntologyHandler, Outcome, Problem, ProjectionHandler, ReadValue, Reads, RecordedEvent,
    Stored, Timestamp, UpcasterHandler, Verdict, Write, glue,
};
use std::marker::PhantomData;

pub mod manifest {
    //! Interface `manifest`: the records and the export every world has.
    wit_bindgen::generate!({
        path: "../wit/0.1",
        inline: "package carryall:sdk; world exporting-manifest { export carryall:handler/manifest@0.1.0; }",
        pub_export_macro: true,
        export_macro_name: "export",
    });
}

pub mod instance {
    //! Interface `instance`: decisions.
    wit_bindgen::generate!({
        path: "../wit/0.1",
        inline: "package carryall:sdk; world exporting-instance { export carryall:handler/instance@0.1.0; }",
        pub_export_macro: true,
        export_macro_name: "export",
        generate_unused_types: true,
        generate_all,
    });
}

pub mod ontology {
    //! Interface `ontology`: decisions about classes.
    wit_bindgen::generate!({
        path: "../wit/0.1",
        inline: "package carryall:sdk; world exporting-ontology { export carryall:handler/ontology@0.1.0; }",
        pub_export_macro: true,
        export_macro_name: "export",
        with: { "carryall:handler/types@0.1.0": crate::guest::instance::carryall::handler::types },
    });
}

pub mod projection {
    //! Interface `projection`: documents and graph.
    wit_bindgen::generate!({
        path: "../wit/0.1",
        inline: "package carryall:sdk; world exporting-projection { export carryall:handler/projection@0.1.0; }",
        pub_export_macro: true,
        export_macro_name: "export",
        with: { "carryall:handler/types@0.1.0": crate::guest::instance::carryall::handler::types },
    });
}

pub mod upcaster {
    //! Interface `upcaster`: events of older versions.
    wit_bindgen::generate!({
        path: "../wit/0.1",
        inline: "package carryall:sdk; world exporting-upcaster { export carryall:handler/upcaster@0.1.0; }",
        pub_export_macro: true,
        export_macro_name: "export",
        with: { "carryall:handler/types@0.1.0": crate::guest::instance::carryall::handler::types },
    });
}

use instance::carryall::handler::types as wire;
use manifest::exports::carryall::handler::manifest as manifest_wire;
use ontology::exports::carryall::handler::ontology as ontology_wire;
use projection::exports::carryall::handler::projection as projection_wire;
use upcaster::exports::carryall::handler::upcaster as upcaster_wire;

fn all<A, B: From<A>>(list: Vec<A>) -> Vec<B> {
    list.into_iter().map(B::from).collect()
}

/// One direction between a wire record and a plain struct whose fields have the same names. A field marked
/// `one` is a record itself, `maybe` an optional one, `list` a list of them.
macro_rules! record {
    ($wire:path => $plain:path { $($field:ident $(: $mark:ident)?),* }) => {
        impl From<$wire> for $plain {
            fn from(from: $wire) -> Self {
                Self { $($field: record!(@ from.$field, $($mark)?)),* }
            }
        }
    };
    (@ $value:expr, one) => { $value.into() };
    (@ $value:expr, maybe) => { $value.map(Into::into) };
    (@ $value:expr, list) => { all($value) };
    (@ $value:expr,) => { $value };
}

record!(wire::Timestamp => Timestamp { seconds, nanoseconds });
record!(wire::Header => Header { name, value });
record!(Header => wire::Header { name, value });
record!(wire::Aggregate => Aggregate { kind, id });
record!(Aggregate => wire::Aggregate { kind, id });
record!(wire::Command => Command { id, name, target: one, expected_seq, payload, actor, headers: list });
record!(wire::RecordedEvent => RecordedEvent {
    id, name, schema_version, source: one, seq, at: one, data, headers: list
});
record!(NewEvent => wire::NewEvent { name, schema_version, data, headers: list });
record!(NewCommand => wire::NewCommand { name, target: one, expected_seq, payload, headers: list });
record!(wire::ReadValue => ReadValue { source: one, seq, schema_version, state });
record!(Problem => wire::Problem { code, message, pointer });
record!(Outcome => wire::Outcome { events: list, commands: list });
record!(Fault => wire::Fault { code, message });
record!(DocKey => projection_wire::DocKey { collection, id });
record!(projection_wire::DocKey => DocKey { collection, id });
record!(Document => projection_wire::Document { key: one, body });
record!(projection_wire::Document => Document { key: one, body });
record!(crate::Node => projection_wire::Node { kind, id });
record!(crate::Edges => projection_wire::Edges { source: one, predicate, targets: list });
record!(Change => projection_wire::Change { cause, write: one });
record!(upcaster_wire::Stored => Stored { name, schema_version, data });
record!(Stored => upcaster_wire::Stored { name, schema_version, data });
record!(Comparison => ontology_wire::Comparison { level: one, findings: list });

impl From<wire::Context> for Context {
    fn from(from: wire::Context) -> Self {
        Self { now: from.now.into(), seed: from.seed, reads: Reads::new(all(from.reads)) }
    }
}

impl From<Verdict> for wire::Verdict {
    fn from(from: Verdict) -> Self {
        match from {
            Verdict::Accepted(outcome) => Self::Accepted(outcome.into()),
            Verdict::Unchanged => Self::Unchanged,
            Verdict::Rejected(problems) => Self::Rejected(all(problems)),
        }
    }
}

impl From<Level> for ontology_wire::Level {
    fn from(from: Level) -> Self {
        match from {
            Level::Identical => Self::Identical,
            Level::Compatible => Self::Compatible,
            Level::Breaking => Self::Breaking,
        }
    }
}

impl From<Write> for projection_wire::Write {
    fn from(from: Write) -> Self {
        match from {
            Write::Put(document) => Self::Put(document.into()),
            Write::Remove(key) => Self::Remove(key.into()),
            Write::PutNode(node) => Self::PutNode(node.into()),
            Write::RemoveNode(node) => Self::RemoveNode(node.into()),
            Write::SetEdges(edges) => Self::SetEdges(edges.into()),
        }
    }
}

record!(crate::Contract => manifest_wire::Contract { name, versions, json_schema });
record!(crate::Collection => manifest_wire::Collection { name, revision, mapping });
record!(Description => manifest_wire::Description {
    name, version, kinds, commands: list, emits: list, folds: list, state: maybe, reads: list, ordering,
    collections: list, labels
});

/// What [`export!`](crate::export) exports for an [`InstanceHandler`].
pub struct InstanceGuest<H>(PhantomData<H>);
/// The same for an [`OntologyHandler`].
pub struct OntologyGuest<H>(PhantomData<H>);
/// The same for a [`ProjectionHandler`].
pub struct ProjectionGuest<H>(PhantomData<H>);
/// The same for an [`UpcasterHandler`].
pub struct UpcasterGuest<H>(PhantomData<H>);

macro_rules! describing {
    ($guest:ident, $handler:ident, $describe:ident) => {
        impl<H: $handler> manifest_wire::Guest for $guest<H> {
            fn describe() -> manifest_wire::Description {
                glue::$describe::<H>().into()
            }
        }
    };
}

describing!(InstanceGuest, InstanceHandler, describe);
describing!(OntologyGuest, OntologyHandler, describe);
describing!(ProjectionGuest, ProjectionHandler, describe_projection);
describing!(UpcasterGuest, UpcasterHandler, describe_upcaster);

/// The three functions that `instance` and `ontology` have in common.
macro_rules! deciding {
    () => {
        fn needs(
            command: wire::Command,
            state: Option<String>,
            have: Vec<wire::ReadValue>,
        ) -> Result<Vec<wire::Aggregate>, wire::Fault> {
            Ok(all(glue::needs::<H>(command.into(), state.as_deref(), all(have))?))
        }

        fn decide(
            context: wire::Context,
            state: Option<String>,
            command: wire::Command,
        ) -> Result<wire::Verdict, wire::Fault> {
            Ok(glue::decide::<H>(&context.into(), state.as_deref(), command.into())?.into())
        }

        fn evolve(state: Option<String>, events: Vec<wire::RecordedEvent>) -> Result<Option<String>, wire::Fault> {
            Ok(glue::evolve::<H>(state.as_deref(), all(events))?)
        }
    };
}

impl<H: InstanceHandler> instance::exports::carryall::handler::instance::Guest for InstanceGuest<H> {
    deciding!();
}

impl<H: OntologyHandler> ontology_wire::Guest for OntologyGuest<H> {
    deciding!();

    fn compare(older: String, newer: String) -> Result<ontology_wire::Comparison, wire::Fault> {
        Ok(H::compare(&older, &newer)?.into())
    }
}

impl<H: ProjectionHandler> projection_wire::Guest for ProjectionGuest<H> {
    fn needs(events: Vec<wire::RecordedEvent>) -> Result<Vec<projection_wire::DocKey>, wire::Fault> {
        Ok(all(glue::projection_needs::<H>(all(events))?))
    }

    fn project(
        events: Vec<wire::RecordedEvent>,
        documents: Vec<projection_wire::Document>,
    ) -> Result<Vec<projection_wire::Change>, wire::Fault> {
        Ok(all(glue::project::<H>(all(events), all(documents))?))
    }
}

impl<H: UpcasterHandler> upcaster_wire::Guest for UpcasterGuest<H> {
    fn upcast(event: upcaster_wire::Stored) -> Result<Vec<upcaster_wire::Stored>, wire::Fault> {
        Ok(all(H::upcast(event.into())?))
    }
}
