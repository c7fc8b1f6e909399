//! The HTTP endpoint of MCP: decides what needs a slot, hands over to rmcp, and follows each answer to its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use prometheus_client::registry::Registry;
use rmcp::model::{ErrorCode, ProtocolVersion};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::Value;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use super::accept::accepts_events;
use super::answer::Answer;
use super::body::{BODY_MAX, read};
use super::direct::DirectCall;
use super::handler::McpHandler;
use super::headers::{self, text};
use super::hosts::Names;
use super::message::{self, Kind};
use super::record::Record;
use super::restore::Restoring;
use super::sessions::{SharedSessions, takes_empty_events};
use super::unreadable;
use crate::admission::{Admission, Overloaded, RETRY_AFTER_SECONDS};
use crate::auth::refusal::{refused, refused_for, refused_with};
use crate::auth::{Principal, until_asked_again};
use crate::database::DatabaseError;
use crate::drain::{Drain, OpenRequest};
use crate::guard::{Guard, Wanted};
use crate::memory;
use crate::metrics::at_scrape;
use crate::metrics::requests::Operation;
use crate::metrics::sessions::SessionMetrics;
use crate::telemetry::{Followed, Observed, Observer, carried_in};
use crate::tools::Catalog;
use crate::transport::{keep_body, weight};

/// Most that a request for a subscription may take in memory, in bytes: it is kept for as long as that is open, and
/// needs no slot.
const LISTEN_MAX: usize = 2 * 1024 * 1024;
/// Most that `initialize` may take in memory, in bytes: what a client says of itself is kept as long as its session.
const INITIALIZE_MAX: usize = 64 * 1024;
/// What a client that stays takes in memory beside what it has sent, in bytes; `make bench-server` says 77 kB a session.
const STAY_BYTES: usize = 80 * 1024;
/// Largest notification, and largest answer of a client, in bytes: they need no slot, and may be passed on to another
/// replica through the database.
const LIGHT_MAX: usize = 1024 * 1024;
/// After how many seconds there may be room again for what stays: sessions leave memory when they are not used for so
/// long, and streams end when their clients go.
const STAYS_SECONDS: u64 = 15;
/// The answer to a request in a session that does not exist.
const NO_SESSION: &str = "there is no such session";
/// The answer to a request whose session exists, but cannot be taken into memory now.
const NOT_RESTORED: &str = "the session cannot be restored now; try again";
/// Longest time from the arrival of a request to the end of its answer.
const REQUEST_MAX: Duration = Duration::from_mins(2);

/// How the endpoint behaves.
#[derive(Clone)]
pub struct Options {
    /// Which `Host` and `Origin` requests may name.
    pub names: Names,
    /// Cancelling it ends everything that is still running.
    pub stop: CancellationToken,
    /// What a request may do.
    pub guard: Guard,
    /// Who is told of each request.
    pub observer: Arc<Observer>,
    /// Whether there is room for what stays.
    pub memory: memory::Guard,
}

/// What the endpoint is made of.
pub struct Endpoint {
    service: StreamableHttpService<McpHandler, SharedSessions>,
    sessions: Arc<SharedSessions>,
    pub(super) names: Names,
    restoring: Restoring,
    pub(super) catalog: Arc<Catalog>,
    admission: Arc<Admission>,
    pub(super) observer: Arc<Observer>,
    pub(super) drain: Drain,
    pub(super) guard: Guard,
    memory: memory::Guard,
    stop: CancellationToken,
}

