//! HTTP: one POST, one answer, as JSON or as an event stream.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use crate::outcome::{FailureKind, Refusal, judge_message, judge_status};
use crate::protocol::SESSION_ID;
use crate::sse::SseParser;

/// The longest answer that is read.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;
/// An idle connection is given up before common servers and proxies do (nginx: 75 s), so that no request is sent into
/// a connection that the other side is just closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the end of an event stream is waited for once the answer is there. A stream that ends leaves its
/// connection free for the next request.
const STREAM_END: Duration = Duration::from_millis(250);

/// What came back for one request.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The HTTP status; `None` when there was no HTTP answer.
    pub(crate) status: Option<StatusCode>,
    /// When the answer was complete.
    pub(crate) finished: Instant,
    /// What it means: the JSON-RPC answer, or why there is none.
    pub(crate) answer: Result<Answer, Refusal>,
}

/// A JSON-RPC answer that holds a result.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The message as it was sent. Empty for a notification, which has no answer.
    pub(crate) message: Bytes,
    /// The session that the server opened with this answer.
    pub(crate) session: Option<HeaderValue>,
}

/// Several connection pools to one server, used in turn.
#[derive(Debug)]
pub(crate) struct Transport {
    uri: Uri,
    pools: Vec<Client<HttpConnector, Full<Bytes>>>,
    next_pool: AtomicUsize,
    timeout: Duration,
}

impl Transport {
    pub(crate) fn new(uri: Uri, pools: usize, timeout: Duration) -> Self {
        let pool = || {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            connector.set_connect_timeout(Some(timeout));
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIMEOUT)
                .build(connector)
        };
        Self {
            uri,
            pools: (0..pools).map(|_| pool()).collect(),
            next_pool: AtomicUsize::new(0),
            timeout,
        }
    }

    /// Sends a JSON-RPC request and waits for its answer.
    pub(crate) async fn request(&self, headers: HeaderMap, body: Bytes, id: u64) -> Exchange {
        let in_session = headers.contains_key(&SESSION_ID);
        let mut status = None;
        let exchange = async {
            let response = self.send(Method::POST, headers, body).await?;
            status = Some(response.status());
            if !response.status().is_success() {
                return Err(refused(response, in_session).await);
            }
            let session = response.headers().get(&SESSION_ID).cloned();
            let is_stream = is_event_stream(response.headers());
            let (finished, message) = if is_stream {
                read_stream(response.into_body(), id).await?
            } else {
                read_json(response.into_body(), id).await?
            };
            Ok((finished, Answer { message, session }))
        };
        match timeout(self.timeout, exchange).await {
            Ok(Ok((finished, answer))) => Exchange {
                status,
                finished,
                answer: Ok(answer),
            },
            Ok(Err(refusal)) => Exchange {
                status,
                finished: Instant::now(),
                answer: Err(refusal),
            },
            Err(_) => Exchange {
                status,
                finished: Instant::now(),
                answer: Err(self.timed_out()),
            },
        }
    }

    /// Sends a message that has no answer, only a status.
    pub(crate) async fn notify(&self, headers: HeaderMap, body: Bytes) -> Result<(), Refusal> {
        self.expect_success(Method::POST, headers, body).await
    }

    /// Ends a session on the server.
    pub(crate) async fn end_session(&self, headers: HeaderMap) -> Result<(), Refusal> {
        self.expect_success(Method::DELETE, headers, Bytes::new()).await
    }

    async fn expect_success(&self, method: Method, headers: HeaderMap, body: Bytes) -> Result<(), Refusal> {
        let in_session = headers.contains_key(&SESSION_ID);
        let exchange = async {
            let response = self.send(method, headers, body).await?;
            if response.status().is_success() {
                // Read to the end, so that the connection can be used again.
                let _ = read_all(response.into_body()).await?;
                return Ok(());
            }
            Err(refused(response, in_session).await)
        };
        timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(self.timed_out()))
    }

    async fn send(&self, method: Method, headers: HeaderMap, body: Bytes) -> Result<Response<Incoming>, Refusal> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        let turn = self.next_pool.fetch_add(1, Ordering::Relaxed) % self.pools.len();
        self.pools[turn].request(request).await.map_err(|error| {
            let kind = if error.is_connect() {
                FailureKind::Connect
            } else {
                FailureKind::ConnectionLost
            };
            Refusal::failed(kind, causes(&error))
        })
    }

    fn timed_out(&self) -> Refusal {
        Refusal::failed(
            FailureKind::Timeout,
            format!("no complete answer within {:?}", self.timeout),
        )
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

async fn refused(response: Response<Incoming>, in_session: bool) -> Refusal {
    let status = response.status();
    let has_retry_after = response.headers().contains_key(RETRY_AFTER);
    match read_all(response.into_body()).await {
        Ok(body) => judge_status(status, has_retry_after, in_session, &body),
        Err(_) => judge_status(status, has_retry_after, in_session, b"(the body was cut short)"),
    }
}

async fn read_json(body: Incoming, id: u64) -> Result<(Instant, Bytes), Refusal> {
    let message = read_all(body).await?;
    let finished = Instant::now();
    match judge_message(id, &message) {
        Some(verdict) => verdict.map(|()| (finished, message)),
        None => Err(Refusal::failed(
            FailureKind::InvalidAnswer,
            "the server sent a request of its own instead of an answer",
        )),
    }
}

async fn read_all(body: Incoming) -> Result<Bytes, Refusal> {
    match Limited::new(body, LONGEST_ANSWER).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_long()),
        Err(error) => Err(Refusal::failed(FailureKind::ConnectionLost, causes(error.as_ref()))),
    }
}

/// Reads events until the one that answers request `id`, then lets the stream end.
async fn read_stream(mut body: Incoming, id: u64) -> Result<(Instant, Bytes), Refusal> {
    let mut parser = SseParser::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::failed(FailureKind::ConnectionLost, causes(&error)))?;
        let Ok(bytes) = frame.into_data() else { continue };
        for event in parser.push(&bytes) {
            if let Some(verdict) = judge_message(id, &event) {
                let finished = Instant::now();
                let _ = timeout(STREAM_END, async { while let Some(Ok(_)) = body.frame().await {} }).await;
                return verdict.map(|()| (finished, event.into()));
            }
        }
        if parser.held() > LONGEST_ANSWER {
            return Err(too_long());
        }
    }
    Err(Refusal::failed(
        FailureKind::InvalidAnswer,
        "the event stream ended without an answer",
    ))
}

fn too_long() -> Refusal {
    Refusal::failed(
        FailureKind::InvalidAnswer,
        format!("the answer is longer than {LONGEST_ANSWER} bytes"),
    )
}

/// An error and what caused it, in one line.
fn causes(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(error), |&error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
