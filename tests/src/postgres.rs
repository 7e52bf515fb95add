//! A PostgreSQL database of one test's own, on the server of the tests, dropped with it. Also compiled into the host's
//! own tests; knows nothing else.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use super::services;

/// A fresh database under a random name.
pub struct Postgres {
    server: String,
    name: String,
}

impl Postgres {
    pub async fn create() -> Postgres {
        Self::create_on(services::postgres()).await
    }

    /// On a server that the tests do not share.
    pub async fn create_on(server: String) -> Postgres {
        #[allow(clippy::disallowed_methods)] // A test draws its own names.
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let database = Postgres { server, name };
        database.on_server(format!("CREATE DATABASE {}", database.name)).await;
        database
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.url_at(self.address())
    }

    /// Its URL with the server at another address.
    pub fn url_at(&self, address: &str) -> String {
        let (before, _) = self.server.split_once(self.address()).expect("a URL holds its address");
        format!("{before}{address}/{}", self.name)
    }

    /// `host:port` of the server.
    pub fn address(&self) -> &str {
        let authority = self.server.split("://").nth(1).expect("a URL has a scheme");
        let authority = authority.split('/').next().unwrap_or(authority);
        authority.rsplit('@').next().unwrap_or(authority)
    }

    /// Runs a statement.
    pub async fn execute(&self, sql: &str) {
        let mut connection = PgConnection::connect(&self.url()).await.expect("the test's database");
        connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The texts of the first column.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let mut connection = PgConnection::connect(&self.url()).await.expect("the test's database");
        let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await;
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn on_server(&self, sql: String) {
        let mut connection = PgConnection::connect(&self.server).await.expect("the PostgreSQL of the tests");
        connection.execute(AssertSqlSafe(sql)).await.expect("its user may create databases");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The test's own runtime may be ending, so this one has a thread and a runtime to itself.
        let dropped = std::thread::scope(|scope| {
            let dropping = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(self.on_server(format!("DROP DATABASE {} WITH (FORCE)", self.name)));
                std::io::Result::Ok(())
            });
            dropping.join()
        });
        assert!(matches!(dropped, Ok(Ok(()))) || std::thread::panicking(), "the database {} stays", self.name);
    }
}
