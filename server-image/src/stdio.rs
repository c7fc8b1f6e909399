//! The same server for one client that starts it as a program of its own, such as a desktop application: messages come
//! in on standard input and go out on standard output, one in a line; logs go to standard error.

use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

use prometheus_client::registry::Registry;
use rmcp::model::{ClientJsonRpcMessage, ClientRequest};
use rmcp::service::{RxJsonRpcMessage, ServerInitializeError, TxJsonRpcMessage};
use rmcp::transport::io::stdio_pipes;
use rmcp::transport::{IntoTransport, Transport};
use rmcp::{RoleServer, ServiceExt};
use tokio::task::{JoinError, JoinSet};

use crate::database::{DatabaseError, DatabaseTarget};
use crate::drain::Drain;
use crate::mcp::McpHandler;
use crate::mcp::sessions::SessionRecords;
use crate::metrics::{container, process};
use crate::migrate;
use crate::report::Performance;
use crate::server::{DataParts, Settings, StartError, catalog};
use crate::telemetry::Observer;

/// A client that could not be served.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The settings cannot work.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There is no place for the data.
    #[error("cannot create the folder {folder} for the data: {cause}; --database-url sqlite:PATH names another place")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        cause: io::Error,
    },
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
    if let DatabaseTarget::Sqlite(file) = &settings.data.database
        && let Some(folder) = file.parent()
    {
        fs::create_dir_all(folder).map_err(|cause| StdioError::Folder {
            folder: folder.to_owned(),
            cause,
        })?;
    }
    let data = DataParts::open(settings, &mut registry)?;
    data.database.migrate(&migrate::steps()).await?;
    let performance = Performance::default();
    let (catalog, chores) = catalog(settings, &data.database, &data.cache, &data.changes, &performance)?;
    let observer = Observer::new(&mut registry, catalog.tools.names(), settings.telemetry.slow_call, None);
    performance.attach(Arc::new(registry));
    let records = SessionRecords::new(data.database.clone());
    let handler = McpHandler::new(catalog.into(), data.changes.clone(), records, Drain::default());
    let handler = handler.with_observer(observer);
    let mut beside = JoinSet::new();
    data.start(&mut beside);
    beside.spawn(performance.watch());
    beside.spawn(chores.run());
    let client = FromFirstRequest {
        transport: IntoTransport::<RoleServer, _, _>::into_transport(stdio_pipes()),
        has_begun: false,
    };
    match handler.serve(client).await {
        Ok(service) => {
            service.waiting().await?;
            Ok(())
        }
        // A client that goes away before it said anything has not failed.
        Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(Box::new(error).into()),
    }
}

/// A transport that passes over what comes before the first request but the look around (`server/discover`): rmcp ends at
/// it, and a client that takes back its first question has done nothing wrong.
struct FromFirstRequest<T> {
    transport: T,
    has_begun: bool,
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for FromFirstRequest<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), T::Error>> + Send + 'static {
        self.transport.send(message)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let message = self.transport.receive().await?;
            match &message {
                ClientJsonRpcMessage::Request(request) => {
                    self.has_begun |= !matches!(request.request, ClientRequest::DiscoverRequest(_));
                    return Some(message);
                }
                _ if self.has_begun => return Some(message),
                _ => tracing::debug!("a message before the first request is passed over"),
            }
        }
    }

    async fn close(&mut self) -> Result<(), T::Error> {
        self.transport.close().await
    }
}
