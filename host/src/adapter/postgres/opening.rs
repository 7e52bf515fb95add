//! Opening: one process at a time brings the tables up to date and, with what it does before it lets go, the index to
//! the log's end. An advisory lock, since no constraint can say who rebuilds everything.

use sqlx::Connection as _;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnection;

use super::connection::Arguments;
use super::{Database, SCHEMA, WHAT, failed, get};
use crate::port::{Error, Result};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/postgres");

/// The number of the lock: "carryall" in ASCII.
const LOCK: i64 = 0x6361_7272_7961_6c6c;

/// The right to open; others wait until it is dropped. Lost with its connection.
#[derive(Debug)]
pub struct Opening {
    connection: PgConnection,
}

impl Database {
    /// Takes the right to open if nobody has it, and brings the tables up to date. `None`: another process opens now.
    pub async fn try_open(&self) -> Result<Option<Opening>> {
        let mut connection = self.inner.pool.connect().await?;
        let locked = sqlx::query("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut connection).await;
        if !get::<bool>(&locked.map_err(failed)?, 0)? {
            return Ok(None);
        }
        // Asked first: to create what exists needs a right that its user may lack.
        let exists = sqlx::query("SELECT 1 FROM pg_namespace WHERE nspname = $1").bind(SCHEMA);
        if exists.fetch_optional(&mut connection).await.map_err(failed)?.is_none() {
            sqlx::query("CREATE SCHEMA spice_event_registry").execute(&mut connection).await.map_err(failed)?;
        }
        MIGRATIONS.run(&mut connection).await.map_err(|error| match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => failed(cause),
            other => Error::Refused {
                what: WHAT,
                reason: format!(
                    "its schema {SCHEMA} was written by another version of this program ({other}): run that version, \
                     or drop the schema; all of it is rebuilt from the event log"
                ),
            },
        })?;
        Ok(Some(Opening { connection }))
    }

    /// Whether the tables are there and belong to a store: what a check at rest may look at.
    pub async fn exists(&self) -> Result<bool> {
        const EXISTS: &str = "SELECT to_regclass('spice_event_registry.store') IS NOT NULL";
        let rows = self.inner.pool.read(EXISTS, Arguments::default()).await?;
        rows.first().map_or(Ok(false), |row| get(row, 0))
    }
}

impl Opening {
    /// Lets others open.
    pub async fn done(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "closing a connection of the database");
        }
    }
}
