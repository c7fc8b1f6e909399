//! Listening, and ending without failing a request.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::drain::Drain;
use crate::mcp::sessions::SharedSessions;
use crate::transport::Connections;

/// After the drain's time is up, what is still running is cancelled and gets this long to go.
const CANCEL: Duration = Duration::from_secs(1);
/// Longest time, after everything else, to leave answers for other replicas.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Most connections to each address beside that of MCP: many more than monitors and probes need, and with the largest
/// heads 64 MiB.
const BESIDE_MAX: usize = 1024;

/// A listener with the address that it got.
pub(super) struct Bound {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
}

/// Takes an address; `flag` is the one that sets it.
pub(super) async fn bind(address: SocketAddr, flag: &'static str) -> Result<Bound, StartError> {
    let cannot = |cause| StartError::Listen { address, flag, cause };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok(Bound { listener, address })
}

/// Serves what is beside MCP, until dropped: with the bounds of the MCP address, since who fills the memory here ends
/// the calls there, too. The metrics of connections are those of MCP alone.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    let connections = Connections::new(BESIDE_MAX, None, &mut Registry::default());
    connections.serve(listener, router, pending()).await;
}

/// The listener of MCP, which ends in good order.
pub(super) struct MainListener {
    pub(super) listener: TcpListener,
    pub(super) connections: Connections,
    pub(super) router: Router,
    pub(super) drain: Drain,
    /// Whose calls go on when their clients have lost the connection.
    pub(super) sessions: Arc<SharedSessions>,
    /// Ends what does not end by itself.
    pub(super) stop: CancellationToken,
}

impl MainListener {
    /// Serves until the drain has begun and then ended, at most `limit` after its beginning.
    pub(super) async fn run(self, limit: Duration) {
        let Self {
            listener,
            connections,
            router,
            drain,
            sessions,
            stop,
        } = self;
        let close = close_when_quiet(drain.clone(), limit);
        let connections = connections.serve(listener, router, close);
        let mut serving = tokio::spawn(serve_all(connections, Arc::clone(&sessions), drain.clone()));
        if timeout_after(&drain, limit, &mut serving).await.is_err() {
            tracing::warn!("the time to drain is over: cancelling what is still running");
            stop.cancel();
            if timeout(CANCEL, &mut serving).await.is_err() {
                serving.abort();
            }
        }
        // Sessions of clients up to 2025-11-25 run on their own.
        stop.cancel();
        if timeout(HAND_OVER, sessions.hand_over()).await.is_err() {
            tracing::warn!("not every answer could be left for other replicas");
        }
        tracing::info!("ended");
    }
}

/// Serves `connections`, and, once the drain has begun, leaves answers for other replicas: until no call runs any more,
/// with a connection or without.
async fn serve_all(connections: impl Future<Output = ()> + Send, sessions: Arc<SharedSessions>, drain: Drain) {
    let answers = async {
        drain.begun().await;
        sessions.hand_over().await;
    };
    tokio::join!(connections, answers);
    sessions.hand_over().await;
}

/// Waits for `serving`, at most until `limit` after the drain has begun.
async fn timeout_after(drain: &Drain, limit: Duration, serving: impl Future) -> Result<(), Elapsed> {
    tokio::pin!(serving);
    tokio::select! {
        _ = &mut serving => return Ok(()),
        () = drain.begun() => tracing::info!(?limit, "draining"),
    }
    timeout(limit, serving).await.map(drop)
}

/// Resolves when connections should be closed: when nothing arrives any more, or when half the time is over, so that
/// requests that arrive until the last moment still have the other half.
async fn close_when_quiet(drain: Drain, limit: Duration) {
    drain.begun().await;
    if timeout(limit / 2, drain.quiet()).await.is_err() {
        tracing::warn!("requests still arrive while draining: closing idle connections now");
    }
}
