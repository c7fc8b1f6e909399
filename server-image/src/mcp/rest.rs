//! The REST shim: `POST /mcp/tool/<name>` for programs that speak no MCP. The body is the tool's arguments, the answer
//! is the tool's result object. It goes through the same admission, metrics, guard and drain as a call over MCP.
//!
//! A page of the Internet can make a browser send a POST without asking first, but not with a body of type
//! `application/json`, and not with another `Host` and `Origin` than its own: so the shim insists on all three.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::post;
use futures::FutureExt;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full};
use rmcp::model::{CallToolRequestParams, CallToolResponse, ErrorCode};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::body::{BODY_MAX, Unread, read};
use super::called;
use super::endpoint::{Endpoint, Unanswered, is_json};
use crate::admission::RETRY_AFTER_SECONDS;
use crate::auth::refusal::Refused;
use crate::drain::OpenRequest;
use crate::guard::Wanted;
use crate::metrics::requests::{Operation, Outcome};
use crate::telemetry::Followed;
use crate::tools::{CallContext, Called, INVALID, ToolError};
use crate::transport::{OutOfMemory, RETRY_SECONDS};

/// Value of the label `mcp_protocol_version` for calls that came through the shim.
const VERSION: &str = "rest";

impl Endpoint {
    /// The shim beside the endpoint at `path`. What stands before it, in `protect`, is worded as its own answers are.
    pub fn rest_router(self: Arc<Self>, path: &str, protect: impl FnOnce(Router) -> Router) -> Router {
        let tools = post(answer).fallback(not_a_post);
        let router = Router::new()
            .route(&format!("{path}/tool/{{name}}"), tools)
            .with_state(self);
        protect(router).layer(map_response(in_one_form))
    }

    async fn rest(&self, name: &str, request: Request) -> Response {
        let arrived = Instant::now();
        let open = self.drain.enter();
        let (parts, body) = request.into_parts();
        if let Err(refused) = self.names.check(&parts.uri, &parts.headers) {
            return *refused;
        }
        let Some(tool) = self.catalog.tools.known_name(name) else {
            return failed(StatusCode::NOT_FOUND, unknown_tool(name));
        };
        let wanted = || Wanted {
            method: "tools/call",
            tool,
            subject: String::new(),
            id: Value::Null,
        };
        if let Some(refused) = self.guard.refuse(&parts, wanted).await {
            return refused;
        }
        if !is_json(&parts.headers) {
            let error = ToolError::invalid("send the arguments as Content-Type: application/json", "Content-Type");
            return failed(StatusCode::UNSUPPORTED_MEDIA_TYPE, error);
        }
        let arguments = match read(body).await {
            Ok(body) => arguments(&body),
            Err(why) => return failed(why.status(), unread(why)),
        };
        match arguments {
            Ok(arguments) => self.call(tool, arguments, parts, arrived, open).await,
            Err(error) => failed(StatusCode::BAD_REQUEST, error),
        }
    }

    async fn call(
        &self,
        tool: &'static str,
        arguments: Map<String, Value>,
        parts: Parts,
        arrived: Instant,
        open: OpenRequest,
    ) -> Response {
        let operation = Operation {
            method: "tools/call",
            tool,
            protocol_version: VERSION,
        };
        let followed = Followed::of(&parts.extensions, &parts.headers);
        let observed = self.observer.begin(operation, followed, None, arrived);
        let response = self
            .work(observed, arrived, open, |record| async move {
                let (status, outcome, value) = self.run(tool, arguments, parts).await;
                record.handled(outcome);
                written(status, &value).map(|body| Full::from(body).boxed())
            })
            .await;
        response.unwrap_or_else(|why| unanswered(&why))
    }

    async fn run(
        &self,
        tool: &'static str,
        arguments: Map<String, Value>,
        parts: Parts,
    ) -> (StatusCode, Outcome, Value) {
        let context = CallContext::of_http(Arc::new(parts));
        let request = CallToolRequestParams::new(tool).with_arguments(arguments);
        let Some(running) = self.catalog.tools.call(request, context) else {
            let error = unknown_tool(tool);
            return (StatusCode::NOT_FOUND, Outcome::ToolError, error.into_envelope());
        };
        // A tool that panics must cost one call, not the connection.
        let Ok(called) = AssertUnwindSafe(running).catch_unwind().await else {
            let error = ToolError::internal(&Crashed).into_envelope();
            return (StatusCode::INTERNAL_SERVER_ERROR, Outcome::ServerFailure, error);
        };
        let outcome = called::outcome(&called);
        match called {
            Called::Value(value) => (StatusCode::OK, outcome, value),
            Called::Failed(error) => (status(&error), outcome, error.into_envelope()),
            Called::Whole(response) => {
                if let CallToolResponse::Complete(result) = *response {
                    return (StatusCode::OK, outcome, json!(result));
                }
                let error = ToolError::invalid("this tool asks its caller for input; call it over MCP", "name");
                (StatusCode::BAD_REQUEST, Outcome::ToolError, error.into_envelope())
            }
            Called::Refused(error) if error.code == ErrorCode::INTERNAL_ERROR => {
                let envelope = ToolError::internal(&error).into_envelope();
                (StatusCode::INTERNAL_SERVER_ERROR, outcome, envelope)
            }
            Called::Refused(error) => {
                let envelope = ToolError::invalid(error.message, "arguments").into_envelope();
                (StatusCode::BAD_REQUEST, outcome, envelope)
            }
        }
    }
}

