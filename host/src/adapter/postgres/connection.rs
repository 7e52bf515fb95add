//! Connections: a few, kept while they work. Every call has a time limit and a bound on who waits, so that a database
//! that is away is told at once and a hung one soon (I10). A connection whose call failed or was dropped half-way is
//! thrown away: the server ends what was open on it, so that no transaction outlives its call (I6).

use std::str::FromStr as _;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions as _, Connection as _, query_with};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::{SCHEMA, WHAT, failed, get};
use crate::metrics::Counter;
use crate::port::{Error, Result};

/// Connections of one process: more than the server's cores give nothing, and a server allows 100 by default.
const CONNECTIONS_MAX: usize = 16;
/// How long a call waits for a connection: others hold all of them for as long only when the server is stuck.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it takes to connect, at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any statement here runs but a reset of a great database; the server gives up a little earlier.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
const SERVER_STATEMENT_TIMEOUT_MS: &str = "55000";
/// Waiting longer for a row or table means that somebody's transaction hangs.
const SERVER_LOCK_TIMEOUT_MS: &str = "10000";
/// A connection idle for longer is asked whether it lives, since the server may have gone meanwhile.
const IDLE_TRUSTED: Duration = Duration::from_secs(2);
/// An idle connection is closed after this, so that a quiet process holds few.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Connections are renewed, so that a server's memory for one stays bounded and a moved address is noticed.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// Times a statement is sent that the server gave up in favour of another (deadlock, serialisation).
const SENT_MAX: u32 = 5;

/// Which server this is, and which of its histories: another one after a promotion or a restore.
const HISTORY: &str =
    "SELECT system_identifier::text || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_control_system()";

/// Arguments of a statement, collected one after another.
#[derive(Debug, Default, Clone)]
pub(super) struct Arguments(PgArguments);

impl Arguments {
    pub(super) fn with<'q, T>(mut self, value: T) -> Self
    where
        T: sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        use sqlx::Arguments as _;
        self.0.add(value).expect("texts, numbers, ids and lists of them always encode");
        self
    }
}

/// How statements are counted for the operator: one sent is one round trip.
#[derive(Debug)]
pub(super) struct Counters {
    pub reads: Counter,
    pub writes: Counter,
}

#[derive(Debug)]
pub(super) struct Pool {
    options: PgConnectOptions,
    places: Semaphore,
    idle: Mutex<Vec<Idle>>,
    /// Why the last call did not reach the server.
    trouble: Mutex<Option<String>>,
    /// Of the first connection.
    history: Mutex<Option<String>>,
    counters: Counters,
}

#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    born: Instant,
    since: Instant,
}

/// A connection for several statements, thrown away unless it is given back.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pool: &'a Pool,
    connection: PgConnection,
    born: Instant,
    _place: SemaphorePermit<'a>,
}

impl Pool {
    /// Connects to nothing yet. `Refused` when the URL is none.
    pub(super) fn new(url: &str, counters: Counters) -> Result<Pool> {
        let options = PgConnectOptions::from_str(url).map_err(|error| Error::Refused {
            what: WHAT,
            reason: format!("POSTGRES_URL is no address of a PostgreSQL database ({error})"),
        })?;
        let options = options
            .application_name("carryall")
            .statement_cache_capacity(128)
            .options([
                ("search_path", SCHEMA),
                ("statement_timeout", SERVER_STATEMENT_TIMEOUT_MS),
                ("lock_timeout", SERVER_LOCK_TIMEOUT_MS),
                ("idle_in_transaction_session_timeout", SERVER_STATEMENT_TIMEOUT_MS),
                // Every statement finds its rows by key. A plan that was made while a table was small must not read
                // the whole of it, or hash it, when it is great.
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("jit", "off"),
                // What a process that vanished held is free after a minute.
                ("tcp_keepalives_idle", "30"),
                ("tcp_keepalives_interval", "10"),
                ("tcp_keepalives_count", "3"),
            ])
            .disable_statement_logging();
        let places = Semaphore::new(CONNECTIONS_MAX);
        Ok(Pool {
            options,
            places,
            idle: Mutex::default(),
            trouble: Mutex::default(),
            history: Mutex::default(),
            counters,
        })
    }

    /// Runs one statement that reads: one snapshot. Sent again on a fresh connection when the first was a dead one.
    pub(super) async fn read(&self, sql: &'static str, arguments: Arguments) -> Result<Vec<PgRow>> {
        self.counters.reads.add(1);
        let mut session = self.session().await?;
        match session.send(sql, arguments.clone()).await {
            Ok(rows) => {
                session.finish();
                Ok(rows)
            }
            Err(error) if is_broken(&error) => {
                drop(session);
                self.idle.lock().clear();
                self.counters.reads.add(1);
                let mut session = self.session().await?;
                let rows = session.send(sql, arguments).await.map_err(failed)?;
                session.finish();
                Ok(rows)
            }
            Err(error) => {
                session.keep_after(&error);
                Err(failed(error))
            }
        }
    }

    /// Runs one statement that writes: one transaction, done whole or not at all.
    pub(super) async fn write(&self, sql: &'static str, arguments: Arguments) -> Result<Vec<PgRow>> {
        self.try_write(sql, arguments).await?.map_err(failed)
    }

