//! Several processes that are one host.
#![allow(clippy::unwrap_used)]

use tempfile::TempDir;

use crate::{Kafka, Log, Options, Postgres, Server};

/// A log in a folder, a PostgreSQL and a Kafka, which processes with different roles share.
pub struct Site {
    pub kafka: Kafka,
    postgres: Postgres,
    folder: TempDir,
    partitions: u16,
}

impl Site {
    pub async fn new(partitions: u16) -> Site {
        Site {
            kafka: Kafka::create(),
            postgres: Postgres::create().await,
            folder: tempfile::tempdir().unwrap(),
            partitions,
        }
    }

    fn options(&self, roles: &str) -> Options {
        let store = format!("file:{}", self.folder.path().join("store").display());
        let options = Options::default()
            .with("EVENT_STORE_URL", &store)
            .with("POSTGRES_URL", &self.postgres.url())
            .with("CARRYALL_PARTITIONS", &self.partitions.to_string())
            .with("CARRYALL_ROLES", roles);
        self.kafka.environment().into_iter().fold(options, |options, (name, value)| options.with(name, value))
    }

    /// Starts a process with these roles.
    pub async fn start(&self, roles: &str) -> Server {
        Server::start(self.options(roles)).await.unwrap()
    }

    /// What is in the log.
    pub fn log(&self) -> Log {
        Log::read(&self.folder.path().join("store")).unwrap()
    }
}

/// Ends processes as an operator does; each must end well.
pub async fn end(servers: impl IntoIterator<Item = &mut Server>) {
    for server in servers {
        assert!(server.terminate().await.unwrap().success(), "{}", server.host_log());
    }
}
