//! The HTTP endpoint of MCP: decides what needs a slot, hands over to rmcp, and follows each answer to its end.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use prometheus_client::registry::Registry;
use rmcp::model::ProtocolVersion;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::handler::McpHandler;
use super::message::{self, Kind};
use super::record::Record;
use super::restore::Restoring;
use super::sessions::DatabaseSessionStore;
use crate::admission::{Admission, Overloaded, RETRY_AFTER_SECONDS};
use crate::changes::Changes;
use crate::database::Database;
use crate::drain::{Drain, OpenRequest};
use crate::guard::Guard;
use crate::metrics::at_scrape;
use crate::metrics::requests::{Operation, Outcome, RequestMetrics};
use crate::tools::Catalog;

/// Largest request body, in bytes.
const BODY_MAX: usize = 4 * 1024 * 1024;
/// Longest time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time from the arrival of a request to the end of its answer.
const REQUEST_MAX: Duration = Duration::from_mins(2);

/// Which `Host` (and, in a browser, `Origin`) a request may name. A page of the Internet can make a browser send
/// requests to a server on the same machine; it cannot change these headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPolicy {
    /// Any: the server is reached through a Service, under names it cannot know.
    Any,
    /// The names of this machine: the server listens on loopback.
    Loopback,
    /// These names, with or without a port.
    Only(Vec<String>),
}

impl HostPolicy {
    fn apply(self, config: StreamableHttpServerConfig) -> StreamableHttpServerConfig {
        match self {
            Self::Any => config.disable_allowed_hosts(),
            Self::Loopback => {
                config.with_allowed_origins(["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"])
            }
            Self::Only(hosts) => config.with_allowed_hosts(hosts),
        }
    }
}

/// How the endpoint behaves.
pub struct Options {
    /// Which `Host` requests may name.
    pub hosts: HostPolicy,
    /// Sessions that nobody uses for this long leave memory.
    pub session_idle: Duration,
    /// Cancelling it ends everything that is still running.
    pub stop: CancellationToken,
    /// What a request may do.
    pub guard: Guard,
}

/// What the endpoint is made of.
pub struct Endpoint {
    service: StreamableHttpService<McpHandler, LocalSessionManager>,
    sessions: Arc<LocalSessionManager>,
    restoring: Restoring,
    catalog: Arc<Catalog>,
    admission: Arc<Admission>,
    metrics: RequestMetrics,
    drain: Drain,
    guard: Guard,
}

impl Endpoint {
    /// Puts the endpoint together and registers its metrics.
    pub fn new(
        catalog: Arc<Catalog>,
        changes: Changes,
        database: Database,
        admission: Arc<Admission>,
        drain: Drain,
        options: Options,
        registry: &mut Registry,
    ) -> Arc<Self> {
        let metrics = RequestMetrics::new(registry, catalog.tools.names());
        let mut sessions = LocalSessionManager::default();
        sessions.session_config.keep_alive = Some(options.session_idle);
        let sessions = Arc::new(sessions);
        let counted = Arc::clone(&sessions);
        at_scrape::gauge(
            registry,
            "mcp_active_sessions",
            "Sessions of clients up to 2025-11-25 in memory",
            move || {
                let sessions = counted.sessions.try_read().ok()?;
                u32::try_from(sessions.len()).ok().map(f64::from)
            },
        );
        let mut config = options.hosts.apply(StreamableHttpServerConfig::default());
        // Stateless answers that are a single message need no event stream.
        config.json_response = true;
        config.max_request_body_bytes = BODY_MAX;
        config.cancellation_token = options.stop;
        config.session_store = Some(Arc::new(DatabaseSessionStore::new(database)));
        let handler = McpHandler::new(Arc::clone(&catalog), changes, drain.clone());
        let service = StreamableHttpService::new(move || Ok(handler.clone()), Arc::clone(&sessions), config);
        Arc::new(Self {
            service,
            sessions,
            restoring: Restoring::new(),
            catalog,
            admission,
            metrics,
            drain,
            guard: options.guard,
        })
    }

    /// The endpoint at `path`.
    pub fn router(self: Arc<Self>, path: &str) -> Router {
        Router::new().route(path, any(answer)).with_state(self)
    }

