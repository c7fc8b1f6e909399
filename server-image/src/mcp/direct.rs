//! The short way for most requests: a tool call of a client of 2026-07-28 that asks for nothing but the tool.
//!
//! rmcp can do everything that the protocol has, and takes two tasks, several channels and three copies of the message
//! for it. A request that is beyond doubt needs none of that. This decides for no request that it is wrong: whatever is
//! not exactly as expected goes to rmcp, and what both answer is the same byte for byte.

use std::fmt;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Bytes;
use futures::FutureExt;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::Full;
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, JsonObject, RequestId, ServerJsonRpcMessage, ServerResult,
};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::accept::{self, Form};
use super::called;
use super::headers::{self, only};
use super::message::TOOLS_CALL;
use crate::guard::Wanted;
use crate::metrics::requests::{Operation, Outcome};
use crate::telemetry::TraceContext;
use crate::tools::{CallContext, Called, ToolRegistry};

/// The revision of the protocol whose requests carry all that a server must know.
const VERSION: &str = "2026-07-28";

/// Longest body that is read before there is a slot for it, in bytes. A parsed message takes many times its length, and
/// with a long one the way it takes makes no difference to the time.
const LONGEST: usize = 16 * 1024;

/// A tool call that needs nothing of rmcp.
#[derive(Debug)]
pub(super) struct DirectCall {
    id: RequestId,
    tool: &'static str,
    arguments: Option<JsonObject>,
    /// The trace context in its `_meta`.
    pub(super) carried: Option<TraceContext>,
    form: Form,
}

/// What JSON has as an object. Serde alone would read a struct from an array, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    jsonrpc: &'a str,
    id: RequestId,
    method: &'a str,
    #[serde(borrow)]
    params: Object<Params<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params<'a> {
    name: &'a str,
    arguments: Option<JsonObject>,
    #[serde(borrow, rename = "_meta")]
    meta: Object<Meta<'a>>,
}

/// Other keys say nothing to a tool that sees only its arguments.
#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    version: &'a str,
    #[serde(rename = "io.modelcontextprotocol/clientCapabilities")]
    _capabilities: ClientCapabilities,
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
}

impl DirectCall {
    /// The call in a POST, if it is one.
    pub(super) fn of(headers: &HeaderMap, body: &[u8], tools: &ToolRegistry) -> Option<Self> {
        let is_expected = body.len() <= LONGEST
            && only(headers, headers::PROTOCOL_VERSION) == Some(VERSION)
            && only(headers, headers::METHOD) == Some(TOOLS_CALL)
            && only(headers, CONTENT_TYPE) == Some("application/json");
        if !is_expected {
            return None;
        }
        let tool = tools.plain_name(only(headers, headers::NAME)?)?;
        let form = accept::form(headers)?;
        let Object(Message {
            jsonrpc,
            id,
            method,
            params: Object(params),
        }) = serde_json::from_str(std::str::from_utf8(body).ok()?).ok()?;
        let Object(meta) = params.meta;
        let is_agreed = jsonrpc == "2.0" && method == TOOLS_CALL && params.name == tool && meta.version == VERSION;
        is_agreed.then(|| Self {
            id,
            tool,
            arguments: params.arguments,
            carried: meta.traceparent.and_then(TraceContext::of_json),
            form,
        })
    }

    /// How it is counted.
    pub(super) const fn operation(&self) -> Operation {
        Operation {
            method: TOOLS_CALL,
            tool: self.tool,
            protocol_version: VERSION,
        }
    }

    /// What it asks for.
    pub(super) fn wanted(&self) -> Wanted<'static> {
        Wanted {
            method: TOOLS_CALL,
            tool: self.tool,
            subject: String::new(),
            id: self.id.clone().into_json_value(),
        }
    }

    /// Runs it, until `stop`. Dropping the future, as when the client goes away, stops the tool.
    pub(super) async fn run(
        self,
        tools: &ToolRegistry,
        parts: Parts,
        stop: &CancellationToken,
    ) -> (Outcome, http::Response<Full<Bytes>>) {
        let mut request = CallToolRequestParams::new(self.tool);
        request.arguments = self.arguments;
        let Some(running) = tools.call(request, CallContext::of_http(Arc::new(parts))) else {
            return unanswered();
        };
        let called = match stop.run_until_cancelled(AssertUnwindSafe(running).catch_unwind()).await {
            Some(Ok(called)) => called,
            Some(Err(_)) => Called::Refused(called::crashed()),
            None => return unanswered(),
        };
        let outcome = called::outcome(&called);
        let message = match called::answer(called) {
            Ok(response) => ServerJsonRpcMessage::response(ServerResult::from(response), self.id),
            Err(error) => ServerJsonRpcMessage::error(error, Some(self.id)),
        };
        match written(&message, self.form) {
            Ok(response) => (outcome, response),
            Err(error) => {
                tracing::error!(%error, "an answer cannot be written as JSON");
                unanswered()
            }
        }
    }
}

