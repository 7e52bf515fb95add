//! One SQLite file for everything derived: the log's index, the registry, dead letters, checkpoints, the read model.
//! The file can be deleted at any time (I1): so it is written with `synchronous=NORMAL`, and a broken one is moved
//! aside.
//!
//! A call over sqlx costs a hop to the connection's thread, far more than most statements: every write here is one
//! string of statements from `BEGIN` to `COMMIT` with its rows as JSON arrays, so that it is one hop and one cached
//! preparation whatever the number of rows. Parameters are named `$1`, `$2` …, since unnamed ones are counted on over
//! the statements of a string.

mod builds;
mod connection;
mod dead_letters;
mod index;
mod ledger;
mod read_model;
mod registry;
mod search;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::Connection as _;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::SqliteConnection;

use self::connection::{Readers, Writer};
use super::rows::{WHAT, corrupt, int, limit};
use crate::port::index::Index;
use crate::port::read_model::ReadModel;
use crate::port::read_model::builds::Builds;
use crate::port::registry::{DeadLetters, Registry};
use crate::port::{Error, Result};

/// Name of the file in the data folder.
pub const FILE_NAME: &str = "carryall.db";

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

const SQLITE_CORRUPT: u32 = 11;
const SQLITE_NOT_A_DATABASE: u32 = 26;

/// The database of one data folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: Writer,
    readers: Readers,
    /// Claims that are open, and those that wait to be written.
    ledger: parking_lot::Mutex<ledger::Ledger>,
    /// Held for reading from a look at the table until the claim, for writing to let rows go from memory to the table.
    claiming: tokio::sync::RwLock<()>,
    writing_claims: tokio::sync::Mutex<()>,
    /// Where the next look for rows to retire begins.
    retire_from: parking_lot::Mutex<(String, String)>,
}

impl Database {
    /// Opens the file, creates it when missing, and brings its tables up to date. A file that is no sound database is
    /// moved aside and begun anew, since all of it can be derived again. `Refused` when the file was written by another
    /// version of this program, or may not be opened.
    pub async fn open(path: &Path) -> Result<Database> {
        let connection = match prepare(path).await {
            Ok(connection) => connection,
            Err(OpenError::Broken(reason)) => {
                let kept = move_aside(path)?;
                tracing::warn!(
                    file = %path.display(), kept = %kept.display(), %reason,
                    "the database file is damaged: it was moved aside and is rebuilt from the event log"
                );
                prepare(path).await.map_err(OpenError::into_port)?
            }
            Err(error) => return Err(error.into_port()),
        };
        Ok(Database {
            inner: Arc::new(Inner {
                writer: Writer::new(path, connection),
                readers: Readers::new(path),
                ledger: parking_lot::Mutex::default(),
                claiming: tokio::sync::RwLock::default(),
                writing_claims: tokio::sync::Mutex::default(),
                retire_from: parking_lot::Mutex::default(),
            }),
        })
    }

    /// Writes the claims that ended, as the registry does from time to time by itself.
    pub async fn settle(&self) -> Result<()> {
        self.write_claims(false, None).await
    }

    /// Ends the connections after the calls under way. Later calls open them again.
    pub async fn close(&self) {
        if let Err(error) = self.settle().await {
            tracing::warn!(%error, "writing ended claims; the next run finds out by itself that they ended");
        }
        self.inner.readers.close().await;
        self.inner.writer.close().await;
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

enum OpenError {
    /// No sound database.
    Broken(String),
    Other(Error),
}

impl OpenError {
    fn into_port(self) -> Error {
        match self {
            OpenError::Broken(reason) => Error::Corrupt { what: WHAT, reason },
            OpenError::Other(error) => error,
        }
    }
}

async fn prepare(path: &Path) -> std::result::Result<SqliteConnection, OpenError> {
    let mut connection = SqliteConnection::connect_with(&connection::writer_options(path)).await.map_err(opening)?;
    MIGRATIONS.run(&mut connection).await.map_err(|error| match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => opening(cause),
        other => OpenError::Other(Error::Refused {
            what: WHAT,
            reason: format!(
                "{} was written by another version of this program ({other}): run that version, or delete the file \
                 and its -wal and -shm files; all of it is rebuilt from the event log",
                path.display()
            ),
        }),
    })?;
    Ok(connection)
}

fn opening(error: sqlx::Error) -> OpenError {
    match primary_code(&error) {
        Some(SQLITE_CORRUPT | SQLITE_NOT_A_DATABASE) => OpenError::Broken(error.to_string()),
        _ => OpenError::Other(failed(error)),
    }
}

/// Renames the database file and its journal files to the first free name; gives the new name of the file.
fn move_aside(path: &Path) -> Result<PathBuf> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let refused = |error: std::io::Error| Error::Refused {
        what: WHAT,
        reason: format!("the damaged file {} cannot be moved aside ({error}): delete it", path.display()),
    };
    let kept = (1u32..)
        .map(|number| format!(".damaged-{number}"))
        .find(|suffix| !with(suffix).exists())
        .expect("a folder holds fewer than 2^32 damaged files");
    std::fs::rename(path, with(&kept)).map_err(refused)?;
    for journal in ["-wal", "-shm"] {
        match std::fs::rename(with(journal), with(&format!("{kept}{journal}"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(refused(error)),
            _ => {}
        }
    }
    Ok(with(&kept))
}

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<u32>().ok().map(|extended| extended & 0xff)
}

/// What a failure of SQLite means for a caller of the ports.
fn failed(error: sqlx::Error) -> Error {
    const NO_PERMISSION: u32 = 3;
    const READ_ONLY: u32 = 8;
    const ERROR: u32 = 1;
    const CONSTRAINT: u32 = 19;
    const MISMATCH: u32 = 20;
    let reason = error.to_string();
    match primary_code(&error) {
        Some(SQLITE_CORRUPT | SQLITE_NOT_A_DATABASE) => Error::Corrupt {
            what: WHAT,
            reason: format!(
                "{reason}; stop, delete the file {FILE_NAME} with its -wal and -shm files, start again: it is rebuilt \
                 from the event log"
            ),
        },
        Some(ERROR | CONSTRAINT | MISMATCH) => Error::Corrupt { what: WHAT, reason },
        Some(NO_PERMISSION | READ_ONLY) => Error::Refused { what: WHAT, reason },
        // Busy, locked, I/O error, out of memory, full, cannot open, interrupted: it may work again later.
        Some(_) => Error::Unavailable { what: WHAT, reason },
        None if matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
            Error::Corrupt { what: WHAT, reason }
        }
        None => Error::Unavailable { what: WHAT, reason },
    }
}

/// Rows as one JSON text.
fn json<T: serde::Serialize>(rows: &T) -> String {
    serde_json::to_string(rows).expect("tuples of texts and numbers always serialise")
}

/// Bytes as hex digits in JSON, for SQL's `unhex`.
struct Hex<'a>(&'a [u8]);

impl serde::Serialize for Hex<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in self.0 {
            let pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
            f.write_str(std::str::from_utf8(&pair).expect("hex digits are ASCII"))?;
        }
        Ok(())
    }
}

/// One field of a row by place; the statements here fix the types.
fn get<'r, T>(row: &'r sqlx::sqlite::SqliteRow, column: usize) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite>,
{
    use sqlx::Row as _;
    row.try_get_unchecked(column).map_err(failed)
}

fn unsigned(row: &sqlx::sqlite::SqliteRow, column: usize) -> Result<u64> {
    let number: i64 = get(row, column)?;
    u64::try_from(number).map_err(|_| corrupt(format!("a count is {number}")))
}
