//! A small MCP client of both eras, which shows what is on the wire.

use std::sync::atomic::{AtomicU32, Ordering};

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// A client of one server; connections are kept open.
#[derive(Clone)]
pub struct Client {
    url: String,
    http: reqwest::Client,
}

impl Client {
    /// A client of the endpoint at `url`.
    pub fn new(url: String) -> Self {
        Self {
            url,
            http: reqwest::Client::new(),
        }
    }

    /// A client with a connection of the test's choice.
    pub const fn with_http(url: String, http: reqwest::Client) -> Self {
        Self { url, http }
    }

    /// The endpoint's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same client with more headers on each request.
    pub fn with_headers(&self, headers: reqwest::header::HeaderMap) -> Self {
        Self {
            url: self.url.clone(),
            http: reqwest::Client::builder().default_headers(headers).build().unwrap(),
        }
    }

    /// The same client with a bearer token on each request.
    pub fn with_token(&self, token: &str) -> Self {
        let value = format!("Bearer {token}").parse().unwrap();
        self.with_headers([(reqwest::header::AUTHORIZATION, value)].into_iter().collect())
    }

    /// A POST with what every client sends.
    pub fn post(&self) -> RequestBuilder {
        self.http
            .post(&self.url)
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
    }

    /// A GET for a stream.
    pub fn get(&self) -> RequestBuilder {
        self.http.get(&self.url).header("accept", "text/event-stream")
    }

    /// A request of a client of 2026-07-28.
    pub fn modern(&self, method: &str, mut params: Value) -> RequestBuilder {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        });
        let mut request = self
            .post()
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", method);
        if let Some(name) = params["name"].as_str().or(params["uri"].as_str()) {
            request = request.header("mcp-name", name);
        }
        request.json(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    }

    /// A tool call of a client of 2026-07-28.
    pub fn tool(&self, name: &str, arguments: &Value) -> RequestBuilder {
        self.modern("tools/call", json!({"name": name, "arguments": arguments}))
    }

    /// Calls a tool and returns the structured result, whether success or error envelope.
    pub async fn call(&self, name: &str, arguments: Value) -> Value {
        let response = self.tool(name, &arguments).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let answer: Value = response.json().await.unwrap();
        let result = &answer["result"];
        let envelope = result["structuredContent"].clone();
        assert_eq!(result["isError"] == true, envelope["success"] == false, "{answer}");
        envelope
    }

    /// Calls `simulate_work` in the background.
    pub fn work(&self, io_ms: u64) -> tokio::task::JoinHandle<Response> {
        let request = self.tool("simulate_work", &json!({"io_ms": io_ms}));
        tokio::spawn(async move { request.send().await.unwrap() })
    }

    /// A session that exists already.
    pub fn session(&self, id: String) -> LegacySession {
        LegacySession {
            client: self.clone(),
            id,
        }
    }

    /// Opens a session as clients up to 2025-11-25 do.
    pub async fn legacy_session(&self) -> LegacySession {
        self.legacy_session_with(json!({})).await
    }

    /// Opens a session of a client with these capabilities.
    pub async fn legacy_session_with(&self, capabilities: Value) -> LegacySession {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "clientInfo": {"name": "test", "version": "1"},
        });
        let request = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let response = self.post().json(&request).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let id = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        let answer = last_event(&response.text().await.unwrap());
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
        let session = LegacySession {
            client: self.clone(),
            id,
        };
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(session.post().json(&initialized).send().await.unwrap().status(), 202);
        session
    }
}

/// A session of a client up to 2025-11-25.
#[derive(Clone)]
pub struct LegacySession {
    client: Client,
    /// Value of `Mcp-Session-Id`.
    pub id: String,
}

impl LegacySession {
    /// The same session, asked at another replica.
    pub fn at(&self, other: &Client) -> Self {
        Self {
            client: other.clone(),
            id: self.id.clone(),
        }
    }

    /// A POST within the session.
    pub fn post(&self) -> RequestBuilder {
        self.with_session(self.client.post())
    }

    /// A GET stream within the session.
    pub fn get(&self) -> RequestBuilder {
        self.with_session(self.client.get())
    }

    fn with_session(&self, request: RequestBuilder) -> RequestBuilder {
        request
            .header("mcp-session-id", &self.id)
            .header("mcp-protocol-version", "2025-11-25")
    }

    /// Ends the session.
    pub async fn delete(&self) -> Response {
        let request = self.client.http.delete(&self.client.url);
        self.with_session(request).send().await.unwrap()
    }

    /// A tool call within the session.
    pub fn tool(&self, name: &str, arguments: &Value) -> RequestBuilder {
        self.request("tools/call", &json!({"name": name, "arguments": arguments}))
    }

    /// A request within the session.
    pub fn request(&self, method: &str, params: &Value) -> RequestBuilder {
        // A session tells its answers apart by id.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        self.post()
            .json(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
    }

    /// Calls a tool and returns the structured result.
    pub async fn call(&self, name: &str, arguments: Value) -> Value {
        let response = self.tool(name, &arguments).send().await.unwrap();
        assert_eq!(response.status(), 200);
        last_event(&response.text().await.unwrap())["result"]["structuredContent"].clone()
    }
}

/// The last message of an event stream.
pub fn last_event(text: &str) -> Value {
    let data = text
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(str::trim)
        .rfind(|data| !data.is_empty());
    serde_json::from_str(data.unwrap_or_else(|| panic!("no event in {text:?}"))).unwrap()
}
