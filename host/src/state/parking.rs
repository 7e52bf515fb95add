//! Dead letters: aggregates that a consumer set aside since an event of theirs cannot be handled. What is parked,
//! released and discarded is recorded in the log (aggregate type `Operations`, one stream for each consumer), so that a
//! rebuilt host knows it; the table of dead letters is the fold of those streams. Nothing is skipped silently.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Error, FOLLOW_RETRY, Place};
use crate::codec;
use crate::codec::envelope::DomainDraft;
use crate::codec::json::Json;
use crate::codec::segment::Event;
use crate::domain::{
    Aggregate, AggregateId, AggregateType, EventKind, Partition, Position, Sequence, Timestamp, event_topic, event_type,
};
use crate::error::{Classified as _, Kind};
use crate::event_store::{Append, EventStore, Expected, Record};
use crate::failpoint;
use crate::port::clock::Clock;
use crate::port::registry::{ClaimFilter, DeadLetter, DeadLetters, Registry, Status};

/// Aggregate type of the streams that record what operators and the host did to consumers.
pub const OPERATIONS: &str = "Operations";

const PARKED: &str = "EVENT_PARKED";
const RELEASED: &str = "DEAD_LETTER_RELEASED";
const DISCARDED: &str = "DEAD_LETTER_DISCARDED";
/// Topic of what projections set aside.
const PROJECTION_FAILURES: &str = "projection_failures_dlq";

/// Streams listed at once, and records read at once, while folding.
const PAGE: usize = 500;
/// Releases that may wait for a consumer that is busy; one that misses some looks for what is unfinished.
const RELEASES_MAX: usize = 1_024;
/// How long what others record may go unnoticed: nobody waits for it, and looking after every commit would cost
/// a wake-up each.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of an error message that are kept.
const ERROR_BYTES_MAX: usize = 2_000;

/// An event to be set aside.
#[derive(Debug, Clone)]
pub struct ParkRequest<'a> {
    pub consumer: &'a str,
    pub record: &'a Record,
    /// `fault`, `trap` or `limit`.
    pub reason: &'a str,
    pub error: String,
}

/// Bytes from the bus that are no event of the log, to be shown to operators.
#[derive(Debug, Clone)]
pub struct Stranger {
    /// `not-an-envelope` or `not-in-log`.
    pub reason: &'static str,
    /// What is wrong with it, in words.
    pub error: String,
    /// Where the bus holds it.
    pub coordinates: String,
    pub topic: String,
    /// What it says of itself, as far as it says anything.
    pub event_id: Option<Uuid>,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub sequence_number: u64,
}

/// An aggregate that a consumer may go on with.
#[derive(Debug, Clone)]
pub struct Release {
    pub consumer: String,
    pub aggregate: Aggregate,
    pub letter: DeadLetter,
}

/// Payload of the three events.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    dead_letter_id: Uuid,
    handler: String,
    event_id: Option<Uuid>,
    aggregate_type: String,
    aggregate_id: String,
    sequence_number: u64,
    reason: String,
    error: String,
    coordinates: Option<String>,
}

#[derive(Debug)]
struct Inner {
    events: EventStore,
    letters: Arc<dyn DeadLetters>,
    registry: Arc<dyn Registry>,
    clock: Arc<dyn Clock>,
    /// Head-of-line letter of every parked (consumer, aggregate).
    parked: Mutex<HashMap<(String, Aggregate), DeadLetter>>,
    /// Sequence of the last event applied of each stream. Held while a stream is applied, so that an older event is
    /// never applied after a newer one.
    applied: tokio::sync::Mutex<HashMap<Aggregate, Sequence>>,
    /// Letters that were discarded: their events are skipped wherever they come up again, after a rebuild too.
    discarded: Mutex<HashSet<Uuid>>,
    releases: broadcast::Sender<Release>,
    /// Ends of the partitions before the streams were folded: what comes after may not have been seen.
    folded_to: Vec<Position>,
}

/// The dead letters of this store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Parking {
    inner: Arc<Inner>,
}