impl Endpoint {
    /// Puts the endpoint together and registers its metrics.
    pub fn new(
        catalog: Arc<Catalog>,
        handler: McpHandler,
        sessions: Arc<SharedSessions>,
        admission: Arc<Admission>,
        drain: Drain,
        options: Options,
        registry: &mut Registry,
    ) -> Arc<Self> {
        let counted = Arc::clone(&sessions);
        at_scrape::gauge(
            registry,
            "mcp_active_sessions",
            "Sessions of clients up to 2025-11-25 in memory",
            move || u32::try_from(counted.in_memory()).ok().map(f64::from),
        );
        // Names are checked before rmcp, for every method alike.
        let mut config = StreamableHttpServerConfig::default().disable_allowed_hosts();
        // Stateless answers that are a single message need no event stream.
        config.json_response = true;
        // The beginnings of streams come from the sessions.
        config.sse_retry = None;
        config.max_request_body_bytes = BODY_MAX;
        config.cancellation_token = options.stop.clone();
        config.session_store = Some(Arc::new(sessions.records().clone()));
        let durations = SessionMetrics::new(registry, message::SESSION_VERSIONS);
        let handler = handler.with_session_metrics(durations);
        let service = StreamableHttpService::new(move || Ok(handler.of_another()), Arc::clone(&sessions), config);
        Arc::new(Self {
            service,
            sessions,
            names: options.names,
            restoring: Restoring::new(),
            catalog,
            admission,
            observer: options.observer,
            drain,
            guard: options.guard,
            memory: options.memory,
            stop: options.stop,
        })
    }

    /// The endpoint at `path`.
    pub fn router(self: Arc<Self>, path: &str) -> Router {
        let answer = move |request| {
            let endpoint = Arc::clone(&self);
            async move { Ok::<_, Infallible>(endpoint.answer(request).await) }
        };
        // As a service of its own: as a handler every request would take another box.
        Router::new().route_service(path, service_fn(answer))
    }

    async fn answer(self: Arc<Self>, request: Request) -> Response {
        let mut response = match self.names.check(request.uri(), request.headers()) {
            Err(refused) => *refused,
            Ok(()) => self.serve(request).await,
        };
        if self.drain.has_begun() {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    // A future is as large as the largest of its branches, and is moved as a whole. Those that go to rmcp or to the
    // database take 10 KiB, so they are boxed: a short call must not pay for them.

    async fn serve(self: &Arc<Self>, mut request: Request) -> Response {
        let modern = is_modern(request.headers());
        if modern {
            // From 2026-07-28 on there are no sessions; rmcp would serve `initialize` in the one that is named here.
            request.headers_mut().remove(headers::SESSION_ID);
        }
        match *request.method() {
            Method::POST => self.post(request).await,
            Method::GET if !modern => Box::pin(self.stream(request.into_parts().0)).await,
            Method::DELETE if !modern => Box::pin(self.end_session(request)).await,
            _ => {
                let allowed = if modern { "POST" } else { "GET, POST, DELETE" };
                let message = format!("{} is not a method of this endpoint", request.method());
                (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, allowed)], message).into_response()
            }
        }
    }

