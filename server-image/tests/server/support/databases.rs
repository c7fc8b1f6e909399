//! Both kinds of database, empty and migrated, for tests that must hold on either.

use std::sync::Arc;

use futures::future::join_all;
use mcp_server::database::{Database, DatabaseTarget};
use mcp_server::server::Settings;
use mcp_server::tools::shared_context::limits::Quotas;
use mcp_server::tools::shared_context::{self, Storage};
use prometheus_client::registry::Registry;
use tempfile::TempDir;

use super::postgres::{self, SHARED};
use super::server::TestServer;

/// A database of one kind with the shared context's tables.
pub struct TestDatabase {
    /// Which kind, for messages.
    pub kind: &'static str,
    /// What is tested.
    pub storage: Arc<dyn Storage>,
    /// Where it is.
    pub url: String,
    _folder: Option<TempDir>,
}

/// An empty database of each kind.
pub async fn both() -> [TestDatabase; 2] {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("test.db").display());
    [
        open("SQLite", sqlite, Some(folder)).await,
        open("Postgres", SHARED.database().await, None).await,
    ]
}

async fn open(kind: &'static str, url: String, folder: Option<TempDir>) -> TestDatabase {
    let target: DatabaseTarget = url.parse().unwrap();
    let database = Database::open(&target, 8, &mut Registry::default()).unwrap();
    database.migrate(shared_context::MIGRATIONS).await.unwrap();
    TestDatabase {
        kind,
        storage: shared_context::open(&database, Quotas::default()),
        url,
        _folder: folder,
    }
}

impl TestDatabase {
    /// As many servers with these settings as the database may have: two replicas, or the one of a SQLite file.
    pub async fn servers(&self, settings: &Settings) -> Vec<TestServer> {
        let count = if self.url.starts_with("sqlite:") { 1 } else { 2 };
        join_all((0..count).map(|_| TestServer::start(settings.clone()))).await
    }

    /// How many lines a table has.
    pub async fn count(&self, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        match self.url.strip_prefix("sqlite:") {
            Some(path) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.query_row(&sql, [], |row| row.get(0)).unwrap()
            }
            None => postgres::connect(&self.url)
                .await
                .query_one(&sql, &[])
                .await
                .unwrap()
                .get(0),
        }
    }

    /// Changes data behind the storage's back, in the dialect of either kind.
    pub async fn execute(&self, sqlite: &str, postgres: &str) {
        match self.url.strip_prefix("sqlite:") {
            Some(path) => rusqlite::Connection::open(path).unwrap().execute_batch(sqlite).unwrap(),
            None => postgres::connect(&self.url)
                .await
                .batch_execute(postgres)
                .await
                .unwrap(),
        }
    }
}