impl Parking {
    /// Folds the `Operations` streams into the table and into memory.
    pub async fn open(
        events: EventStore,
        letters: Arc<dyn DeadLetters>,
        registry: Arc<dyn Registry>,
        clock: Arc<dyn Clock>,
    ) -> Result<Parking, Error> {
        let (releases, _) = broadcast::channel(RELEASES_MAX);
        let inner = Inner {
            folded_to: events.ends(),
            events,
            letters,
            registry,
            clock,
            parked: Mutex::default(),
            applied: Default::default(),
            discarded: Mutex::default(),
            releases,
        };
        let parking = Parking { inner: Arc::new(inner) };
        let mut after: Option<String> = None;
        loop {
            let page = parking.inner.events.aggregates(OPERATIONS, after.as_deref(), PAGE).await?;
            for stream in &page {
                parking.fold_stream(stream).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.id.as_str().to_owned()),
                _ => return Ok(parking),
            }
        }
    }

    /// Applies what a stream has beyond what was applied, in order, whoever asks.
    async fn fold_stream(&self, stream: &Aggregate) -> Result<(), Error> {
        let mut applied = self.inner.applied.lock().await;
        let mut after = applied.get(stream).copied().unwrap_or_default();
        loop {
            let records = self.inner.events.stream(stream, after, PAGE).await?;
            for record in &records {
                self.apply(record).await?;
                after = record.sequence;
                applied.insert(stream.clone(), after);
            }
            if records.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Follows a partition for what other processes record, until told to stop.
    pub async fn follow(self, partition: Partition, stop: CancellationToken) -> Result<(), Error> {
        let mut end = self.inner.events.watch_end(partition);
        let mut next = self.inner.folded_to[usize::from(partition.0)];
        end.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = end.changed() => if changed.is_err() { return Ok(()) },
            }
            let target = *end.borrow_and_update();
            while next < target && !stop.is_cancelled() {
                match self.fold_after(partition, next).await {
                    Ok(reached) if reached > next => next = reached,
                    Ok(_) => break,
                    Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Unknown) => {
                        tracing::warn!(%error, "following the dead letters, trying again");
                        self.inner.clock.sleep(FOLLOW_RETRY).await;
                    }
                    Err(error) => return Err(error),
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.inner.clock.sleep(FOLLOW_PAUSE) => {}
            }
        }
    }

    /// Folds what the next records tell; gives the position after them.
    async fn fold_after(&self, partition: Partition, from: Position) -> Result<Position, Error> {
        let of_operations = |event: &Event| event.aggregate.kind.as_str() == OPERATIONS;
        let read = self.inner.events.select(partition, from, PAGE, of_operations).await?;
        for record in &read.records {
            self.fold_stream(&record.aggregate).await?;
        }
        Ok(read.next)
    }

    /// Whether a consumer has set this aggregate aside.
    pub fn is_parked(&self, consumer: &str, aggregate: &Aggregate) -> bool {
        let parked = self.inner.parked.lock();
        !parked.is_empty() && parked.contains_key(&(consumer.to_owned(), aggregate.clone()))
    }

    /// The letter a consumer's aggregate waits for.
    pub fn letter(&self, consumer: &str, aggregate: &Aggregate) -> Option<DeadLetter> {
        let parked = self.inner.parked.lock();
        if parked.is_empty() { None } else { parked.get(&(consumer.to_owned(), aggregate.clone())).cloned() }
    }

    /// Whether an operator gave this event up at a consumer.
    pub fn is_discarded(&self, consumer: &str, event_id: Uuid) -> bool {
        let discarded = self.inner.discarded.lock();
        !discarded.is_empty() && discarded.contains(&letter_id(consumer, event_id))
    }

    /// How many aggregates are parked.
    pub fn count(&self) -> usize {
        self.inner.parked.lock().len()
    }

    /// Letters for which aggregates wait at these consumers.
    pub fn of_consumers(&self, consumers: &[String]) -> Vec<Uuid> {
        let parked = self.inner.parked.lock();
        parked.values().filter(|letter| consumers.contains(&letter.handler)).map(|letter| letter.id).collect()
    }

    /// Tells of aggregates that may go on. A receiver that lagged asks for [`Parking::unfinished`].
    pub fn releases(&self) -> broadcast::Receiver<Release> {
        self.inner.releases.subscribe()
    }

    /// Events of a consumer on a partition that were begun or parked, and neither finished nor parked now; the first of
    /// each aggregate. They lie behind the checkpoint when a release found nobody who listened: the process died after
    /// it was recorded, or the consumer lagged. Looks only when the consumer ever parked something.
    pub async fn unfinished(&self, consumer: &str, partition: Partition) -> Result<Vec<(Aggregate, Place)>, Error> {
        if self.inner.events.head(&operations(consumer)).await?.last == Sequence(0) {
            return Ok(Vec::new());
        }
        let mut found: HashMap<Aggregate, Place> = HashMap::new();
        for status in [Status::Failed, Status::Parked, Status::Processing] {
            let mut filter = ClaimFilter {
                handler: Some(consumer.to_owned()),
                status: Some(status),
                limit: PAGE,
                ..ClaimFilter::default()
            };
            loop {
                let rows = self.inner.registry.rows(&filter).await?;
                let ids: Vec<Uuid> = rows.iter().map(|row| row.event_id).collect();
                for record in self.inner.events.find(&ids).await?.into_iter().flatten() {
                    if record.partition == partition && !self.is_parked(consumer, &record.aggregate) {
                        let place = Place::of(&record);
                        let first = found.entry(record.aggregate).or_insert(place);
                        *first = if place.sequence < first.sequence { place } else { *first };
                    }
                }
                match rows.last() {
                    Some(last) if rows.len() == PAGE => filter.after = Some((last.handler.clone(), last.event_id)),
                    _ => break,
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Sets an aggregate aside, its head-of-line event being this one. Idempotent while it is parked.
    pub async fn park(&self, request: ParkRequest<'_>) -> Result<(), Error> {
        let record = request.record;
        if self.is_parked(request.consumer, &record.aggregate) {
            return Ok(());
        }
        let mut error = request.error;
        error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
        let topic = parked_topic(record.kind == EventKind::Domain);
        let note = Note {
            dead_letter_id: letter_id(request.consumer, record.event_id),
            handler: request.consumer.to_owned(),
            event_id: Some(record.event_id),
            aggregate_type: record.aggregate.kind.as_str().to_owned(),
            aggregate_id: record.aggregate.id.as_str().to_owned(),
            sequence_number: record.sequence.0,
            reason: request.reason.to_owned(),
            error,
            coordinates: None,
        };
        failpoint::pass("park.before_record");
        self.record(PARKED, &note, "system", topic).await?;
        failpoint::pass("park.after_record");
        Ok(())
    }

    /// Notes bytes that are no event of the log. Holds nothing up: who sends them must not stop an aggregate. Noted
    /// once, however often they are delivered.
    pub async fn set_aside(&self, consumer: &str, stranger: Stranger) -> Result<(), Error> {
        let id = stranger_id(consumer, &stranger.coordinates);
        if self.inner.letters.get(id).await?.is_some() {
            return Ok(());
        }
        let topic = parked_topic(stranger.topic.ends_with("_events"));
        let cut = |mut text: String| {
            text.truncate(text.floor_char_boundary(ERROR_BYTES_MAX));
            text
        };
        let note = Note {
            dead_letter_id: id,
            handler: consumer.to_owned(),
            event_id: stranger.event_id,
            aggregate_type: cut(stranger.aggregate_type),
            aggregate_id: cut(stranger.aggregate_id),
            sequence_number: stranger.sequence_number,
            reason: stranger.reason.to_owned(),
            error: cut(stranger.error),
            coordinates: Some(stranger.coordinates),
        };
        // The id is derived: of two members that were given the bytes one writes it.
        let operation = Operation { id, ids_are_new: false, outcome_of: None };
        self.append(operation, &operations(consumer), PARKED, &note, "system", topic).await
    }

    /// Lets the aggregate of a dead letter go on, from the parked event, in order.
    pub async fn retry(&self, id: Uuid, actor: &str) -> Result<DeadLetter, Error> {
        let letter = self.parked_letter(id).await?;
        self.record(RELEASED, &note_of(&letter, ""), actor, operations_topic()).await?;
        failpoint::pass("release.after_record");
        self.reread(id).await
    }

    /// Gives the parked event up, then lets its aggregate go on. A command ends as COMMAND_FAILED, code `discarded`
    /// (status CANCELLED); an event is not applied to the projection.
    pub async fn discard(&self, id: Uuid, reason: &str, actor: &str) -> Result<DeadLetter, Error> {
        let letter = self.parked_letter(id).await?;
        if let Some(event_id) = letter.event_id.filter(|_| letter.coordinates.is_none()) {
            let found = self.inner.events.find(&[event_id]).await?.pop().flatten();
            if let Some(command) = found.filter(|record| record.kind == EventKind::Command) {
                self.cancel(&command, reason, actor).await?;
                failpoint::pass("discard.after_cancel");
            }
        }
        self.record(DISCARDED, &note_of(&letter, reason), actor, operations_topic()).await?;
        self.reread(id).await
    }

    async fn parked_letter(&self, id: Uuid) -> Result<DeadLetter, Error> {
        let letter = self.reread(id).await?;
        if letter.state != "parked" {
            return Err(Error::NotParked { id, state: letter.state });
        }
        Ok(letter)
    }

    async fn reread(&self, id: Uuid) -> Result<DeadLetter, Error> {
        self.inner.letters.get(id).await?.ok_or(Error::NoDeadLetter { id })
    }

    async fn cancel(&self, command: &Record, reason: &str, actor: &str) -> Result<(), Error> {
        let data = serde_json::json!({
            "command_id": command.event_id,
            "code": "discarded",
            "message": format!("discarded by an operator: {reason}"),
            "problems": [],
        });
        let aggregate = &command.aggregate;
        let operation = Operation { id: command.event_id, ids_are_new: false, outcome_of: Some(command) };
        let topic = event_topic(&aggregate.kind);
        self.append(operation, aggregate, event_type::COMMAND_FAILED, &data, actor, topic).await
    }

    async fn record(&self, name: &str, note: &Note, actor: &str, topic: String) -> Result<(), Error> {
        let operation = Operation { id: self.inner.clock.random_id(), ids_are_new: true, outcome_of: None };
        self.append(operation, &operations(&note.handler), name, note, actor, topic).await
    }

    async fn append<T: Serialize>(
        &self,
        operation: Operation<'_>,
        aggregate: &Aggregate,
        name: &str,
        data: &T,
        actor: &str,
        topic: String,
    ) -> Result<(), Error> {
        let Operation { id, ids_are_new, outcome_of } = operation;
        let unreadable = |source| Error::Stored { aggregate: aggregate.clone(), source };
        let data = Json::from_value(data).map_err(|source| unreadable(source.into()))?;
        let draft = DomainDraft {
            command_id: id,
            index: 0,
            event_type: name,
            aggregate,
            occurred_at: self.inner.clock.now(),
            actor,
            data: &data,
            correlation_id: &id.to_string(),
            causation_id: outcome_of.map(|command| command.event_id),
            handler: None,
            read_set: &[],
            traceparent: None,
            schema_version: "1.0.0",
            issued: None,
            extra: None,
            topic: topic.into(),
            service: "carryall",
        };
        self.inner
            .events
            .append(Append {
                aggregate: aggregate.clone(),
                expected: Expected::Any,
                drafts: vec![draft.build().map_err(unreadable)?],
                outcome_of: outcome_of.map(|command| command.sequence),
                ids_are_new,
            })
            .await?;
        if outcome_of.is_some() { Ok(()) } else { self.fold_stream(aggregate).await }
    }

    /// Folds one `Operations` event into the table and into memory. The last event of a letter holds.
    async fn apply(&self, record: &Record) -> Result<(), Error> {
        let state = match &*record.event_type {
            PARKED => "parked",
            RELEASED => "released",
            DISCARDED => "discarded",
            _ => return Ok(()),
        };
        let stored = |source| Error::Stored { aggregate: record.aggregate.clone(), source };
        let envelope = record.envelope().map_err(stored)?;
        let note: Note = serde_json::from_str(envelope.data.get())
            .map_err(|error| stored(codec::Error::Envelope { reason: format!("data of {state}: {error}") }))?;
        let letter = letter(&note, state, envelope.occurred_at, record.sequence);
        // Other processes share the table, and this one may be behind them.
        let newest = self.inner.letters.put(&letter).await?;
        // What is no event of the log stops no aggregate, whichever it names.
        let named = Aggregate::parse(&letter.aggregate_type, &letter.aggregate_id).ok();
        let Some(aggregate) = named.filter(|_| letter.coordinates.is_none()) else {
            return Ok(());
        };
        let key = (letter.handler.clone(), aggregate.clone());
        if state == "discarded" {
            self.inner.discarded.lock().insert(letter.id);
        }
        if state == "parked" {
            self.inner.parked.lock().insert(key, letter);
            return Ok(());
        }
        if self.letter(&letter.handler, &aggregate).is_some() {
            // Before it is noted: what fails here is applied again, and the consumer is told then.
            if let Some(event_id) = letter.event_id.filter(|_| newest) {
                self.inner.registry.release(&letter.handler, event_id, self.inner.clock.now()).await?;
            }
            self.inner.parked.lock().remove(&key);
            // No receiver means no consumer runs in this process: nothing to tell.
            let _ = self.inner.releases.send(Release { consumer: letter.handler.clone(), aggregate, letter });
        }
        Ok(())
    }
}

/// An event of this module on its way into the log.
struct Operation<'a> {
    /// Its event id is derived from this.
    id: Uuid,
    ids_are_new: bool,
    /// The command that it ends.
    outcome_of: Option<&'a Record>,
}

/// Topic of what a consumer sets aside. That of projections has a name of its own, which operators watch.
fn parked_topic(is_projection: bool) -> String {
    if is_projection { PROJECTION_FAILURES.to_owned() } else { operations_topic() }
}

fn operations_topic() -> String {
    event_topic(&AggregateType::parse(OPERATIONS).expect("a constant that is an aggregate type"))
}

/// The stream that records what was done to a consumer.
fn operations(consumer: &str) -> Aggregate {
    let kind = AggregateType::parse(OPERATIONS).expect("a constant that is an aggregate type");
    let id = AggregateId::parse(consumer).expect("consumer names are aggregate ids");
    Aggregate { kind, id }
}

fn letter(note: &Note, state: &str, at: Timestamp, operation: Sequence) -> DeadLetter {
    DeadLetter {
        id: note.dead_letter_id,
        handler: note.handler.clone(),
        event_id: note.event_id,
        aggregate_type: note.aggregate_type.clone(),
        aggregate_id: note.aggregate_id.clone(),
        sequence_number: note.sequence_number,
        reason: note.reason.clone(),
        error: note.error.clone(),
        parked_at: at,
        state: state.to_owned(),
        coordinates: note.coordinates.clone(),
        operation,
    }
}

fn note_of(letter: &DeadLetter, said: &str) -> Note {
    Note {
        dead_letter_id: letter.id,
        handler: letter.handler.clone(),
        event_id: letter.event_id,
        aggregate_type: letter.aggregate_type.clone(),
        aggregate_id: letter.aggregate_id.clone(),
        sequence_number: letter.sequence_number,
        reason: letter.reason.clone(),
        error: if said.is_empty() { letter.error.clone() } else { said.to_owned() },
        coordinates: letter.coordinates.clone(),
    }
}

/// Id of the dead letter of an event at a consumer: the same however often it is parked.
pub fn letter_id(consumer: &str, event_id: Uuid) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("carryall:dead-letter:{consumer}:{event_id}").as_bytes())
}

/// Id of the dead letter of bytes from the bus: the same however often they are delivered.
fn stranger_id(consumer: &str, coordinates: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("carryall:dead-letter:{consumer}:at:{coordinates}").as_bytes())
}
