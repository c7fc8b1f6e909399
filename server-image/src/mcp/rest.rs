//! The REST shim: `POST /mcp/tool/<name>` for programs that speak no MCP. The body is the tool's arguments, the answer
//! is the tool's result object. It goes through the same admission, metrics, guard and drain as a call over MCP.
//!
//! A page of the Internet can make a browser send a POST without asking first, but not with a body of type
//! `application/json`, and not with another `Host` and `Origin` than its own: so the shim insists on all three.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::FutureExt;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full};
use rmcp::model::{CallToolRequestParams, CallToolResponse};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::called;
use super::endpoint::{BODY_MAX, Endpoint, Unread, is_json, read};
use crate::admission::{Overloaded, RETRY_AFTER_SECONDS};
use crate::drain::OpenRequest;
use crate::guard::Wanted;
use crate::metrics::requests::{Operation, Outcome};
use crate::telemetry::Followed;
use crate::tools::{CallContext, Called, ToolError};

/// Value of the label `mcp_protocol_version` for calls that came through the shim.
const VERSION: &str = "rest";

impl Endpoint {
    /// The shim beside the endpoint at `path`.
    pub fn rest_router(self: Arc<Self>, path: &str) -> Router {
        Router::new()
            .route(&format!("{path}/tool/{{name}}"), post(answer))
            .with_state(self)
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
                let mut response = http::Response::new(Full::from(value.to_string()));
                *response.status_mut() = status;
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                if let Some(wait) = value["context"]["retry_after_seconds"].as_u64() {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
                }
                response.map(BodyExt::boxed)
            })
            .await;
        response.unwrap_or_else(|why| overloaded(&why))
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
            let error = json!({"success": false, "error": "the tool crashed; this is a bug of the server"});
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
            Called::Refused(error) => (StatusCode::BAD_REQUEST, outcome, json!(error)),
        }
    }
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, Path(name): Path<String>, request: Request) -> Response {
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
    }
}

/// The answer to a call that got no slot.
fn overloaded(why: &Overloaded) -> Response {
    let error = ToolError::internal(why).with_context(json!({"retry_after_seconds": RETRY_AFTER_SECONDS}));
    let mut response = failed(StatusCode::SERVICE_UNAVAILABLE, error);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}

fn failed(status: StatusCode, error: ToolError) -> Response {
    (status, Json(error.into_envelope())).into_response()
}

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
