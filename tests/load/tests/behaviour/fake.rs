//! MCP servers with known behaviour, for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// One HTTP request to the server.
#[derive(Clone, Debug)]
pub struct Received {
    pub http_method: Method,
    pub headers: HeaderMap,
    pub body: Value,
    /// Counts `tools/call` requests from 0.
    pub number: u64,
}

impl Received {
    pub fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// An ordinary result for this request, as JSON.
    pub fn result(&self, result: &Value) -> Response {
        json_response(&json!({"jsonrpc": "2.0", "id": self.body["id"], "result": result}))
    }

    /// The result of a tool that worked.
    pub fn done(&self) -> Response {
        self.result(&json!({"resultType": "complete", "content": [{"type": "text", "text": "done"}]}))
    }
}

pub fn json_response(message: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], message.to_string()).into_response()
}

/// A running server; dropping it stops it.
pub struct Fake {
    pub url: String,
    calls: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl Fake {
    /// How many `tools/call` requests have arrived.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

struct Server<F> {
    answer: F,
    calls: Arc<AtomicU64>,
}

/// Starts a server that answers `tools/list` by itself (unless in a session of its own making) and leaves the rest
/// to `answer`.
pub async fn serve<F, Answer>(answer: F) -> Fake
where
    F: Fn(Received) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Response> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicU64::new(0));
    let server = Arc::new(Server {
        answer,
        calls: Arc::clone(&calls),
    });
    let router = Router::new().fallback(receive::<F, Answer>).with_state(server);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        tokio::select! {
            result = async { axum::serve(listener, router).await } => result.unwrap(),
            () = stopped.cancelled() => {}
        }
    });
    Fake {
        url,
        calls,
        _stop: stop.drop_guard(),
    }
}

async fn receive<F, Answer>(
    State(server): State<Arc<Server<F>>>,
    http_method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response
where
    F: Fn(Received) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Response> + Send + 'static,
{
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let is_call = body["method"] == "tools/call";
    let number = if is_call {
        server.calls.fetch_add(1, Ordering::Relaxed)
    } else {
        0
    };
    let received = Received {
        http_method,
        headers,
        body,
        number,
    };
    match received.method() {
        "tools/list" => received.result(&tool_list()),
        _ => (server.answer)(received).await,
    }
}

fn tool_list() -> Value {
    let names = [
        "echo",
        "create_session",
        "get_session",
        "add_message",
        "get_messages",
        "set_memory",
        "get_memory",
    ];
    let tools: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "inputSchema": {"type": "object"}}))
        .collect();
    json!({"tools": tools})
}

/// The answer of a server that has too much to do.
pub fn shed() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [(header::RETRY_AFTER, "1")],
        "queue full",
    )
        .into_response()
}
