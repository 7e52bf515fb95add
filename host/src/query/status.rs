//! Status of a command: derived from the log and the registry, never stored. Once a command is terminal its status is a
//! function of the log alone, hence the same on a rebuilt host.

use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::{Error, Service, Token, What};
use crate::domain::{Aggregate, EventKind, Partition, Position, Timestamp, derived_id, event_type};
use crate::event_store::Record;
use crate::port::registry::{ClaimFilter, ClaimRow, Status as ClaimStatus};

/// Code of a COMMAND_FAILED that an operator caused.
const DISCARDED: &str = "discarded";
/// Aggregate type whose commands are complete when all commands they issued are.
const BATCH: &str = "InstanceBatch";

/// Where a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusName {
    Pending,
    Processing,
    Completed,
    Failed,
    Retrying,
    Cancelled,
}

impl StatusName {
    /// The text in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            StatusName::Pending => "PENDING",
            StatusName::Processing => "PROCESSING",
            StatusName::Completed => "COMPLETED",
            StatusName::Failed => "FAILED",
            StatusName::Retrying => "RETRYING",
            StatusName::Cancelled => "CANCELLED",
        }
    }
}

/// Why a command failed, as the handler or the host said.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: String,
    pub message: String,
    /// `[{code, message, pointer}]` as recorded.
    pub problems: Option<Box<serde_json::value::RawValue>>,
}

/// An event of an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeEvent {
    pub event_id: Uuid,
    pub event_type: String,
    pub aggregate: Aggregate,
    pub sequence: u64,
}

/// One command of a batch.
#[derive(Debug, Clone)]
pub struct Row {
    pub command_id: Uuid,
    pub status: StatusName,
    pub aggregate: Aggregate,
    pub sequence: u64,
    pub failure: Option<Failure>,
}

/// What is known of a command.
#[derive(Debug, Clone)]
pub struct Status {
    pub command_id: Uuid,
    pub status: StatusName,
    pub aggregate: Aggregate,
    /// Of the last event of the outcome; of the command itself while there is none.
    pub sequence: u64,
    pub failure: Option<Failure>,
    pub completed_at: Option<Timestamp>,
    /// Attempts of this host beyond the first, while the command is not decided.
    pub retry_count: u32,
    pub events: Vec<OutcomeEvent>,
    /// Commands of a batch, once all are terminal.
    pub rows: Vec<Row>,
    pub token: Token,
}

impl Status {
    /// Nothing will change any more.
    pub fn is_final(&self) -> bool {
        matches!(self.status, StatusName::Completed | StatusName::Failed | StatusName::Cancelled)
    }
}

/// The outcome of a command, and of all it issued when it is a batch.
#[derive(Debug, Clone)]
pub struct Terminal {
    outcome: Vec<Record>,
    rows: Vec<Record>,
    /// The last position of each partition touched.
    pub(super) places: Vec<(Partition, Position)>,
}

impl Service {
    /// The status of a command.
    pub async fn status(&self, command_id: Uuid) -> Result<Status, Error> {
        match self.terminal(command_id).await? {
            Ok(terminal) => finished(command_id, &terminal),
            Err(undecided) => self.open_status(command_id, undecided).await,
        }
    }

    /// The status of a command once it is final, or as it is when the wait is over.
    pub async fn final_status(&self, command_id: Uuid, wait: Duration) -> Result<Status, Error> {
        match self.decided(command_id, self.deadline(wait)).await? {
            Some(terminal) => finished(command_id, &terminal),
            None => self.status(command_id).await,
        }
    }

    /// The aggregate that a command was sent to: what its access is judged by.
    pub async fn command_aggregate(&self, command_id: Uuid) -> Result<Aggregate, Error> {
        Ok(self.command(command_id).await?.aggregate)
    }

    /// What a command led to, or the command (itself, or one it issued) that is not decided yet.
    pub(super) async fn terminal(&self, command_id: Uuid) -> Result<Result<Terminal, Uuid>, Error> {
        let outcome = self.sources.store.outcome(command_id).await?;
        let Some(last) = outcome.last() else { return Ok(Err(command_id)) };
        let mut rows = Vec::new();
        if last.aggregate.kind.as_str() == BATCH {
            let issued: Vec<Uuid> =
                (0..issued(&outcome)?).map(|index| derived_id::issued_command(command_id, index)).collect();
            let firsts: Vec<Uuid> = issued.iter().map(|id| derived_id::domain_event(*id, 0)).collect();
            for (found, id) in self.sources.store.find(&firsts).await?.into_iter().zip(issued) {
                match found {
                    Some(record) => rows.push(record),
                    None => return Ok(Err(id)),
                }
            }
        }
        let mut places: Vec<(Partition, Position)> = Vec::new();
        for record in outcome.iter().chain(&rows) {
            match places.iter_mut().find(|(partition, _)| *partition == record.partition) {
                Some((_, position)) => *position = (*position).max(record.position),
                None => places.push((record.partition, record.position)),
            }
        }
        Ok(Ok(Terminal { outcome, rows, places }))
    }

