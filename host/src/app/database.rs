//! The database of everything derived, chosen once: SQLite in the data folder, or PostgreSQL when `POSTGRES_URL` is
//! set. What only one of them has or needs is told apart here and nowhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::adapter::{postgres, sqlite};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::port;
use crate::port::clock::Clock;
use crate::port::index::Index;
use crate::port::read_model::ReadModel;
use crate::port::read_model::builds::Builds;
use crate::port::registry::{DeadLetters, Registry};

/// How often a process asks whether another has finished opening the database they share.
const TURN_INTERVAL: Duration = Duration::from_millis(200);

/// One of the two. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Database {
    Sqlite(sqlite::Database),
    Postgres(postgres::Database),
}

/// The right to bring a shared database to the log's end. Others wait until it is dropped.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for its drop")] Option<postgres::Opening>);

impl Database {
    /// Opens the database and brings its tables up to date, alone. With PostgreSQL, processes open one after another.
    pub async fn open(config: &Config, metrics: &Metrics, clock: &dyn Clock) -> anyhow::Result<(Database, Turn)> {
        let Some(url) = &config.postgres_url else {
            return Ok((Database::Sqlite(sqlite::Database::open(&sqlite_file(config)).await?), Turn(None)));
        };
        let database = postgres::Database::at(url.reveal(), metrics)?;
        for look in 0u32.. {
            if let Some(opening) = database.try_open().await? {
                return Ok((Database::Postgres(database), Turn(Some(opening))));
            }
            if look == 0 {
                tracing::info!("another process opens the database; waiting for it");
            }
            clock.sleep(TURN_INTERVAL).await;
        }
        unreachable!("the looks are not counted to their end")
    }

    /// The database for a check that changes nothing; `None` when there is none.
    pub async fn open_to_check(config: &Config) -> anyhow::Result<Option<Database>> {
        if let Some(url) = &config.postgres_url {
            let database = postgres::Database::at(url.reveal(), &Metrics::new())?;
            return Ok(database.exists().await?.then_some(Database::Postgres(database)));
        }
        let path = sqlite_file(config);
        if !path.is_file() {
            return Ok(None);
        }
        let database = sqlite::Database::open(&path).await.with_context(|| format!("open {}", path.display()))?;
        Ok(Some(Database::Sqlite(database)))
    }

    /// Makes the next opening of the log rebuild everything. Nothing must be running on it.
    pub async fn forget(config: &Config, clock: &dyn Clock) -> anyhow::Result<()> {
        if config.postgres_url.is_some() {
            let (database, _turn) = Database::open(config, &Metrics::new(), clock).await?;
            if let Database::Postgres(database) = &database {
                database.forget().await?;
            }
            database.close().await;
            return Ok(());
        }
        let path = sqlite_file(config);
        for suffix in ["", "-wal", "-shm"] {
            let file = PathBuf::from(format!("{}{suffix}", path.display()));
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot delete {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Number of this run of this process, so that claims of its earlier runs are taken over at once. A shared database
    /// counts for every process; else the data folder does.
    pub async fn next_run(&self, owner: &str, data_dir: &Path) -> anyhow::Result<u64> {
        match self {
            Database::Sqlite(_) => next_run_of_folder(data_dir),
            Database::Postgres(database) => Ok(database.next_run(owner).await?),
        }
    }

    /// Work that can wait until nothing else is to be done.
    pub async fn refresh_text(&self) -> port::Result<usize> {
        match self {
            Database::Sqlite(database) => database.refresh_text().await,
            // Words are indexed with the documents.
            Database::Postgres(_) => Ok(0),
        }
    }

    /// What is to be done now and then: SQLite writes the claims that ended; of PostgreSQL it is found out whether it
    /// is there, when nothing else asked it lately. An error ends the process: it must begin anew.
    pub async fn look_after(&self) -> port::Result<()> {
        match self {
            Database::Sqlite(database) => {
                if let Err(error) = database.settle().await {
                    tracing::warn!(%error, "writing ended claims");
                }
                Ok(())
            }
            Database::Postgres(database) => database.look_after().await,
        }
    }

    /// Name of the part, and what is wrong with it as far as is known.
    pub fn trouble(&self) -> (&'static str, Option<String>) {
        match self {
            Database::Sqlite(_) => ("SQLite", None),
            Database::Postgres(database) => ("PostgreSQL", database.trouble()),
        }
    }

    pub async fn close(&self) {
        match self {
            Database::Sqlite(database) => database.close().await,
            Database::Postgres(database) => database.close().await,
        }
    }

    pub fn index(&self) -> Arc<dyn Index> {
        match self {
            Database::Sqlite(database) => database.index(),
            Database::Postgres(database) => database.index(),
        }
    }

    pub fn registry(&self) -> Arc<dyn Registry> {
        match self {
            Database::Sqlite(database) => database.registry(),
            Database::Postgres(database) => database.registry(),
        }
    }

    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        match self {
            Database::Sqlite(database) => database.dead_letters(),
            Database::Postgres(database) => database.dead_letters(),
        }
    }

    pub fn builds(&self) -> Arc<dyn Builds> {
        match self {
            Database::Sqlite(database) => database.builds(),
            Database::Postgres(database) => database.builds(),
        }
    }

    pub fn read_model(&self) -> Arc<dyn ReadModel> {
        match self {
            Database::Sqlite(database) => database.read_model(),
            Database::Postgres(database) => database.read_model(),
        }
    }
}

fn sqlite_file(config: &Config) -> PathBuf {
    config.data_dir.join(sqlite::FILE_NAME)
}

fn next_run_of_folder(data_dir: &Path) -> anyhow::Result<u64> {
    let path = data_dir.join("run");
    let last = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let run: u64 = last + 1;
    std::fs::write(&path, format!("{run}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(run)
}