/// A refusal that was worded for clients of MCP, in the form of a tool's error.
async fn in_one_form(response: Response) -> Response {
    let Some(Refused(message)) = response.extensions().get().cloned() else {
        return response;
    };
    let (status, headers) = (response.status(), response.headers());
    let wait = headers
        .get(RETRY_AFTER)
        .and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
    let (code, suggestion) = match status {
        StatusCode::UNAUTHORIZED => ("AUTHENTICATION_FAILED", "Send a credential that this server accepts"),
        StatusCode::FORBIDDEN => ("PERMISSION_DENIED", "Ask the administrator for what is missing"),
        StatusCode::TOO_MANY_REQUESTS => ("RATE_LIMIT_EXCEEDED", "Wait for the time in Retry-After"),
        StatusCode::SERVICE_UNAVAILABLE => ("SYSTEM_UNAVAILABLE", "Try again in a few seconds"),
        _ => (INVALID, "Correct the request and send it again"),
    };
    let mut error = ToolError::new(code, message, &[suggestion]);
    if let Some(seconds) = wait {
        error = error.with_context(json!({"retry_after_seconds": seconds}));
    }
    let mut worded = failed(status, error);
    for name in [RETRY_AFTER, WWW_AUTHENTICATE, CACHE_CONTROL, CONNECTION] {
        if let Some(value) = headers.get(&name) {
            worded.headers_mut().insert(name, value.clone());
        }
    }
    worded
}

async fn not_a_post() -> Response {
    let error = ToolError::invalid("tools are called with POST", "method");
    failed(StatusCode::METHOD_NOT_ALLOWED, error)
}

async fn answer(
    State(endpoint): State<Arc<Endpoint>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let Ok(Path(name)) = name else {
        return failed(StatusCode::NOT_FOUND, unknown_tool("that is no text"));
    };
    let mut response = endpoint.rest(&name, request).await;
    if endpoint.drain.has_begun() {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The arguments in a body; none for an empty one.
fn arguments(body: &[u8]) -> Result<Map<String, Value>, ToolError> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(body)
        .map_err(|error| ToolError::invalid(format!("the body must be a JSON object: {error}"), "body"))
}

fn unknown_tool(name: &str) -> ToolError {
    ToolError::new(
        "TOOL_NOT_FOUND",
        format!("there is no tool {name:?}"),
        &["tools/list over MCP names all tools"],
    )
}

/// The error of a call whose body is not there.
fn unread(why: Unread) -> ToolError {
    let message = why.to_string();
    match why {
        Unread::TooLong => ToolError::new("CONTENT_TOO_LARGE", message, &["Split it into several calls"])
            .with_context(json!({"field": "body", "max": BODY_MAX})),
        Unread::TooSlow => ToolError::new("REQUEST_TIMEOUT", message, &["Send it again, without pauses"]),
        Unread::Broken => ToolError::invalid(message, "body"),
        Unread::OutOfMemory(OutOfMemory::TooManyValues) => {
            ToolError::new("CONTENT_TOO_LARGE", message, &["Split it into several calls"])
                .with_context(json!({"field": "body"}))
        }
        Unread::OutOfMemory(OutOfMemory::TooManyBodies) => {
            ToolError::internal(&why).with_context(json!({"retry_after_seconds": RETRY_SECONDS}))
        }
    }
}

/// The answer to a call that got no slot, or did not end in time.
fn unanswered(why: &Unanswered) -> Response {
    if matches!(why, Unanswered::TimedOut) {
        let error = ToolError::new("REQUEST_TIMEOUT", why.to_string(), &["Ask for less at once"]);
        return failed(StatusCode::GATEWAY_TIMEOUT, error);
    }
    let error = ToolError::internal(why).with_context(json!({"retry_after_seconds": RETRY_AFTER_SECONDS}));
    failed(StatusCode::SERVICE_UNAVAILABLE, error)
}

fn failed(status: StatusCode, error: ToolError) -> Response {
    written(status, &error.into_envelope()).map(Body::from)
}

/// The answer with `value`; where that names a time to wait, with the header for it.
fn written(status: StatusCode, value: &Value) -> http::Response<String> {
    let mut response = http::Response::new(value.to_string());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(wait) = value["context"]["retry_after_seconds"].as_u64() {
        headers.insert(RETRY_AFTER, HeaderValue::from(wait));
    }
    response
}

/// A tool that panicked.
#[derive(Debug, thiserror::Error)]
#[error("the tool crashed; this is a bug of the server")]
struct Crashed;

/// The HTTP status that says the same as an error's code.
fn status(error: &ToolError) -> StatusCode {
    if error.is_server_failure() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    match error.code() {
        "INVALID_API_KEY" | "INVALID_TOKEN_FORMAT" | "TOKEN_AUTHENTICATION_FAILED" | "TOKEN_REFRESH_FAILED" => {
            StatusCode::UNAUTHORIZED
        }
        "PERMISSION_DENIED" => StatusCode::FORBIDDEN,
        "KEY_EXISTS" | "SESSION_CLOSED" => StatusCode::CONFLICT,
        "CONTENT_TOO_LARGE" => StatusCode::PAYLOAD_TOO_LARGE,
        code if code.ends_with("_NOT_FOUND") => StatusCode::NOT_FOUND,
        code if code.ends_with("_LIMIT_EXCEEDED") => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::BAD_REQUEST,
    }
}