    async fn command(&self, command_id: Uuid) -> Result<Record, Error> {
        let found = self.sources.store.find(&[command_id]).await?.into_iter().next().flatten();
        found
            .filter(|record| record.kind == EventKind::Command)
            .ok_or_else(|| Error::NotFound { what: What::Command, id: command_id.to_string() })
    }

    /// `undecided`: the command itself, or of a batch that is decided the first row that is not.
    async fn open_status(&self, command_id: Uuid, undecided: Uuid) -> Result<Status, Error> {
        let command = self.command(command_id).await?;
        let filter = ClaimFilter { event_ids: vec![undecided], limit: 16, ..ClaimFilter::default() };
        let claims = self.sources.registry.rows(&filter).await?;
        let claim = claims.iter().max_by_key(|row| row.attempt_count);
        let waiting = if undecided == command_id { StatusName::Pending } else { StatusName::Processing };
        let status = claim.map_or(waiting, in_flight);
        let failure = claim.filter(|_| status == StatusName::Retrying).map(|row| Failure {
            code: if row.status == ClaimStatus::Parked.as_str() { "parked" } else { "retrying" }.into(),
            message: row.last_error.clone().unwrap_or_else(|| "an attempt was given up".into()),
            problems: None,
        });
        Ok(Status {
            command_id,
            status,
            aggregate: command.aggregate,
            sequence: command.sequence.0,
            failure,
            completed_at: None,
            retry_count: claim.map_or(0, |row| row.attempt_count.saturating_sub(1)),
            events: Vec::new(),
            rows: Vec::new(),
            token: Token::Command(command_id),
        })
    }
}

fn in_flight(row: &ClaimRow) -> StatusName {
    let parked = row.status == ClaimStatus::Parked.as_str() || row.status == ClaimStatus::Failed.as_str();
    if parked || row.attempt_count > 1 { StatusName::Retrying } else { StatusName::Processing }
}

fn issued(outcome: &[Record]) -> Result<usize, Error> {
    for record in outcome.iter().rev() {
        let metadata = record.envelope().and_then(|envelope| envelope.metadata()).map_err(|e| unreadable(record, e))?;
        if let Some(issued) = metadata.issued {
            return Ok(usize::try_from(issued).unwrap_or(usize::MAX));
        }
    }
    Ok(0)
}

fn finished(command_id: Uuid, terminal: &Terminal) -> Result<Status, Error> {
    let last = terminal.outcome.last().expect("a terminal command has an outcome");
    let rows = terminal.rows.iter().map(row).collect::<Result<Vec<_>, Error>>()?;
    let (status, failure) = verdict(last)?;
    Ok(Status {
        command_id,
        status,
        aggregate: last.aggregate.clone(),
        sequence: last.sequence.0,
        failure,
        completed_at: terminal.outcome.iter().chain(&terminal.rows).map(|record| record.recorded_at).max(),
        retry_count: 0,
        events: terminal.outcome.iter().map(outcome_event).collect(),
        rows,
        token: Token::Positions(terminal.places.clone()),
    })
}

fn row(record: &Record) -> Result<Row, Error> {
    let (status, failure) = verdict(record)?;
    Ok(Row {
        command_id: record.command_id.unwrap_or_default(),
        status,
        aggregate: record.aggregate.clone(),
        sequence: record.sequence.0,
        failure,
    })
}

fn outcome_event(record: &Record) -> OutcomeEvent {
    OutcomeEvent {
        event_id: record.event_id,
        event_type: record.event_type.to_string(),
        aggregate: record.aggregate.clone(),
        sequence: record.sequence.0,
    }
}

fn verdict(record: &Record) -> Result<(StatusName, Option<Failure>), Error> {
    if &*record.event_type != event_type::COMMAND_FAILED {
        return Ok((StatusName::Completed, None));
    }
    let envelope = record.envelope().map_err(|error| unreadable(record, error))?;
    let failure = failure(envelope.data.get());
    let status = if failure.code == DISCARDED { StatusName::Cancelled } else { StatusName::Failed };
    Ok((status, Some(failure)))
}

/// What a COMMAND_FAILED says; data that was erased says nothing any more.
fn failure(data: &str) -> Failure {
    #[derive(Deserialize)]
    struct Recorded<'a> {
        code: String,
        message: String,
        #[serde(borrow)]
        problems: Option<&'a serde_json::value::RawValue>,
    }
    match serde_json::from_str::<Recorded<'_>>(data) {
        Ok(recorded) => Failure {
            code: recorded.code,
            message: recorded.message,
            problems: recorded.problems.map(ToOwned::to_owned),
        },
        Err(_) => Failure { code: "erased".into(), message: "the reason was erased".into(), problems: None },
    }
}

fn unreadable(record: &Record, source: crate::codec::Error) -> Error {
    Error::Stored { event_id: record.event_id, source }
}
