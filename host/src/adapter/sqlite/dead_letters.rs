//! Dead letters: rows by id, each as the latest operation of the log has it.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::{Database, corrupt, failed, get, int, limit, unsigned};
use crate::domain::{Sequence, Timestamp};
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
const LIST: &str = concat!(columns!(), "WHERE id > $1 AND ($2 IS NULL OR state = $2) ORDER BY id LIMIT $3");

#[async_trait]
impl DeadLetters for Database {
    async fn put(&self, letter: &DeadLetter) -> Result<bool> {
        let arguments = Arguments::default()
            .with(letter.id.to_string())
            .with(letter.handler.clone())
            .with(letter.event_id.map(|id| id.to_string()))
            .with(letter.aggregate_type.clone())
            .with(letter.aggregate_id.clone())
            .with(int(letter.sequence_number))
            .with(letter.reason.clone())
            .with(letter.error.clone())
            .with(letter.parked_at.0)
            .with(letter.state.clone())
            .with(letter.coordinates.clone())
            .with(int(letter.operation.0));
        Ok(!self.inner.writer.run(PUT, arguments).await.map_err(failed)?.is_empty())
    }

    async fn get(&self, id: Uuid) -> Result<Option<DeadLetter>> {
        let rows = self.inner.readers.run(GET, Arguments::default().with(id.to_string())).await.map_err(failed)?;
        rows.first().map(letter).transpose()
    }

    async fn list(&self, state: Option<&str>, after: Option<Uuid>, count: usize) -> Result<Vec<DeadLetter>> {
        let arguments = Arguments::default()
            .with(after.map_or_else(String::new, |id| id.to_string()))
            .with(state.map(str::to_owned))
            .with(limit(count));
        let rows = self.inner.readers.run(LIST, arguments).await.map_err(failed)?;
        rows.iter().map(letter).collect()
    }
}

fn letter(row: &SqliteRow) -> Result<DeadLetter> {
    let id = |text: &str| text.parse::<Uuid>().map_err(|_| corrupt("an id is no UUID"));
    Ok(DeadLetter {
        id: id(get(row, 0)?)?,
        handler: get(row, 1)?,
        event_id: get::<Option<&str>>(row, 2)?.map(id).transpose()?,
        aggregate_type: get(row, 3)?,
        aggregate_id: get(row, 4)?,
        sequence_number: unsigned(row, 5)?,
        reason: get(row, 6)?,
        error: get(row, 7)?,
        parked_at: Timestamp(get(row, 8)?),
        state: get(row, 9)?,
        coordinates: get(row, 10)?,
        operation: Sequence(unsigned(row, 11)?),
    })
}
