//! Accepts connections and serves them, until they are told to close.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::future::RouteFuture;
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1::{self, Parts};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Alarm, Busy, Patient, QUIET};
use super::bodies::{BodyShare, Budget, Share};
use crate::metrics::at_scrape;

/// Longest time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes (the data plane's `large_client_header_buffers`, 4 of 16 KiB).
const HEADERS_BYTES: usize = 64 * 1024;
/// Most headers of a request (the data plane's `max_headers`, and what proxies add).
const HEADERS_MAX: usize = 100;
/// When the process has no more file descriptors, one may be free after this long.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The address at the other end of the connection that a request came on; in the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The connections of one listener.
pub struct Connections {
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    open: Arc<AtomicUsize>,
    budget: Arc<Budget>,
}

impl Connections {
    /// At most `max` connections at once, encrypted if there is a `tls`.
    #[must_use]
    pub fn new(max: usize, tls: Option<TlsAcceptor>, registry: &mut Registry) -> Self {
        let open = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&open);
        at_scrape::gauge(
            registry,
            "mcp_open_connections",
            "Connections to the MCP address",
            move || u32::try_from(counted.load(Ordering::Relaxed)).ok().map(f64::from),
        );
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        at_scrape::gauge(
            registry,
            "mcp_connection_limit",
            "Most connections to the MCP address; more wait",
            move || u32::try_from(max).ok().map(f64::from),
        );
        Self {
            tls,
            places: Arc::new(Semaphore::new(max)),
            open,
            budget: Budget::new(registry),
        }
    }

    /// Serves `router` to whoever connects to `listener`. When `close` resolves, no connection is accepted any more,
    /// each open one is closed after the answer it is about to give, and this ends with the last one. Dropping the
    /// future cuts them all.
    pub async fn serve(self, listener: TcpListener, router: Router, close: impl Future<Output = ()>) {
        let closing = CancellationToken::new();
        let mut connections = JoinSet::new();
        let mut close = pin!(close);
        loop {
            let (stream, peer, place) = tokio::select! {
                () = &mut close => break,
                accepted = self.accept(&listener) => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let open = OpenConnection::new(&self.open, place);
            // Without NODELAY an event stream's second write waits for the client's delayed acknowledgement: 40 ms a
            // call.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot switch off Nagle's algorithm");
            }
            let requests = Requests {
                router: router.clone(),
                peer,
                activity: Arc::default(),
                budget: Arc::clone(&self.budget),
            };
            let closing = closing.clone();
            // Two tasks instead of one that could be either: an idle connection without TLS stays small.
            match self.tls.clone() {
                None => connections.spawn(exchange(stream, requests, closing, open)),
                Some(tls) => connections.spawn(shake_hands(stream, tls, requests, closing, open)),
            };
        }
        drop(listener);
        closing.cancel();
        while connections.join_next().await.is_some() {}
    }

    async fn accept(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return (stream, peer, place),
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    sleep(EXHAUSTED).await;
                }
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Counts a connection, and keeps its place, until it is dropped.
struct OpenConnection(Arc<AtomicUsize>, Option<OwnedSemaphorePermit>);

impl OpenConnection {
    fn new(open: &Arc<AtomicUsize>, place: Option<OwnedSemaphorePermit>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open), place)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1 = None;
    }
}

async fn shake_hands(
    stream: TcpStream,
    tls: TlsAcceptor,
    requests: Requests,
    closing: CancellationToken,
    open: OpenConnection,
) {
    let peer = requests.peer;
    tokio::select! {
        shaken = timeout(HANDSHAKE, tls.accept(stream)) => match shaken {
            Ok(Ok(stream)) => exchange(stream, requests, closing, open).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
            Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
        },
        () = closing.cancelled() => {}
    }
}

/// Serves the requests of one connection.
async fn exchange<S>(stream: S, requests: Requests, closing: CancellationToken, _open: OpenConnection)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = requests.peer;
    let mut stream = Patient::new(stream, Arc::clone(&requests.activity));
    let mut requests = requests;
    // hyper holds 16 KiB for a connection from its first request to its end: ten thousand that only wait must do
    // without.
    let ended = loop {
        let parts = match serve_until_silent(stream, requests, &closing).await {
            Ok(Some(parts)) => parts,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error.to_string()),
        };
        (stream, requests) = (parts.io.into_inner(), parts.service);
        // Even empty it holds the buffer that it was cut from.
        let early = Some(parts.read_buf)
            .filter(|early| !early.is_empty())
            .unwrap_or_default();
        tokio::select! {
            has_come = stream.next_request(early) => match has_come {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error.to_string()),
            },
            () = closing.cancelled() => break stream.shutdown().await.map_err(|error| error.to_string()),
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

