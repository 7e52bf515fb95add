//! A database of its own for one test, on the server of `cargo xtask services`, dropped with it.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::super::Database;
use crate::metrics::Metrics;
use crate::tests::services;

pub struct TestDatabase {
    server: String,
    name: String,
    pub url: String,
}

impl TestDatabase {
    pub async fn create() -> TestDatabase {
        let server = services::postgres();
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&server).await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        let (address, _) = server.rsplit_once('/').unwrap();
        TestDatabase { url: format!("{address}/{name}"), server, name }
    }

    /// The database as another process would open it.
    pub async fn open(&self) -> Database {
        let database = Database::at(&self.url, &Metrics::new()).unwrap();
        loop {
            if let Some(opening) = database.try_open().await.unwrap() {
                opening.done().await;
                return database;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The same, with empty tables.
    pub async fn empty(&self) -> Database {
        let database = self.open().await;
        database.index().reset(Uuid::nil()).await.unwrap();
        database.forget().await.unwrap();
        database
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let dropping = async move {
            let mut connection = PgConnection::connect(&server).await.unwrap();
            connection.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await.unwrap();
        };
        // The test's own runtime may be ending.
        std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(dropping);
        })
        .join()
        .unwrap();
    }
}
