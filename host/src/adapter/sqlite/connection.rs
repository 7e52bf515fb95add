//! Connections: one writer, since SQLite has one anyway, and a few readers, each with a snapshot per statement. No
//! transaction survives a call that was dropped half-way: the next writer rolls it back first (I6).

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection as _, query_with};
use tokio::sync::{Mutex, MutexGuard, Semaphore};

/// Readers at once: each is a thread with a page cache, and more than the cores give nothing.
const READERS_MAX: usize = 4;
/// How long a statement waits for another process that writes (an operator's shell).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

fn options(path: &Path, cache_kib: u32) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("temp_store", "memory")
        .pragma("cache_size", format!("-{cache_kib}"))
        .statement_cache_capacity(64)
}

pub(super) fn writer_options(path: &Path) -> SqliteConnectOptions {
    // Checkpoints copy pages that were written many times only once: every 64 MiB instead of every 4.
    options(path, 32 * 1024).pragma("wal_autocheckpoint", "16000").pragma("journal_size_limit", "134217728")
}

fn reader_options(path: &Path) -> SqliteConnectOptions {
    options(path, 4 * 1024).create_if_missing(false).pragma("query_only", "on")
}

/// Arguments of a statement, collected one after another.
#[derive(Debug, Default)]
pub(super) struct Arguments(SqliteArguments);

impl Arguments {
    pub(super) fn with<'q, T>(mut self, value: T) -> Self
    where
        T: sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        use sqlx::Arguments as _;
        self.0.add(value).expect("texts, numbers and bytes always encode");
        self
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    options: SqliteConnectOptions,
    session: Mutex<Session>,
}

#[derive(Debug)]
struct Session {
    connection: Option<SqliteConnection>,
    /// A transaction may be open: set before each statement, cleared when a call came to its end.
    open: bool,
}

impl Writer {
    pub(super) fn new(path: &Path, connection: SqliteConnection) -> Writer {
        Writer {
            options: writer_options(path),
            session: Mutex::new(Session { connection: Some(connection), open: false }),
        }
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.session.lock().await.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "closing the database");
        }
    }

    /// Runs a string of statements that begins and ends its transaction itself; on error nothing of it stays.
    pub(super) async fn run(&self, sql: &'static str, arguments: Arguments) -> sqlx::Result<Vec<SqliteRow>> {
        let mut turn = self.turn().await?;
        let rows = turn.run(sql, arguments).await?;
        turn.finish();
        Ok(rows)
    }

    /// The writer, for several strings of statements in one transaction.
    pub(super) async fn turn(&self) -> sqlx::Result<Turn<'_>> {
        let mut session = self.session.lock().await;
        if session.connection.is_none() {
            session.connection = Some(SqliteConnection::connect_with(&self.options).await?);
            session.open = false;
        }
        let mut turn = Turn { session };
        turn.roll_back().await?;
        Ok(turn)
    }
}

/// Exclusive use of the writer. Dropped before `finish`, whatever it began is rolled back by the next one.
pub(super) struct Turn<'a> {
    session: MutexGuard<'a, Session>,
}

impl Turn<'_> {
    pub(super) async fn run(&mut self, sql: &'static str, arguments: Arguments) -> sqlx::Result<Vec<SqliteRow>> {
        self.session.open = true;
        let connection = self.session.connection.as_mut().ok_or(sqlx::Error::WorkerCrashed)?;
        let result = query_with(sql, arguments.0).fetch_all(connection).await;
        match result {
            Err(sqlx::Error::WorkerCrashed) => {
                self.session.connection = None;
                Err(sqlx::Error::WorkerCrashed)
            }
            Err(error) => {
                self.roll_back().await?;
                Err(error)
            }
            Ok(rows) => Ok(rows),
        }
    }

    #[cfg(test)]
    pub(super) async fn explain(&mut self, sql: sqlx::AssertSqlSafe<String>) -> sqlx::Result<Vec<SqliteRow>> {
        let connection = self.session.connection.as_mut().ok_or(sqlx::Error::WorkerCrashed)?;
        sqlx::query(sql).fetch_all(connection).await
    }

    /// The last statement was a `COMMIT` or `ROLLBACK`.
    pub(super) fn finish(mut self) {
        self.session.open = false;
    }

    async fn roll_back(&mut self) -> sqlx::Result<()> {
        if !self.session.open {
            return Ok(());
        }
        let Some(connection) = self.session.connection.as_mut() else { return Ok(()) };
        match sqlx::query("ROLLBACK").execute(connection).await {
            Ok(_) => {}
            // SQLite ends the transaction itself on some errors, and a string of one statement begins none.
            Err(error) if error.to_string().contains("no transaction is active") => {}
            Err(error) => {
                self.session.connection = None;
                return Err(error);
            }
        }
        self.session.open = false;
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    permits: Semaphore,
    idle: parking_lot::Mutex<Vec<SqliteConnection>>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Readers {
        Readers { path: path.to_owned(), permits: Semaphore::new(READERS_MAX), idle: parking_lot::Mutex::default() }
    }

    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        for connection in idle {
            if let Err(error) = connection.close().await {
                tracing::warn!(%error, "closing the database");
            }
        }
    }

    /// Runs one statement: one snapshot. Dropped half-way, its connection is thrown away.
    pub(super) async fn run(&self, sql: &'static str, arguments: Arguments) -> sqlx::Result<Vec<SqliteRow>> {
        let _permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.idle.lock().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => SqliteConnection::connect_with(&reader_options(&self.path)).await?,
        };
        let result = query_with(sql, arguments.0).fetch_all(&mut connection).await;
        if !matches!(result, Err(sqlx::Error::WorkerCrashed)) {
            self.idle.lock().push(connection);
        }
        result
    }
}
