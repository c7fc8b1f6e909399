//! The same server for one client that starts it as a program of its own, such as a desktop application: messages come
//! in on standard input and go out on standard output, one in a line; logs go to standard error.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use rmcp::ServiceExt;
use rmcp::service::ServerInitializeError;
use rmcp::transport::io::stdio_pipes;
use tokio::task::{JoinError, JoinSet};

use crate::cache::Cache;
use crate::changes::{Changes, Relay};
use crate::database::{Database, DatabaseError, PoolSettings};
use crate::drain::Drain;
use crate::mcp::McpHandler;
use crate::mcp::sessions::SessionRecords;
use crate::memory;
use crate::metrics::{container, process};
use crate::migrate;
use crate::report::Performance;
use crate::server::{Settings, StartError, catalog};
use crate::telemetry::Observer;

/// A client that could not be served.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The settings cannot work.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The database does not answer.
    #[error("the database cannot be used: {0}")]
    Database(#[from] DatabaseError),
    /// What came in was no MCP.
    #[error("no MCP client on standard input: {0}")]
    Client(#[from] Box<ServerInitializeError>),
    /// The service ended in disorder.
    #[error("the server crashed; this is a bug: {0}")]
    Crashed(#[from] JoinError),
}

/// Serves the client on standard input until it closes it.
///
/// # Errors
/// [`StdioError`] says what cannot work.
pub async fn serve(settings: &Settings) -> Result<(), StdioError> {
    let mut registry = Registry::default();
    process::register(&mut registry);
    container::register(&mut registry);
    let memory = memory::Guard::default();
    memory.register(&mut registry);
    let pool = PoolSettings {
        max: settings.tuning.pool_max,
        pooler: settings.data.pooler,
    };
    let database = Database::open_pooled(&settings.data.database, pool, &mut registry)?;
    database.migrate(&migrate::steps()).await?;
    let mut beside = JoinSet::new();
    let changes = match &database {
        Database::Postgres(database) => {
            let changes = Changes::shared();
            beside.spawn(Relay::new(changes.clone(), database.clone()).run());
            changes
        }
        Database::Sqlite(_) => Changes::alone(),
    };
    let redis_url = settings.data.redis_url.as_deref();
    let cache = Cache::open(settings.cache, database.clone(), redis_url, &mut registry).map_err(StartError::from)?;
    let performance = Performance::default();
    let (catalog, chores) = catalog(settings, &database, &cache, &changes, &performance)?;
    let observer = Observer::new(&mut registry, catalog.tools.names(), settings.telemetry.slow_call, None);
    performance.attach(Arc::new(registry));
    beside.spawn(performance.watch());
    beside.spawn(chores.run());
    beside.spawn(cache.clone().upkeep());
    beside.spawn(memory.watch(cache));
    let handler = McpHandler::new(catalog.into(), changes, SessionRecords::new(database), Drain::default());
    let handler = handler.with_observer(observer);
    match handler.serve(stdio_pipes()).await {
        Ok(service) => {
            service.waiting().await?;
            Ok(())
        }
        // A client that goes away before it said anything has not failed.
        Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(Box::new(error).into()),
    }
}
