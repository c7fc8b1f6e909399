//! Both kinds of database, empty and migrated, for tests that must hold on either.

use std::sync::Arc;

use mcp_server::database::{Database, DatabaseTarget};
use mcp_server::tools::shared_context::limits::Quotas;
use mcp_server::tools::shared_context::{self, Storage};
use prometheus_client::registry::Registry;
use tempfile::TempDir;

use super::postgres::{self, SHARED};

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
