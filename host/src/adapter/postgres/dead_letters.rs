//! Dead letters: rows by id, and the parked ones by aggregate.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::Arguments;
use super::values::{Id, Time};
use super::{Database, get, unsigned, uuid, without_nul};
use crate::adapter::rows::{int, limit};
use crate::port::Result;
use crate::port::registry::{DeadLetter, DeadLetters};

const PUT: &str = "
INSERT INTO dead_letters
SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[],
                     $9::timestamptz[], $10::text[], $11::text[])
    ON CONFLICT (id) DO UPDATE
   SET handler = excluded.handler, event_id = excluded.event_id, aggregate_type = excluded.aggregate_type,
       aggregate_id = excluded.aggregate_id, sequence_number = excluded.sequence_number, reason = excluded.reason,
       error = excluded.error, parked_at = excluded.parked_at, state = excluded.state,
       coordinates = excluded.coordinates";

macro_rules! columns {
    () => {
        "SELECT id, handler, event_id, aggregate_type, aggregate_id, sequence_number, reason, error, parked_at, state, \
         coordinates FROM dead_letters "
    };
}

const GET: &str = concat!(columns!(), "WHERE id = $1");
const LIST: &str = concat!(
    columns!(),
    "WHERE ($1::uuid IS NULL OR id > $1) AND ($2::text IS NULL OR state = $2) ORDER BY id LIMIT $3"
);
const OF_AGGREGATE: &str = concat!(
    columns!(),
    "WHERE handler = $1 AND aggregate_type = $2 AND aggregate_id = $3 AND state = 'parked' ORDER BY sequence_number, id"
);

#[async_trait]
impl DeadLetters for Database {
    async fn put(&self, letters: &[DeadLetter]) -> Result<()> {
        // Each once, the last one counts, in the order of ids.
        let letters: Vec<&DeadLetter> =
            letters.iter().map(|letter| (letter.id, letter)).collect::<BTreeMap<_, _>>().into_values().collect();
        let texts = |field: fn(&DeadLetter) -> &str| letters.iter().map(|l| without_nul(field(l))).collect::<Vec<_>>();
        let arguments = Arguments::default()
            .with(letters.iter().map(|l| Id(l.id)).collect::<Vec<_>>())
            .with(texts(|l| &l.handler))
            .with(letters.iter().map(|l| l.event_id.map(Id)).collect::<Vec<_>>())
            .with(texts(|l| &l.aggregate_type))
            .with(texts(|l| &l.aggregate_id))
            .with(letters.iter().map(|l| int(l.sequence_number)).collect::<Vec<_>>())
            .with(texts(|l| &l.reason))
            .with(texts(|l| &l.error))
            .with(letters.iter().map(|l| Time(l.parked_at)).collect::<Vec<_>>())
            .with(texts(|l| &l.state))
            .with(letters.iter().map(|l| l.coordinates.as_deref().map(without_nul)).collect::<Vec<_>>());
        self.inner.pool.write(PUT, arguments).await?;
        Ok(())
    }

    async fn get(&self, id: Uuid) -> Result<Option<DeadLetter>> {
        let rows = self.inner.pool.read(GET, Arguments::default().with(Id(id))).await?;
        rows.first().map(letter).transpose()
    }

    async fn list(&self, state: Option<&str>, after: Option<Uuid>, count: usize) -> Result<Vec<DeadLetter>> {
        let arguments = Arguments::default().with(after.map(Id)).with(state).with(limit(count));
        self.inner.pool.read(LIST, arguments).await?.iter().map(letter).collect()
    }

    async fn of_aggregate(&self, handler: &str, aggregate_type: &str, aggregate_id: &str) -> Result<Vec<DeadLetter>> {
        let arguments = Arguments::default().with(handler).with(aggregate_type).with(aggregate_id);
        self.inner.pool.read(OF_AGGREGATE, arguments).await?.iter().map(letter).collect()
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
    })
}
