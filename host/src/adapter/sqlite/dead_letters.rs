//! Dead letters: rows by id, and the parked ones by aggregate.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::{Database, corrupt, failed, get, json, limit, unsigned};
use crate::domain::Timestamp;
use crate::port::Result;
use crate::port::registry::{DeadLetter, DeadLetters};

const PUT: &str = "
INSERT OR REPLACE INTO dead_letters
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
       value ->> 8, value ->> 9, value ->> 10
  FROM jsonb_each($1)";

macro_rules! columns {
    () => {
        "SELECT id, handler, event_id, aggregate_type, aggregate_id, sequence_number, reason, error, parked_at, state, \
         coordinates FROM dead_letters "
    };
}

const GET: &str = concat!(columns!(), "WHERE id = $1");
const LIST: &str = concat!(columns!(), "WHERE id > $1 AND ($2 IS NULL OR state = $2) ORDER BY id LIMIT $3");
const OF_AGGREGATE: &str = concat!(
    columns!(),
    "WHERE handler = $1 AND aggregate_type = $2 AND aggregate_id = $3 AND state = 'parked' ORDER BY sequence_number, id"
);

#[async_trait]
impl DeadLetters for Database {
    async fn put(&self, letters: &[DeadLetter]) -> Result<()> {
        let rows: Vec<_> = letters
            .iter()
            .map(|l| {
                (
                    l.id,
                    &l.handler,
                    l.event_id,
                    &l.aggregate_type,
                    &l.aggregate_id,
                    l.sequence_number,
                    &l.reason,
                    &l.error,
                    l.parked_at.0,
                    &l.state,
                    &l.coordinates,
                )
            })
            .collect();
        self.inner.writer.run(PUT, Arguments::default().with(json(&rows))).await.map_err(failed)?;
        Ok(())
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

    async fn of_aggregate(&self, handler: &str, aggregate_type: &str, aggregate_id: &str) -> Result<Vec<DeadLetter>> {
        let arguments =
            Arguments::default().with(handler.to_owned()).with(aggregate_type.to_owned()).with(aggregate_id.to_owned());
        let rows = self.inner.readers.run(OF_AGGREGATE, arguments).await.map_err(failed)?;
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
    })
}
