//! Whether readers see a write that the projections say they have applied: the online half of read-your-writes.

use std::sync::Arc;

use super::Error;
use super::report::Checked;
use crate::domain::Aggregate;
use crate::event_store::{EventStore, Record};
use crate::port::read_model::{Change, Document, DocumentKey, ReadModel};
use crate::sandbox::{Active, ActiveHandler, Failure, FetchedDocument, Handler, Ordering, RecordedEvent};
use crate::state::{Upcasters, offload};

/// Compares the documents that an event puts with what readers get. The caller knows that the projection is past the
/// event and did not set its aggregate aside.
pub async fn seen(
    events: &EventStore,
    read_model: &dyn ReadModel,
    together: &Active,
    active: &Arc<ActiveHandler>,
    record: &Record,
    checked: &mut Checked,
) -> Result<(), Error> {
    if active.handler.description().ordering != Ordering::Aggregate {
        checked.skipped += 1;
        return Ok(());
    }
    let upcasters = Upcasters::of(together, &active.handler.description().kinds);
    let needs = |handler: &Handler, events: &[RecordedEvent<'_>]| {
        let mut projecting = handler.projecting()?;
        Ok((projecting.needs(events)?, projecting))
    };
    let Some((keys, projecting)) = call(record, active, upcasters.clone(), needs).await? else {
        checked.skipped += 1;
        return Ok(());
    };
    let fetched: Vec<Document> = read_model.documents(None, &keys).await?.into_iter().flatten().collect();
    let project = move |_: &Handler, event: &[RecordedEvent<'_>]| {
        let documents: Vec<FetchedDocument<'_>> =
            fetched.iter().map(|document| FetchedDocument { key: &document.key, body: document.body.get() }).collect();
        projecting.project(event, &documents)
    };
    let Some(changes) = call(record, active, upcasters, project).await? else {
        checked.skipped += 1;
        return Ok(());
    };
    // A document that is put and removed by one event is gone.
    let mut put: Vec<DocumentKey> = Vec::new();
    for caused in changes {
        match caused.change {
            Change::Put { key, .. } => put.push(key),
            Change::Remove { key } => put.retain(|known| *known != key),
            Change::PutNode { .. } | Change::RemoveNode { .. } | Change::SetEdges { .. } => {}
        }
    }
    for key in put {
        checked.checked += 1;
        let name = || format!("document/{}/{}", key.collection, key.id);
        let found = read_model.documents(None, std::slice::from_ref(&key)).await?.pop().flatten();
        match found {
            Some(document) if document.version >= record.sequence.0 => {}
            Some(document) => {
                let message = format!("it has version {}, {} is applied", document.version, place(record));
                checked.add(name(), "write_not_seen", message);
            }
            // It may have been removed since, by an event that came later.
            None if is_last(events, &record.aggregate, record).await? => {
                checked.add(name(), "write_not_seen", format!("it is not there, {} is applied", place(record)));
            }
            None => {}
        }
    }
    Ok(())
}

fn place(record: &Record) -> String {
    format!("{}#{}", record.aggregate, record.sequence)
}

async fn is_last(events: &EventStore, aggregate: &Aggregate, record: &Record) -> Result<bool, Error> {
    Ok(events.head(aggregate).await?.last_domain == record.sequence)
}

/// Calls the projection with one event; `None` when it fails on it, which is for the dead letters to tell.
async fn call<T: Send + 'static>(
    record: &Record,
    active: &Arc<ActiveHandler>,
    upcasters: Upcasters,
    run: impl FnOnce(&Handler, &[RecordedEvent<'_>]) -> Result<T, Failure> + Send + 'static,
) -> Result<Option<T>, Error> {
    let (record, active) = (record.clone(), active.clone());
    let work = move || {
        let presented = upcasters.present(&active.handler, std::slice::from_ref(&record))?;
        Ok::<_, crate::state::Error>(run(&active.handler, &presented.events()).ok())
    };
    Ok(offload(work).await?)
}
