//! Dead letters: rows by id, each as the latest operation of the log has it.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::values::{Id, Time};
use super::{Database, get, unsigned, uuid, without_nul};
use crate::adapter::rows::{int, limit};
use crate::domain::Sequence;
use crate::port::Result;
use crate::port::registry::{DeadLetter, DeadLetters};

const PUT: &str = "
INSERT INTO dead_letters VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (id) DO UPDATE
   SET reason = excluded.reason, error = excluded.error, parked_at = excluded.parked_at, state = excluded.state,
       operation = excluded.operation
 WHERE dead_letters.operation <= excluded.operation
RETURNING 1";

macro_rules! columns {
    () => {
        "SELECT id, handler, event_id, aggregate_type, aggregate_id, sequence_number, reason, error, parked_at, state, \
         coordinates, operation FROM dead_letters "
    };
}

const GET: &str = concat!(columns!(), "WHERE id = $1");
const LIST: &str = concat!(
    columns!(),
    "WHERE ($1::uuid IS NULL OR id > $1) AND ($2::text IS NULL OR state = $2) ORDER BY id LIMIT $3"
);

#[async_trait]
impl DeadLetters for Database {
    async fn put(&self, letter: &DeadLetter) -> Result<bool> {
        let arguments = Arguments::default()
            .with(Id(letter.id))
            .with(without_nul(&letter.handler))
            .with(letter.event_id.map(Id))
            .with(without_nul(&letter.aggregate_type))
            .with(without_nul(&letter.aggregate_id))
            .with(int(letter.sequence_number))
            .with(without_nul(&letter.reason))
            .with(without_nul(&letter.error))
            .with(Time(letter.parked_at))
            .with(without_nul(&letter.state))
            .with(letter.coordinates.as_deref().map(without_nul))
            .with(int(letter.operation.0));
        Ok(!self.inner.pool.write(PUT, arguments).await?.is_empty())
    }

    async fn get(&self, id: Uuid) -> Result<Option<DeadLetter>> {
        let rows = self.inner.pool.read(GET, Arguments::default().with(Id(id))).await?;
        rows.first().map(letter).transpose()
    }

    async fn list(&self, state: Option<&str>, after: Option<Uuid>, count: usize) -> Result<Vec<DeadLetter>> {
        let arguments = Arguments::default().with(after.map(Id)).with(state).with(limit(count));
        self.inner.pool.read(LIST, arguments).await?.iter().map(letter).collect()
    }
}

fn letter(row: &PgRow) -> Result<DeadLetter> {
    Ok(DeadLetter {
        id: uuid(row, 0)?,
        handler: get(row, 1)?,
        event_id: get::<Option<Id>>(row, 2)?.map(|id| id.0),
        aggregate_type: get(row, 3)?,
        aggregate_id: get(row, 4)?,
        sequence_number: unsigned(row, 5)?,
        reason: get(row, 6)?,
        error: get(row, 7)?,
        parked_at: get::<Time>(row, 8)?.0,
        state: get(row, 9)?,
        coordinates: get(row, 10)?,
        operation: Sequence(unsigned(row, 11)?),
    })
}