    /// Like `write`, with a refusal of the server for the caller to understand.
    pub(super) async fn try_write(&self, sql: &'static str, arguments: Arguments) -> Result<sqlx::Result<Vec<PgRow>>> {
        let mut session = self.session().await?;
        let mut sent = 1;
        loop {
            self.counters.writes.add(1);
            match session.send(sql, arguments.clone()).await {
                Ok(rows) => {
                    session.finish();
                    return Ok(Ok(rows));
                }
                Err(error) if gave_way(&error) && sent < SENT_MAX => sent += 1,
                Err(error) => {
                    if is_broken(&error) {
                        self.idle.lock().clear();
                    }
                    session.keep_after(&error);
                    return Ok(Err(error));
                }
            }
        }
    }

    /// A connection for several statements.
    pub(super) async fn session(&self) -> Result<Session<'_>> {
        let busy = |_| unavailable("all connections are busy");
        let place = timeout(ACQUIRE_TIMEOUT, self.places.acquire()).await.map_err(busy)?;
        let place = place.map_err(|_| unavailable("the connections are closed"))?;
        while let Some(idle) = self.pop() {
            let Idle { mut connection, born, since } = idle;
            let alive = since.elapsed() < IDLE_TRUSTED
                || matches!(timeout(CONNECT_TIMEOUT, connection.ping()).await, Ok(Ok(())));
            if alive {
                return Ok(Session { pool: self, connection, born, _place: place });
            }
        }
        let connection = self.connect().await?;
        Ok(Session { pool: self, connection, born: Instant::now(), _place: place })
    }

    /// A connection of its own, outside the pool's number.
    pub(super) async fn connect(&self) -> Result<PgConnection> {
        let connected = match timeout(CONNECT_TIMEOUT, self.connect_to_history()).await {
            Ok(connected) => connected,
            Err(_) => Err(unavailable("it does not answer")),
        };
        if let Err(error) = &connected {
            *self.trouble.lock() = Some(error.to_string());
        }
        connected
    }

    /// Refuses a server that may have forgotten what it acknowledged to this process: consumers keep positions in
    /// memory, and would go on behind a hole (I7). A new process takes its positions from the server as it is.
    async fn connect_to_history(&self) -> Result<PgConnection> {
        let mut connection = PgConnection::connect_with(&self.options).await.map_err(failed)?;
        let row = query_with(HISTORY, PgArguments::default()).fetch_one(&mut connection).await.map_err(failed)?;
        let history: String = get(&row, 0)?;
        let mut known = self.history.lock();
        match &*known {
            Some(known) if *known != history => Err(Error::Refused {
                what: WHAT,
                reason: format!(
                    "the server was promoted, restored or replaced ({known} is {history} now) and may lack what this \
                     process wrote: start the process again, it goes on from what the server has"
                ),
            }),
            _ => {
                *known = Some(history);
                Ok(connection)
            }
        }
    }

    /// Why the last call did not reach the server; `None` when it did.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Makes this pool remember a history that no server has; gives it.
    #[cfg(test)]
    pub(super) fn history_of_another_server(&self) -> String {
        let another = "0/00000001".to_owned();
        *self.history.lock() = Some(another.clone());
        another
    }

    fn pop(&self) -> Option<Idle> {
        let mut idle = self.idle.lock();
        idle.retain(|idle| idle.since.elapsed() < IDLE_MAX && idle.born.elapsed() < AGE_MAX);
        idle.pop()
    }

    /// Ends the connections that nobody uses. Later calls open them again.
    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        for Idle { connection, .. } in idle {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "closing a connection of the database");
            }
        }
    }
}

impl Session<'_> {
    /// Sends one statement of several.
    pub(super) async fn run(&mut self, sql: &'static str, arguments: Arguments) -> Result<Vec<PgRow>> {
        self.pool.counters.writes.add(1);
        self.send(sql, arguments).await.map_err(failed)
    }

    pub(super) async fn send(&mut self, sql: &'static str, arguments: Arguments) -> sqlx::Result<Vec<PgRow>> {
        let answer = timeout(STATEMENT_TIMEOUT, query_with(sql, arguments.0).fetch_all(&mut self.connection)).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time")))
        });
        let broken = answer.as_ref().err().filter(|error| is_broken(error));
        *self.pool.trouble.lock() = broken.map(ToString::to_string);
        answer
    }

    /// No transaction is open: the connection serves others.
    pub(super) fn finish(self) {
        let idle = Idle { connection: self.connection, born: self.born, since: Instant::now() };
        self.pool.idle.lock().push(idle);
    }

    /// After the refusal of a single statement the connection is as good as before.
    fn keep_after(self, error: &sqlx::Error) {
        if matches!(error, sqlx::Error::Database(_)) && !is_broken(error) {
            self.finish();
        }
    }
}

/// The connection is of no use any more; whether the statement took effect is not known.
fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        // The server goes, or ends this connection.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| matches!(&*code, "57P01" | "57P02" | "57P03")),
        other => !matches!(other, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)),
    }
}

/// The server undid the statement in favour of another's: sent again, it goes through.
fn gave_way(error: &sqlx::Error) -> bool {
    const SERIALIZATION_FAILURE: &str = "40001";
    const DEADLOCK_DETECTED: &str = "40P01";
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| matches!(&*code, SERIALIZATION_FAILURE | DEADLOCK_DETECTED))
}

fn unavailable(reason: &str) -> Error {
    Error::Unavailable { what: WHAT, reason: reason.to_owned() }
}