/// Serves requests until the connection ends, or is silent between two of them: then this returns what it is made of.
async fn serve_until_silent<S>(
    stream: Patient<S>,
    requests: Requests,
    closing: &CancellationToken,
) -> hyper::Result<Option<Parts<TokioIo<Patient<S>>, Requests>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::clone(&requests.activity);
    let mut served = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_header_size(HEADERS_BYTES)
        .serve_connection(TokioIo::new(stream), requests);
    let (mut alarm, mut waiting, mut since) = (Alarm::default(), None, Instant::now());
    let ended_or_silent = poll_fn(|context| {
        if let Poll::Ready(ended) = Pin::new(&mut served).poll(context) {
            return Poll::Ready(Some(ended));
        }
        if std::mem::replace(&mut waiting, activity.waiting()) != waiting {
            since = Instant::now();
        }
        match waiting {
            Some(_) => alarm.poll(since + QUIET, context).map(|()| None),
            None => Poll::Pending,
        }
    });
    let ended = tokio::select! {
        ended = ended_or_silent => ended,
        () = closing.cancelled() => {
            Pin::new(&mut served).graceful_shutdown();
            Some((&mut served).await)
        }
    };
    match ended {
        None => Ok(Some(served.into_parts())),
        Some(ended) => ended.map(|()| None),
    }
}

/// What hyper asks for the answers to a connection's requests.
struct Requests {
    router: Router,
    peer: SocketAddr,
    activity: Arc<Activity>,
    budget: Arc<Budget>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Served>;
    type Error = Infallible;
    type Future = Serving;

    fn call(&self, request: Request<Incoming>) -> Serving {
        let busy = self.activity.begin();
        let (parts, body) = request.into_parts();
        let (body, share) = self.budget.count(&parts.headers, body);
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(Peer(self.peer));
        if let Some(share) = &share {
            request.extensions_mut().insert(BodyShare(Arc::downgrade(share)));
        }
        let answering = tower::Service::call(&mut self.router.clone(), request);
        Serving {
            answering,
            busy: Some(busy),
            share,
        }
    }
}

/// An answer on its way.
struct Serving {
    answering: RouteFuture<Infallible>,
    busy: Option<Busy>,
    share: Option<Arc<Share>>,
}

impl Future for Serving {
    type Output = Result<Response<Served>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answering).poll(context).map_ok(|response| {
            response.map(|body| Served {
                body,
                _busy: self.busy.take(),
                _share: self.share.take(),
            })
        })
    }
}

/// The body of an answer. Until it is dropped the connection is busy, and the request may be kept: an event stream
/// begins before its request is worked on.
struct Served {
    body: Body,
    _busy: Option<Busy>,
    _share: Option<Arc<Share>>,
}

impl hyper::body::Body for Served {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::activity::IDLE;
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, duplex};

    /// A connection whose client has gone without a word would be kept for ever, and one day there is no place left.
    #[tokio::test(start_paused = true)]
    async fn a_connection_is_closed_when_no_request_follows() {
        let (near, mut far) = duplex(64 * 1024);
        // hyper looks for the client's end while it waits for an answer, and never again before the next request.
        let router = Router::new().route("/", get(|| async { sleep(Duration::from_millis(10)).await }));
        let requests = Requests {
            router,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            activity: Arc::default(),
            budget: Budget::new(&mut Registry::default()),
        };
        let open = OpenConnection::new(&Arc::default(), None);
        let served = tokio::spawn(exchange(near, requests, CancellationToken::new(), open));
        for _ in 0..2 {
            far.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let mut answer = [0; 1024];
            let length = far.read(&mut answer).await.unwrap();
            assert!(answer[..length].starts_with(b"HTTP/1.1 200 OK"));
            sleep(QUIET * 3).await;
        }
        let silent = Instant::now();
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        served.await.unwrap();
        let silence = silent.elapsed() + QUIET * 3;
        assert!(silence > IDLE && silence < IDLE + QUIET * 3, "{silence:?}");
    }
}
