//! The bytes of MCP requests, prepared so that little is left to do per request.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::Bytes;
use serde_json::{Value, json};

/// The revision that modern clients speak.
pub(crate) const MODERN_VERSION: &str = "2026-07-28";
/// The revision that legacy clients ask for.
pub(crate) const LEGACY_VERSION: &str = "2025-11-25";

pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// A request that only lacks its arguments and its id.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    before_arguments: String,
    between: &'static str,
    pub(crate) headers: HeaderMap,
}

impl Template {
    /// `tools/call` of the modern era: it carries all a server has to know.
    pub(crate) fn modern_call(tool: &str) -> Self {
        let name = json!(tool);
        let mut headers = modern_headers("tools/call");
        // Plan validation admits only tool names that are valid header values.
        headers.extend(HeaderValue::from_str(tool).ok().map(|value| (NAME, value)));
        Self {
            before_arguments: format!(
                r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{"_meta":{},"name":{name},"arguments":"#,
                modern_meta()
            ),
            between: r#"},"id":"#,
            headers,
        }
    }

    /// `tools/call` within a session; the session's headers are added by the session.
    pub(crate) fn legacy_call(tool: &str) -> Self {
        let name = json!(tool);
        Self {
            before_arguments: format!(
                r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{"name":{name},"arguments":"#
            ),
            between: r#"},"id":"#,
            headers: HeaderMap::new(),
        }
    }

    /// The body for these arguments (JSON text) and this id.
    pub(crate) fn body(&self, arguments: &str, id: u64) -> Bytes {
        let id = id.to_string();
        let mut body =
            String::with_capacity(self.before_arguments.len() + arguments.len() + self.between.len() + id.len() + 1);
        body.push_str(&self.before_arguments);
        body.push_str(arguments);
        body.push_str(self.between);
        body.push_str(&id);
        body.push('}');
        body.into()
    }
}

/// `tools/list` in the form of the given era, with the headers that go with it (a session's come on top).
pub(crate) fn list_tools(modern: bool, id: u64) -> (HeaderMap, Bytes) {
    let (headers, params) = if modern {
        (modern_headers("tools/list"), json!({"_meta": modern_meta()}))
    } else {
        (HeaderMap::new(), json!({}))
    };
    (
        headers,
        text(&json!({"jsonrpc": "2.0", "id": id, "method": "tools/list", "params": params})),
    )
}

/// The request that opens a legacy session.
pub(crate) fn initialize(id: u64) -> (HeaderMap, Bytes) {
    let params = json!({"protocolVersion": LEGACY_VERSION, "capabilities": {}, "clientInfo": client_info()});
    (
        plain_headers(),
        text(&json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": params})),
    )
}

/// The notification that completes the opening of a legacy session.
pub(crate) fn initialized() -> Bytes {
    text(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
}

/// The headers of every request within a session; a stateless server gives none, so it may be without an id.
pub(crate) fn session_headers(session: Option<HeaderValue>, initialize_answer: &[u8]) -> HeaderMap {
    let answer: Value = serde_json::from_slice(initialize_answer).unwrap_or_default();
    let agreed = answer.pointer("/result/protocolVersion").and_then(Value::as_str);
    let version = agreed.and_then(|version| HeaderValue::from_str(version).ok());
    let mut headers = plain_headers();
    headers.insert(
        PROTOCOL_VERSION,
        version.unwrap_or(HeaderValue::from_static(LEGACY_VERSION)),
    );
    headers.extend(session.map(|id| (SESSION_ID, id)));
    headers
}

fn modern_headers(method: &'static str) -> HeaderMap {
    let mut headers = plain_headers();
    headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(MODERN_VERSION));
    headers.insert(METHOD, HeaderValue::from_static(method));
    headers
}

fn plain_headers() -> HeaderMap {
    HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (ACCEPT, HeaderValue::from_static("application/json, text/event-stream")),
    ])
}

fn modern_meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": client_info(),
    })
}

fn client_info() -> Value {
    json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")})
}

fn text(message: &Value) -> Bytes {
    message.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of the modern era refuses a request whose headers and body disagree (-32020).
    #[test]
    fn a_modern_call_says_the_same_in_headers_and_body() {
        let template = Template::modern_call("simulate_work");
        let body: Value = serde_json::from_slice(&template.body(r#"{"io_ms":20}"#, 42)).unwrap();
        assert_eq!(body["id"], 42);
        assert_eq!(body["params"]["arguments"], json!({"io_ms": 20}));
        assert_eq!(template.headers[METHOD], body["method"].as_str().unwrap());
        assert_eq!(template.headers[NAME], body["params"]["name"].as_str().unwrap());
        let version = body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"]
            .as_str()
            .unwrap();
        assert_eq!(template.headers[PROTOCOL_VERSION], version);
        assert!(body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"].is_object());
    }

    #[test]
    fn a_legacy_call_carries_nothing_of_the_modern_era() {
        let template = Template::legacy_call("echo");
        let body: Value = serde_json::from_slice(&template.body("{}", 1)).unwrap();
        assert_eq!(
            body,
            json!({"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo","arguments":{}},"id":1})
        );
        assert!(template.headers.is_empty());
    }

    #[test]
    fn a_session_speaks_the_version_the_server_agreed_to() {
        let answer = br#"{"id":1,"result":{"protocolVersion":"2025-06-18"}}"#;
        let headers = session_headers(Some(HeaderValue::from_static("abc")), answer);
        assert_eq!(headers[PROTOCOL_VERSION], "2025-06-18");
        assert_eq!(headers[SESSION_ID], "abc");
        assert!(!session_headers(None, answer).contains_key(SESSION_ID));
    }
}
