//! Cancelling a statement from the client's side, through a pooler too.
//!
//! The driver sends the request to cancel and closes; `PgBouncer` drops a request whose sender has gone before it is
//! forwarded. So here the sender waits until the other side closes, as libpq does.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::{CancelToken, Config, NoTls};

use super::pool::{Borrowed, CONNECT};

const DEFAULT_PORT: u16 = 5432;
/// So long a statement that nobody waits for may go on. Most are done sooner, and then their connection is as good as
/// before; opening another one costs the database more than they do.
const ENDING: Duration = Duration::from_millis(200);

type Sent = Result<(), Box<dyn Error + Send + Sync>>;

/// Where requests to cancel go. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Canceller(Arc<[(String, u16)]>);

impl Canceller {
    pub(super) fn new(config: &Config) -> Self {
        let ports = config.get_ports();
        let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
        let hosts = config.get_hosts().iter().enumerate();
        let addresses = hosts.filter_map(|(index, host)| match host {
            Host::Tcp(name) => Some((name.clone(), port(index))),
            Host::Unix(_) => None,
        });
        Self(addresses.collect())
    }

    /// Asks the server to stop working on what `token`'s connection is waiting for; tells in the log if that fails.
    pub(super) fn cancel(&self, token: CancelToken) {
        let this = self.clone();
        tokio::spawn(async move { tell(timeout(CONNECT, this.send(token)).await) });
    }

    async fn send(&self, token: CancelToken) -> Sent {
        for (host, port) in self.0.iter() {
            if let Ok(stream) = TcpStream::connect((host.as_str(), *port)).await {
                return Ok(token.cancel_query_raw(OtherSideCloses(stream), NoTls).await?);
            }
        }
        Err("no address of the database accepts connections".into())
    }
}

/// Asks the server to stop working on what `client` is waiting for, through `pooler` if there is one, and closes the
/// connection. Not before: a pooler knows a statement no more when its client has gone.
pub(super) fn stop(client: ClientWrapper, pooler: Option<Canceller>) {
    // Without a runtime the process is about to end, and with it all its connections.
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        let token = client.cancel_token();
        tell(timeout(CONNECT, send(token, pooler)).await);
        drop(client);
    });
}

/// Gives a connection back as soon as what nobody waits for any more has ended on it: whoever got it before would wait
/// for that, too. If it takes longer, stops it as [`stop`] does.
pub(super) fn give_back(mut borrowed: Borrowed, pooler: Option<Canceller>) {
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        // Answers come in the order of asking.
        let ended = match borrowed.client() {
            Ok(client) => matches!(timeout(ENDING, client.check_connection()).await, Ok(Ok(()))),
            Err(_) => true,
        };
        if !ended && let Some(client) = borrowed.take_out() {
            stop(client, pooler);
        }
    });
}

async fn send(token: CancelToken, pooler: Option<Canceller>) -> Sent {
    match pooler {
        Some(pooler) => pooler.send(token).await,
        None => Ok(token.cancel_query(NoTls).await?),
    }
}

fn tell(sent: Result<Sent, Elapsed>) {
    match sent {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot cancel a statement"),
        Err(_) => tracing::warn!("cannot cancel a statement: no answer"),
    }
}

/// A stream that is shut down only after the other side has closed it.
struct OtherSideCloses(TcpStream);

impl AsyncRead for OtherSideCloses {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for OtherSideCloses {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 16];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
