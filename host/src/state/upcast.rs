//! Stored events as a handler understands them: one that it does not fold is brought to a newer version by the active
//! upcasters of its aggregate type, step by step, until the handler folds it and never further. Changes nothing that is
//! stored (I9). Pure but for the calls to guests, which block: keep it off the threads that do I/O.
//!
//! At most one active upcaster takes a version of an event (deployment refuses a second), so the way of an event is a
//! function of the event, the handler's digest and the digests of the upcasters (I8).

use std::sync::Arc;

use super::Error;
use crate::codec::envelope::Envelope;
use crate::domain::{AggregateType, Digest};
use crate::event_store::Record;
use crate::sandbox::{
    Active, ActiveHandler, AggregateRef, Contract, Handler, RecordedEvent, Stored, StoredRef, Version, World,
};

/// Upcasters one stored event may pass: a version a year, and some to spare. A longer way is a circle.
const STEPS_MAX: usize = 64;
/// Events that one stored event may become. Splitting into more than a few is no change of its form.
const PARTS_MAX: usize = 256;

/// The upcasters between stored events and one handler, as they were when work began.
#[derive(Debug, Clone, Default)]
pub struct Upcasters {
    /// By name; `None` is the common case and costs nothing.
    handlers: Option<Arc<[Arc<ActiveHandler>]>>,
    /// One that is in charge could not be loaded: what is not understood now may be so later.
    incomplete: bool,
}

impl PartialEq for Upcasters {
    fn eq(&self, other: &Self) -> bool {
        self.digests().eq(other.digests())
    }
}

impl Upcasters {
    /// Those of the active set that take events of these aggregate types.
    pub fn of(active: &Active, kinds: &[AggregateType]) -> Upcasters {
        let mut found: Vec<Arc<ActiveHandler>> = Vec::new();
        for kind in kinds {
            found.extend(active.upcasters(kind.as_str()).iter().cloned());
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found.dedup_by(|one, other| one.name == other.name);
        let incomplete = kinds.iter().any(|kind| active.lacks_upcaster(kind.as_str()));
        Upcasters { handlers: (!found.is_empty()).then(|| found.into()), incomplete }
    }

    /// Digests of all of them, in order: part of the key of whatever was made from upcast events.
    pub fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        self.handlers.iter().flat_map(|handlers| handlers.iter()).map(|upcaster| upcaster.handler.digest())
    }

    /// Records as the handler folds them. A projection that names what it folds is spared the events it does not name;
    /// whoever names nothing takes every event as it is stored.
    pub fn present<'a>(&self, handler: &Handler, records: &'a [Record]) -> Result<Presented<'a>, Error> {
        let mut presented =
            Presented { views: Vec::with_capacity(records.len()), sources: Vec::new(), used: Vec::new() };
        for (source, record) in records.iter().enumerate() {
            self.present_one(handler, record, source, &mut presented)?;
        }
        Ok(presented)
    }

    fn present_one<'a>(
        &self,
        handler: &Handler,
        record: &'a Record,
        source: usize,
        presented: &mut Presented<'a>,
    ) -> Result<(), Error> {
        let stored = |source| Error::Stored { aggregate: record.aggregate.clone(), source };
        let envelope = record.envelope().map_err(stored)?;
        if folds(handler, &record.event_type, &envelope.schema_version) {
            presented.push(source, EventView { id: record.event_id.to_string(), record, envelope, newer: None });
            return Ok(());
        }
        let mut open = vec![(None::<Stored>, 0)];
        let mut parts = 0;
        while let Some((event, steps)) = open.pop() {
            let (name, version) = match &event {
                Some(event) => (event.name.as_str(), event.schema_version.as_str()),
                None => (&*record.event_type, &*envelope.schema_version),
            };
            if event.is_some() && folds(handler, name, version) {
                parts += 1;
                let (id, envelope) = (record.event_id.to_string(), envelope.clone());
                presented.push(source, EventView { id, record, envelope, newer: event });
                continue;
            }
            let Some(upcaster) = self.taker(&record.aggregate.kind, name, version) else {
                if handler.world() == World::Projection && !names(handler, name) && !self.incomplete {
                    continue;
                }
                return Err(self.not_folded(handler, record, name, version));
            };
            let data = event.as_ref().map_or(envelope.data.get(), |event| event.data.as_str());
            let failed = |failure| Error::Upcast {
                upcaster: upcaster.name.to_string(),
                aggregate: record.aggregate.clone(),
                sequence: record.sequence.0,
                failure,
            };
            let newer = upcaster.handler.upcast(StoredRef { name, schema_version: version, data }).map_err(failed)?;
            if steps == STEPS_MAX || parts + open.len() + newer.len() > PARTS_MAX {
                return Err(Error::UpcastEndless {
                    upcaster: upcaster.name.to_string(),
                    aggregate: record.aggregate.clone(),
                    sequence: record.sequence.0,
                });
            }
            presented.note(upcaster.handler.digest());
            // The first is taken next: parts stay in the order in which the upcaster gave them.
            open.extend(newer.into_iter().rev().map(|newer| (Some(newer), steps + 1)));
        }
        Ok(())
    }

    fn taker(&self, kind: &AggregateType, name: &str, version: &str) -> Option<&Arc<ActiveHandler>> {
        let mut all = self.handlers.iter().flat_map(|handlers| handlers.iter());
        all.find(|upcaster| {
            let description = upcaster.handler.description();
            description.kinds.contains(kind) && has(&description.folds, name, version)
        })
    }

    fn not_folded(&self, handler: &Handler, record: &Record, name: &str, version: &str) -> Error {
        if self.incomplete {
            return Error::UpcasterMissing { kind: record.aggregate.kind.to_string() };
        }
        let folded = handler.description().folds.iter().find(|contract| contract.name == name);
        let versions = folded.map(|contract| contract.versions.iter().map(ToString::to_string).collect::<Vec<_>>());
        Error::NotFolded {
            handler: handler.description().name.clone(),
            aggregate: record.aggregate.clone(),
            sequence: record.sequence.0,
            event: format!("{name} {version}"),
            understood: versions.map_or_else(|| "no version of it".into(), |versions| versions.join(", ")),
        }
    }
}

