//! One server process: puts the parts together, listens, and ends without failing a request.

mod data;
mod listener;
mod parts;
mod settings;

pub(crate) use data::DataParts;
pub(crate) use parts::catalog;
pub use settings::{Capacity, Data, Fixtures, Network, Operation, Secret, Settings};

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tokio::task::{JoinHandle, spawn_blocking};

use self::listener::{MainListener, bind};
use self::parts::Parts;
use crate::auth::InvalidAuth;
use crate::cache::InvalidRedisUrl;
use crate::database::{DatabaseError, DatabaseTarget};
use crate::drain::Drain;
use crate::limits::InvalidRedis;
use crate::mcp::request_state::KeyTooShort;
use crate::telemetry::InvalidTraces;
use crate::tools::InvalidTool;
use crate::transport::InvalidTls;

/// A server that could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or does not exist.
    #[error("cannot listen on {address} ({flag}): {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// Why.
        cause: std::io::Error,
    },
    /// Certificate and key cannot be used.
    #[error(transparent)]
    Tls(#[from] InvalidTls),
    /// Rate limits cannot work as they are set.
    #[error(transparent)]
    Limits(#[from] InvalidRedis),
    /// Authentication cannot work as it is set.
    #[error(transparent)]
    Auth(#[from] InvalidAuth),
    /// The database's settings cannot work.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The Redis URL cannot work.
    #[error(transparent)]
    Redis(#[from] InvalidRedisUrl),
    /// The key for states cannot protect anything.
    #[error(transparent)]
    Key(#[from] KeyTooShort),
    /// Traces cannot be sent as asked.
    #[error(transparent)]
    Traces(#[from] InvalidTraces),
    /// A tool cannot be described.
    #[error(transparent)]
    Tool(#[from] InvalidTool),
}

impl StartError {
    /// Whether a setting must be changed; else it is the machine that has something taken or missing.
    #[must_use]
    pub const fn is_of_settings(&self) -> bool {
        !matches!(self, Self::Listen { .. } | Self::Database(_))
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where MCP is served.
    pub mcp: SocketAddr,
    /// Where metrics are served.
    pub metrics: SocketAddr,
    /// Where tuning is served.
    pub admin: SocketAddr,
    router: Router,
    drain: Drain,
    finished: JoinHandle<()>,
}

impl Server {
    /// Whether a server could start, as far as its settings tell: nothing is listened on, asked or written.
    ///
    /// # Errors
    /// [`StartError`] names the setting that cannot work.
    pub fn check(settings: &Settings) -> Result<(), StartError> {
        let mut settings = settings.clone();
        if let DatabaseTarget::Sqlite(file) = &mut settings.data.database {
            *file = ":memory:".into();
        }
        Parts::assemble(&settings).map(drop)
    }

    /// Starts to listen. The database need not answer yet: the server is not ready until it does.
    ///
    /// # Errors
    /// [`StartError`] names the setting that cannot work.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let mcp = bind(settings.network.listen, "--listen").await?;
        let metrics = bind(settings.network.metrics_listen, "--metrics-listen").await?;
        let admin = bind(settings.network.admin_listen, "--admin-listen").await?;
        let mut parts = Parts::assemble(&settings)?;
        tracing::info!(mcp = %mcp.address, metrics = %metrics.address, admin = %admin.address, database = %settings.data.database, "listening");

        let router = parts.router(&settings);
        let drain = parts.drain.clone();
        let traces = parts.traces.take();
        let sessions = Arc::clone(&parts.sessions);
        let stop = parts.stop.clone();
        let (beside, connections) = parts.start_beside(metrics.listener, admin.listener);
        let main = MainListener {
            listener: mcp.listener,
            connections,
            router: router.clone(),
            drain: drain.clone(),
            sessions,
            stop,
        };
        let finished = tokio::spawn(async move {
            main.run(settings.operation.drain).await;
            // Dropping the set ends what runs beside MCP; until here, metrics and readiness could still be read.
            drop(beside);
            if let Some(traces) = traces {
                // Whatever becomes of the last traces, the server ends.
                let _ = spawn_blocking(move || traces.finish()).await;
            }
        });
        Ok(Self {
            mcp: mcp.address,
            metrics: metrics.address,
            admin: admin.address,
            router,
            drain,
            finished,
        })
    }

    /// What is served at the MCP address, for tests that need no connection.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Begins to end: see [`crate::drain`].
    pub fn drain(&self) {
        self.drain.begin();
    }

    /// Waits until the server has ended.
    pub async fn finished(self) {
        if let Err(error) = self.finished.await {
            tracing::error!(%error, "the server ended in disorder");
        }
    }
}
