//! States as they were: streams folded up to a sequence by the code that folded them then. A stream is kept while it is
//! asked for later and later sequences, so that one walk over an aggregate folds each event once.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Error;
use crate::domain::{Aggregate, Digest, Sequence};
use crate::event_store::EventStore;
use crate::sandbox::{Active, ActiveHandler, Handler};
use crate::state::{Folded, Stream, Upcasters, call_guests};

/// Gives the handler with a digest, active or not; the words say why it cannot.
pub type Load = Arc<dyn Fn(Digest) -> BoxFuture<'static, Result<Arc<Handler>, String>> + Send + Sync>;

/// Records read at once.
const PAGE: usize = 1_000;
/// Streams kept: those of the aggregate under way, and what its decisions read.
const KEPT_MAX: usize = 256;

/// A stream by aggregate and by the code that folds it.
type Key = (Aggregate, Digest, Vec<Digest>);

pub struct Streams {
    events: EventStore,
    load: Load,
    kept: HashMap<Key, Stream>,
}

impl Streams {
    pub fn new(events: EventStore, load: Load) -> Streams {
        Streams { events, load, kept: HashMap::new() }
    }

    pub fn events(&self) -> &EventStore {
        &self.events
    }

    pub async fn handler(&self, digest: Digest) -> Result<Arc<Handler>, Error> {
        (self.load)(digest).await.map_err(|reason| Error::Handler { digest, reason })
    }

    /// The state of an aggregate after the event with this sequence; `None` when the command that expects `relied_on`
    /// relied on one that failed: it was ended without a state, which may be one that nobody can fold.
    pub async fn at(
        &mut self,
        aggregate: &Aggregate,
        digest: Digest,
        upcasters: &[Digest],
        last: Sequence,
        relied_on: Option<u64>,
    ) -> Result<Option<Folded>, Error> {
        let handler = self.handler(digest).await?;
        let key = (aggregate.clone(), digest, upcasters.to_vec());
        let kept = self.kept.remove(&key).filter(|stream| stream.sequence() <= last);
        let mut stream = match kept {
            Some(stream) => stream,
            None => self.stream(aggregate, &handler, upcasters).await?,
        };
        while stream.sequence() < last {
            let wanted = usize::try_from(last.0 - stream.sequence().0).unwrap_or(PAGE).min(PAGE);
            let records = self.events.stream(aggregate, stream.sequence(), wanted).await?;
            if records.is_empty() {
                break;
            }
            for record in &records {
                stream.push(record);
            }
        }
        let mut folded = None;
        if !stream.predecessor_failed(relied_on) {
            let (read, state) = call_guests(stream, move |stream| stream.fold(&handler)).await;
            (folded, stream) = (Some(state?), read);
        }
        if self.kept.len() >= KEPT_MAX {
            self.kept.clear();
        }
        self.kept.insert(key, stream);
        Ok(folded)
    }

    /// A stream behind the upcasters that stood there then, whatever stands there now.
    async fn stream(&self, aggregate: &Aggregate, handler: &Handler, upcasters: &[Digest]) -> Result<Stream, Error> {
        let mut behind = Vec::with_capacity(upcasters.len());
        for digest in upcasters {
            let handler = self.handler(*digest).await?;
            behind.push(ActiveHandler { name: handler.description().name.as_str().into(), revision: 0, handler });
        }
        let together = Active::new(behind).map_err(|error| {
            let digest = upcasters.first().copied().unwrap_or(handler.digest());
            Error::Handler { digest, reason: error.to_string() }
        })?;
        let upcasters = Upcasters::of(&together, std::slice::from_ref(&aggregate.kind));
        Ok(Stream::new(aggregate.clone(), handler, upcasters))
    }
}