    async fn post(&self, request: Request) -> Response {
        let arrived = Instant::now();
        let open = self.drain.enter();
        let (parts, body) = request.into_parts();
        let body = match read(body).await {
            Ok(body) => body,
            Err(refused) => return refused.into_response(),
        };
        let kind = message::kind(&body, &self.catalog.tools);
        if let Some(refused) = self.guard.refuse(&parts, || message::wanted(kind, &body)).await {
            return refused;
        }
        let request = http::Request::from_parts(parts, Full::new(body));
        match kind {
            Kind::Request { method, tool } => {
                let header = request
                    .headers()
                    .get("mcp-protocol-version")
                    .and_then(|value| value.to_str().ok());
                let operation = Operation {
                    method,
                    tool,
                    protocol_version: message::protocol_version(header),
                };
                self.work(request, operation, arrived, open).await
            }
            Kind::Listen => {
                drop(open);
                self.hand_over(request).await.map(Body::new)
            }
            Kind::Light => self
                .service
                .handle(request)
                .await
                .map(|body| Body::new(Answer::of_message(body, open))),
        }
    }

    /// Serves a request that needs a slot.
    async fn work(
        &self,
        mut request: http::Request<Full<Bytes>>,
        operation: Operation,
        arrived: Instant,
        open: OpenRequest,
    ) -> Response {
        let slot = match self.admission.admit(operation.tool_label()).await {
            Ok(slot) => slot,
            Err(overloaded) => {
                self.metrics.finished(operation, Outcome::Shed, arrived.elapsed(), None);
                return refuse(&overloaded);
            }
        };
        let record = Arc::new(Record::new(operation, arrived, self.metrics.clone(), slot));
        request.extensions_mut().insert(Arc::clone(&record));
        let deadline = arrived + REQUEST_MAX;
        let Ok(response) = timeout_at(deadline, self.hand_over(request)).await else {
            record.timed_out();
            return (StatusCode::GATEWAY_TIMEOUT, "no answer within the server's time limit").into_response();
        };
        let status = response.status();
        response.map(|body| Body::new(Answer::of_request(body, record, status, open, deadline)))
    }

    /// A legacy client's stream for messages from the server. It holds no slot and does not hold up the drain.
    async fn stream(&self, request: Request) -> Response {
        self.drain.arrival();
        let begun = self.drain.begun();
        self.service
            .handle(request)
            .await
            .map(|body| Body::new(Answer::of_stream(body, begun)))
    }

    /// Gives a request to rmcp.
    async fn hand_over<B>(&self, request: http::Request<B>) -> http::Response<BoxBody<Bytes, Infallible>>
    where
        B: hyper::body::Body + Send + 'static,
        B::Error: Display,
    {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        // From 2026-07-28 on there are no sessions, and a session header means nothing.
        let modern = header("mcp-protocol-version") == Some(ProtocolVersion::V_2026_07_28.as_str());
        let session = header("mcp-session-id").filter(|_| !modern).map(str::to_owned);
        let _turn = match session {
            Some(id) => self.restoring.turn(&self.sessions, &id).await,
            None => None,
        };
        self.service.handle(request).await
    }

    async fn other(&self, request: Request) -> Response {
        let open = self.drain.enter();
        self.service
            .handle(request)
            .await
            .map(|body| Body::new(Answer::of_message(body, open)))
    }
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, request: Request) -> Response {
    let mut response = match *request.method() {
        Method::POST => endpoint.post(request).await,
        Method::GET => endpoint.stream(request).await,
        _ => endpoint.other(request).await,
    };
    if endpoint.drain.has_begun() {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads a body of bounded size in bounded time.
async fn read(body: Body) -> Result<Bytes, (StatusCode, &'static str)> {
    match timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, "the request body is larger than 4 MiB"))
        }
        Ok(Err(_)) => Err((StatusCode::BAD_REQUEST, "the request body could not be read")),
        Err(_) => Err((
            StatusCode::REQUEST_TIMEOUT,
            "the request body did not arrive within 30 s",
        )),
    }
}

fn refuse(overloaded: &Overloaded) -> Response {
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, overloaded.to_string()).into_response();
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}
