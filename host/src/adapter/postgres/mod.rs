//! PostgreSQL for everything derived: the log's index, the registry, dead letters, checkpoints, the read model, in the
//! schema `spice_event_registry`. The schema can be dropped at any time (I1).
//!
//! A round trip costs far more than what a statement does: every call here is **one statement**, with its rows as
//! arrays, that is a transaction by itself (data-modifying `WITH`). The parts of such a statement see one snapshot and
//! never each other's writes. Rows are locked in the order of their keys, so that two processes cannot lock each other
//! out; who wins a race is a constraint's to say, never a read followed by a write (I6).
//!
//! Plans are made once, often while the tables are empty. So a statement that has a list of keys takes the whole key
//! from it (`WITH asked AS MATERIALIZED`), also the part that is the same for all: there is then no other way to its
//! rows than to seek each, whatever the planner believes of the table.

mod builds;
mod connection;
mod dead_letters;
mod index;
mod opening;
mod read_model;
mod registry;
mod search;
mod terms;
mod values;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use self::connection::{Arguments, Counters, Pool};
use self::values::Id;
use super::rows::{WHAT, corrupt};
use crate::metrics::{Metrics, Sql};
use crate::port::index::Index;
use crate::port::read_model::ReadModel;
use crate::port::read_model::builds::Builds;
use crate::port::registry::{DeadLetters, Registry};
use crate::port::{Error, Result};

pub use opening::Opening;

/// The schema of all tables.
pub const SCHEMA: &str = "spice_event_registry";

/// One database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Pool,
    /// By handler and owner: claims sent whose answer never came. The next claim of them takes over what they took.
    unsure: Mutex<HashMap<(String, String), HashSet<Uuid>>>,
    /// Where the next look for rows to retire begins.
    retire_from: Mutex<i64>,
}

impl Database {
    /// The database at a URL; nothing is connected yet.
    pub fn at(url: &str, metrics: &Metrics) -> Result<Database> {
        let counters = Counters { reads: metrics.sql(Sql::Read), writes: metrics.sql(Sql::Write) };
        let pool = Pool::new(url, counters)?;
        Ok(Database { inner: Arc::new(Inner { pool, unsure: Mutex::default(), retire_from: Mutex::default() }) })
    }

    /// Ends the connections that nobody uses. Later calls open them again.
    pub async fn close(&self) {
        self.inner.pool.close().await;
    }

    /// Finds out whether the server is there, when no call did lately; `trouble` tells. An error when no waiting mends
    /// it, and this process must begin anew.
    pub async fn look_after(&self) -> Result<()> {
        match self.inner.pool.read("SELECT 1", Arguments::default()).await {
            Err(error @ Error::Refused { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// Why the last call did not reach the server; `None` when it did.
    pub fn trouble(&self) -> Option<String> {
        self.inner.pool.trouble()
    }

    /// The number of a new run of a process: greater than that of every run before it under this name.
    pub async fn next_run(&self, owner: &str) -> Result<u64> {
        const NEXT: &str = "
INSERT INTO owner_runs AS o (owner, run) VALUES ($1, 1)
    ON CONFLICT (owner) DO UPDATE SET run = o.run + 1
RETURNING run";
        let rows = self.inner.pool.write(NEXT, Arguments::default().with(owner)).await?;
        unsigned(rows.first().ok_or_else(|| corrupt("a run has no number"))?, 0)
    }

    /// Unbinds the database from its store, so that the next opening of the log rebuilds all of it.
    pub async fn forget(&self) -> Result<()> {
        self.inner.pool.write("DELETE FROM store", Arguments::default()).await?;
        Ok(())
    }

    /// The index of the log.
    pub fn index(&self) -> Arc<dyn Index> {
        Arc::new(self.clone())
    }

    /// The registry of processed events.
    pub fn registry(&self) -> Arc<dyn Registry> {
        Arc::new(self.clone())
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::new(self.clone())
    }

    /// The builds of the read model.
    pub fn builds(&self) -> Arc<dyn Builds> {
        Arc::new(self.clone())
    }

    /// The read model.
    pub fn read_model(&self) -> Arc<dyn ReadModel> {
        Arc::new(self.clone())
    }
}

/// What a failure of the server means for a caller of the ports.
fn failed(error: sqlx::Error) -> Error {
    let reason = error.to_string();
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some("42P01" | "3F000" | "42703") => Error::Unavailable {
            what: WHAT,
            reason: format!("{reason}; its tables are gone: start this process again, it rebuilds them from the log"),
        },
        Some("3D000" | "42501") => Error::Refused { what: WHAT, reason },
        Some(code) if code.starts_with("28") => Error::Refused { what: WHAT, reason },
        // No connection, out of resources, shut down, gave way to others, a lock not given, I/O, a standby.
        Some(code) if ["08", "53", "57", "40", "55", "58", "25"].iter().any(|class| code.starts_with(class)) => {
            Error::Unavailable { what: WHAT, reason }
        }
        Some(_) => Error::Corrupt { what: WHAT, reason },
        None if matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
            Error::Corrupt { what: WHAT, reason }
        }
        None if matches!(error, sqlx::Error::Configuration(_)) => Error::Refused { what: WHAT, reason },
        None => Error::Unavailable { what: WHAT, reason },
    }
}

/// One field of a row by place; the statements here fix the types.
fn get<'r, T>(row: &'r PgRow, column: usize) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Postgres>,
{
    use sqlx::Row as _;
    row.try_get_unchecked(column).map_err(failed)
}

fn unsigned(row: &PgRow, column: usize) -> Result<u64> {
    let number: i64 = get(row, column)?;
    u64::try_from(number).map_err(|_| corrupt(format!("a count is {number}")))
}

fn uuid(row: &PgRow, column: usize) -> Result<Uuid> {
    Ok(get::<Id>(row, column)?.0)
}

/// The server's texts hold every character but one, which a handler's message may hold.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}