fn folds(handler: &Handler, name: &str, version: &str) -> bool {
    let all = &handler.description().folds;
    all.is_empty() || has(all, name, version)
}

fn names(handler: &Handler, name: &str) -> bool {
    handler.description().folds.iter().any(|contract| contract.name == name)
}

fn has(contracts: &[Contract], name: &str, version: &str) -> bool {
    let contract = contracts.iter().find(|contract| contract.name == name);
    contract.is_some_and(|contract| Version::parse(version).is_some_and(|version| contract.versions.contains(&version)))
}

/// Events as a handler gets them, and which record each came from.
#[derive(Debug)]
pub struct Presented<'a> {
    views: Vec<EventView<'a>>,
    /// For each view the index of its record.
    sources: Vec<usize>,
    used: Vec<Digest>,
}

/// A stored domain event, parsed, so that handlers can borrow from it.
#[derive(Debug)]
struct EventView<'a> {
    id: String,
    record: &'a Record,
    envelope: Envelope<'a>,
    /// What an upcaster made of it.
    newer: Option<Stored>,
}

impl<'a> Presented<'a> {
    fn push(&mut self, source: usize, view: EventView<'a>) {
        self.sources.push(source);
        self.views.push(view);
    }

    fn note(&mut self, upcaster: Digest) {
        if !self.used.contains(&upcaster) {
            self.used.push(upcaster);
        }
    }

    /// The events as handlers get them.
    pub fn events(&self) -> Vec<RecordedEvent<'_>> {
        self.views.iter().map(EventView::event).collect()
    }

    /// Index of the record that an event came from.
    pub fn source(&self, event: usize) -> usize {
        self.sources[event]
    }

    /// Digests of the upcasters that were called, in the order of their first call.
    pub fn used(&self) -> &[Digest] {
        &self.used
    }
}

impl EventView<'_> {
    fn event(&self) -> RecordedEvent<'_> {
        let (name, schema_version, data) = match &self.newer {
            Some(newer) => (newer.name.as_str(), newer.schema_version.as_str(), newer.data.as_str()),
            None => (&*self.record.event_type, &*self.envelope.schema_version, self.envelope.data.get()),
        };
        RecordedEvent {
            id: &self.id,
            name,
            schema_version,
            source: AggregateRef::from(&self.record.aggregate),
            seq: self.record.sequence.0,
            at: self.envelope.occurred_at,
            data,
            headers: &[],
        }
    }
}