    /// The answer to a request that may not pass: what the guard refuses, and what names the session of another. The
    /// guard comes first, as the session is a question to the database: nobody may ask it more often than the limits
    /// allow.
    async fn refusal<'a>(&self, request: &Parts, wanted: impl FnOnce() -> Wanted<'a>) -> Option<Response> {
        if let Some(refused) = self.guard.refuse(request, wanted).await {
            return Some(refused);
        }
        let session = text(&request.headers, headers::SESSION_ID)?;
        let caller = request.extensions.get::<Arc<Principal>>();
        let caller = caller.map(|caller| caller.subject.as_str());
        match self.sessions.is_of(session, caller).await {
            Ok(true) => None,
            // Whoever did not open it gets the same answer as for a session that does not exist.
            Ok(false) => Some((StatusCode::NOT_FOUND, NO_SESSION).into_response()),
            Err(error) => Some(unavailable(&error)),
        }
    }

    async fn post(&self, request: Request) -> Response {
        let arrived = Instant::now();
        let open = self.drain.enter();
        let (parts, body) = request.into_parts();
        let body = match read(body).await {
            Ok(body) => body,
            Err(unread) => return unread.answer(),
        };
        if let Some(call) = DirectCall::of(&parts.headers, &body, &self.catalog.tools) {
            return self.serve_directly(call, parts, arrived, open).await;
        }
        Box::pin(self.serve_by_rmcp(parts, body, arrived, open)).await
    }

    /// Serves any message.
    async fn serve_by_rmcp(&self, parts: Parts, body: Bytes, arrived: Instant, open: OpenRequest) -> Response {
        let kind = message::kind(&body, &self.catalog.tools);
        if let Some(refused) = self.refusal(&parts, || message::wanted(kind, &body)).await {
            return refused;
        }
        if self.guard.reads_requests() && !message::is_clear(kind, &body) {
            return unreadable::answer(&body).map(Body::new);
        }
        let names_session = text(&parts.headers, headers::SESSION_ID).is_some();
        let caller = parts.extensions.get::<Arc<Principal>>().filter(|_| !names_session);
        let caller = caller.cloned();
        let is_opening = !names_session && kind.is_initialize();
        let id = is_opening.then(|| message::wanted(kind, &body).id);
        let request = http::Request::from_parts(parts, body);
        let response = self.pass_on(kind, request, arrived, open).await;
        if let Some(id) = id
            && response.status() == StatusCode::BAD_REQUEST
            && !is_json(response.headers())
        {
            // rmcp says that a session is missing.
            let message = "the parameters are not what initialize takes";
            let (code, status) = (ErrorCode::INVALID_PARAMS.0, StatusCode::BAD_REQUEST);
            return refused_with(code, status, "invalid_params", message, &id);
        }
        if let (Some(caller), Some(opened)) = (caller, text(response.headers(), headers::SESSION_ID))
            && let Err(error) = self.sessions.opened_by(opened, &caller.subject).await
        {
            return unavailable(&error);
        }
        response
    }

    /// Gives a message that may pass what its kind needs, and then to rmcp.
    async fn pass_on(
        &self,
        kind: Kind,
        mut request: http::Request<Bytes>,
        arrived: Instant,
        open: OpenRequest,
    ) -> Response {
        match kind {
            Kind::Request { .. } if kind.is_initialize() && weight(request.body()) > INITIALIZE_MAX => {
                let id = message::wanted(kind, request.body()).id;
                let message = "initialize takes more than 64 KiB of memory; say less of the client";
                refused(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", message, &id)
            }
            Kind::Listen if weight(request.body()) > LISTEN_MAX => {
                let id = message::wanted(kind, request.body()).id;
                let message = "a subscription takes more than 2 MiB of memory; follow fewer resources at once";
                refused(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", message, &id)
            }
            Kind::Request { .. } | Kind::Listen
                if kind.stays() && !self.memory.admits(STAY_BYTES + weight(request.body())) =>
            {
                let id = message::wanted(kind, request.body()).id;
                let message = "this server has no memory for another session or subscription now";
                let (seconds, status) = (STAYS_SECONDS, StatusCode::SERVICE_UNAVAILABLE);
                refused_for(seconds, status, "memory_full", message, &id)
            }
            Kind::Request { method, tool } => {
                let version = text(request.headers(), headers::PROTOCOL_VERSION);
                let operation = Operation {
                    method,
                    tool,
                    protocol_version: message::protocol_version(version),
                };
                let followed = Followed::of(request.extensions(), request.headers());
                let carried = carried_in(request.body());
                let observed = self.observer.begin(operation, followed, carried, arrived);
                let body = request.body().clone();
                let worked = self.work(observed, arrived, open, |record| {
                    request.extensions_mut().insert(record);
                    self.hand_over(request)
                });
                let why = |unanswered: Unanswered| unanswered.answer(&message::wanted(kind, &body).id);
                worked.await.unwrap_or_else(why)
            }
            Kind::Listen => {
                if !keep_body(request.extensions()) {
                    let id = message::wanted(kind, request.body()).id;
                    let message = "the open subscriptions take too much memory together; follow fewer resources";
                    let (seconds, status) = (STAYS_SECONDS, StatusCode::SERVICE_UNAVAILABLE);
                    return refused_for(seconds, status, "subscriptions_too_large", message, &id);
                }
                drop(open);
                self.hand_over(request).await.map(Body::new)
            }
            Kind::Light if request.body().len() > LIGHT_MAX => {
                let id = message::wanted(kind, request.body()).id;
                let message = "an answer or a notification is larger than 1 MiB";
                refused(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", message, &id)
            }
            Kind::Light => self
                .hand_over(request)
                .await
                .map(|body| Body::new(Answer::of_message(body, open))),
        }
    }

    /// Serves a call that needs nothing of rmcp.
    async fn serve_directly(&self, call: DirectCall, parts: Parts, arrived: Instant, open: OpenRequest) -> Response {
        if let Some(refused) = self.guard.refuse(&parts, || call.wanted()).await {
            return refused;
        }
        let followed = Followed::of(&parts.extensions, &parts.headers);
        let observed = self.observer.begin(call.operation(), followed, call.carried, arrived);
        let id = call.wanted().id;
        let worked = self.work(observed, arrived, open, |record| async move {
            let (outcome, response) = call.run(&self.catalog.tools, parts, &self.stop).await;
            record.handled(outcome);
            response.map(BodyExt::boxed)
        });
        worked.await.unwrap_or_else(|why| why.answer(&id))
    }

    /// Gives what `run` begins a slot and a time limit, and follows its answer to the end.
    ///
    /// # Errors
    /// [`Unanswered`]: there is no slot, and nothing has begun then; or the time limit is over.
    pub(super) async fn work<Running>(
        &self,
        observed: Observed,
        arrived: Instant,
        open: OpenRequest,
        run: impl FnOnce(Arc<Record>) -> Running,
    ) -> Result<Response, Unanswered>
    where
        Running: Future<Output = http::Response<BoxBody<Bytes, Infallible>>>,
    {
        let kind = observed.operation().tool_label();
        // Made before the wait: it counts what is refused, and what its client gives up meanwhile.
        let record = Arc::new(Record::new(observed));
        let deadline = arrived + REQUEST_MAX;
        let too_late = |_: Elapsed| {
            record.timed_out();
            Unanswered::TimedOut
        };
        let admitted = timeout_at(deadline, self.admission.admit(kind)).await;
        record.admitted(admitted.map_err(too_late)??);
        let response = timeout_at(deadline, run(Arc::clone(&record))).await.map_err(too_late)?;
        let status = response.status();
        Ok(response.map(|body| Body::new(Answer::of_request(body, record, status, open, deadline))))
    }

    /// A stream for messages to a client up to 2025-11-25. It holds no slot and does not hold up the drain.
    async fn stream(&self, request: Parts) -> Response {
        self.drain.arrival();
        if let Some(refused) = self.refusal(&request, || message::wanted(Kind::Light, b"")).await {
            return refused;
        }
        let headers = &request.headers;
        if let Some(version) = text(headers, headers::PROTOCOL_VERSION)
            && !message::is_revision(version)
        {
            let message = format!("there is no revision {version} of the protocol");
            return (StatusCode::BAD_REQUEST, message).into_response();
        }
        if !accepts_events(headers) {
            return (StatusCode::NOT_ACCEPTABLE, "the client must accept text/event-stream").into_response();
        }
        let Some(session) = text(headers, headers::SESSION_ID) else {
            return (StatusCode::BAD_REQUEST, "the header Mcp-Session-Id is missing").into_response();
        };
        let is_known = if self.sessions.is_here(session).await {
            Ok(true)
        } else {
            self.sessions.records().exists(session).await
        };
        let is_known = match is_known {
            Ok(is_known) => is_known,
            Err(error) => return unavailable(&error),
        };
        if !is_known {
            return (StatusCode::NOT_FOUND, NO_SESSION).into_response();
        }
        let last = text(headers, headers::LAST_EVENT_ID);
        let begins_empty = takes_empty_events(headers);
        let (drain, again) = (self.drain.begun(), until_asked_again(&request.extensions));
        let end = async move {
            tokio::select! {
                () = drain => {}
                () = again => {}
            }
        };
        self.sessions.stream(session, last, begins_empty, end)
    }

    /// The end of a session of a client up to 2025-11-25, in a task of its own: a client that ends a session often goes
    /// away without waiting for the answer.
    async fn end_session(self: &Arc<Self>, request: Request) -> Response {
        let this = Arc::clone(self);
        let ending = tokio::spawn(async move {
            let open = this.drain.enter();
            let (parts, body) = request.into_parts();
            if let Some(refused) = this.refusal(&parts, || message::wanted(Kind::Light, b"")).await {
                return refused;
            }
            let session = text(&parts.headers, headers::SESSION_ID).map(str::to_owned);
            let response = this.service.handle(http::Request::from_parts(parts, body)).await;
            if let (Some(session), true) = (session, response.status().is_success())
                && let Err(error) = this.sessions.ended(&session).await
            {
                return unavailable(&error);
            }
            response.map(|body| Body::new(Answer::of_message(body, open)))
        });
        ending
            .await
            .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }

    /// Gives a POST to rmcp.
    async fn hand_over(&self, request: http::Request<Bytes>) -> http::Response<BoxBody<Bytes, Infallible>> {
        let session = text(request.headers(), headers::SESSION_ID).map(str::to_owned);
        let _turn = match &session {
            Some(id) => self.restoring.turn(&self.sessions, id).await,
            None => None,
        };
        let body = is_json(request.headers()).then(|| request.body().clone());
        let response = self.service.handle(request.map(Full::new)).await;
        // A session that is in use does not leave memory: its client has ended it while this request was on its way.
        if response.status() == StatusCode::INTERNAL_SERVER_ERROR
            && let Some(id) = session
            && !self.sessions.is_here(&id).await
        {
            // Only who is told that there is none opens another, and loses what it follows.
            return match self.sessions.records().exists(&id).await {
                Ok(false) => said(StatusCode::NOT_FOUND, NO_SESSION),
                Ok(true) => said(StatusCode::SERVICE_UNAVAILABLE, NOT_RESTORED),
                Err(error) => {
                    tracing::warn!(%error, "cannot look for a session");
                    said(StatusCode::SERVICE_UNAVAILABLE, NOT_RESTORED)
                }
            };
        }
        match body {
            // The type was right, so it is the content that rmcp could not read.
            Some(body) if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE => unreadable::answer(&body),
            _ => response,
        }
    }
}

/// An answer of rmcp's kind that is a sentence.
fn said(status: StatusCode, message: &'static str) -> http::Response<BoxBody<Bytes, Infallible>> {
    let mut response = http::Response::new(Full::from(message).boxed());
    *response.status_mut() = status;
    response
}

fn unavailable(error: &DatabaseError) -> Response {
    tracing::warn!(%error, "cannot look for a session");
    let message = "the server cannot look for the session; try again";
    (StatusCode::SERVICE_UNAVAILABLE, message).into_response()
}

/// Whether the request says that it is one of 2026-07-28 or later.
fn is_modern(headers: &HeaderMap) -> bool {
    text(headers, headers::PROTOCOL_VERSION).is_some_and(|version| version >= ProtocolVersion::V_2026_07_28.as_str())
}

/// Whether the body is said to be JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let name = text(headers, CONTENT_TYPE).and_then(|value| value.split(';').next());
    name.is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json"))
}

/// Why a request that may pass has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// It got no slot.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// It took longer than [`REQUEST_MAX`].
    #[error("no answer within 2 min; the call was given up")]
    TimedOut,
}

impl Unanswered {
    /// The answer to a client of MCP.
    fn answer(&self, id: &Value) -> Response {
        let message = self.to_string();
        match self {
            Self::Overloaded(_) => {
                let seconds = u64::from(RETRY_AFTER_SECONDS);
                refused_for(seconds, StatusCode::SERVICE_UNAVAILABLE, "overloaded", &message, id)
            }
            Self::TimedOut => refused(StatusCode::GATEWAY_TIMEOUT, "timed_out", &message, id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<F>(_: impl FnOnce(Arc<Endpoint>, Request) -> F) -> usize {
        size_of::<F>()
    }

    /// Whatever the endpoint's future carries along, every call moves: with the way to rmcp in it, 13 KiB.
    #[test]
    fn a_short_call_carries_no_long_way() {
        let size = future_size(Endpoint::answer);
        assert!(size < 6 * 1024, "{size} bytes");
    }
}