fn written(message: &ServerJsonRpcMessage, form: Form) -> serde_json::Result<http::Response<Full<Bytes>>> {
    let mut body = Vec::with_capacity(512);
    if form == Form::Events {
        body.extend_from_slice(b"data: ");
    }
    serde_json::to_writer(&mut body, message)?;
    let mut response = http::Response::new(Full::default());
    let headers = response.headers_mut();
    match form {
        Form::Json => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Form::Events => {
            body.extend_from_slice(b"\n\n");
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        }
    }
    *response.body_mut() = Full::new(body.into());
    Ok(response)
}

/// The answer when there is none, which is what rmcp says then.
fn unanswered() -> (Outcome, http::Response<Full<Bytes>>) {
    let mut response = http::Response::new(Full::new(Bytes::from_static(
        b"the server ended before it had an answer; try again",
    )));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    (Outcome::HttpError(500), response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures;
    use http::HeaderName;

    const HEADERS: [(&str, &str); 5] = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo"),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
    ];
    const BODY: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"a"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"x":1}}}"#;

    fn is_direct(headers: impl IntoIterator<Item = (&'static str, &'static str)>, body: &str) -> bool {
        let mut tools = ToolRegistry::default();
        fixtures::register(&mut tools).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        DirectCall::of(&map, body.as_bytes(), &tools).is_some()
    }

    /// What takes the long way costs five times as much; what takes the short way and should not escapes rmcp's checks.
    #[test]
    fn only_calls_beyond_doubt_take_the_short_way() {
        assert!(is_direct(HEADERS, BODY));
        for (name, from, to, expected) in [
            ("an id that is a text", r#""id":1"#, r#""id":"a""#, true),
            ("no arguments", r#""arguments":{"text":"a"},"#, "", true),
            (
                "a trace",
                r#""x":1"#,
                r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01""#,
                true,
            ),
            ("null as id", r#""id":1"#, r#""id":null"#, false),
            ("no id", r#""id":1,"#, "", false),
            ("another method", "tools/call", "tools/list", false),
            ("another version of JSON-RPC", r#""2.0""#, r#""1.0""#, false),
            (
                "another tool than the header's",
                r#""name":"echo""#,
                r#""name":"simulate_work""#,
                false,
            ),
            ("two names", r#""name":"echo""#, r#""name":"echo","name":"echo""#, false),
            ("arguments that are a list", r#"{"text":"a"}"#, r#"["a"]"#, false),
            (
                "another round",
                r#""name":"echo""#,
                r#""name":"echo","requestState":"a""#,
                false,
            ),
            ("a task", r#""name":"echo""#, r#""name":"echo","task":{}"#, false),
            (
                "another revision",
                r#"protocolVersion":"2026-07-28"#,
                r#"protocolVersion":"2025-11-25"#,
                false,
            ),
            (
                "capabilities that are none",
                r#"clientCapabilities":{}"#,
                r#"clientCapabilities":7"#,
                false,
            ),
            (
                "no capabilities",
                r#""io.modelcontextprotocol/clientCapabilities":{},"#,
                "",
                false,
            ),
            ("an unknown member", r#""id":1"#, r#""id":1,"x":1"#, false),
            ("not JSON", "}}}", "}}", false),
            (
                "a list for a message",
                BODY,
                r#"["2.0",1,"tools/call",{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}]"#,
                false,
            ),
            (
                "a list for its parameters",
                &BODY[BODY.find(r#"{"name"#).unwrap()..BODY.len() - 1],
                r#"["echo",{"text":"a"},{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}]"#,
                false,
            ),
            (
                "a list for its meta",
                &BODY[BODY.find(r#"{"io."#).unwrap()..BODY.len() - 2],
                r#"["2026-07-28",{},null]"#,
                false,
            ),
            (
                "a long body",
                r#""text":"a""#,
                &format!(r#""text":"{}""#, "a".repeat(LONGEST)),
                false,
            ),
        ] {
            assert!(BODY.contains(from), "{name}");
            assert_eq!(is_direct(HEADERS, &BODY.replacen(from, to, 1)), expected, "{name}");
        }
    }

    #[test]
    fn headers_must_be_there_once_and_as_expected() {
        for (name, _) in HEADERS {
            let without = HEADERS.into_iter().filter(|(one, _)| *one != name);
            assert!(!is_direct(without, BODY), "without {name}");
        }
        for (name, value) in [
            ("mcp-name", "echo"),
            ("mcp-method", "tools/call"),
            ("mcp-protocol-version", "2025-11-25"),
        ] {
            assert!(
                !is_direct(HEADERS.into_iter().chain([(name, value)]), BODY),
                "{name} twice"
            );
        }
    }

    #[test]
    fn the_revision_is_one_that_rmcp_knows() {
        assert_eq!(VERSION, rmcp::model::ProtocolVersion::V_2026_07_28.as_str());
    }
}
